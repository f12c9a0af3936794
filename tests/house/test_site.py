"""The site: built without a warning, without a solution; its panels move without a kernel."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "tests" / "labs")]

import pages  # noqa: E402
import sentences  # noqa: E402
from browser import CHROMIUM, chromium  # noqa: E402

import idl_lab  # noqa: E402
from idl_lab import fixed_point, layer, networks, rnn, robustness, sim  # noqa: E402
from idl_lab.labs.kit import canvas, film  # noqa: E402
from idl_lab.labs.kit.panel import Panel, dropdown, slider  # noqa: E402
from idl_lab.sim import solvers  # noqa: E402

LABS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
# A text and a type have no docstring; those of idl_lab itself are shown there alone.
PUBLIC = {f"{room.__name__}.{name}" for room in (idl_lab, fixed_point, layer, networks, rnn,
                                                 robustness, sim, solvers)
          for name in room.__all__
          if name not in ("READABLE", "Map") and (room is idl_lab or name not in idl_lab.__all__)}


def code(source: str, *data: dict, tags=()) -> nbformat.NotebookNode:
    outputs = [nbformat.v4.new_output("display_data", data=bundle) for bundle in data]
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def notebook(*cells) -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook(cells=list(cells))
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


def panel() -> Panel:
    @canvas.styled
    def draw(kappa, phi, figure):
        ax = canvas.axes(figure and figure.axes[0], 8.6, 3.2)
        canvas.frame(ax, xlim=(0, 1), ylim=(0, 1.5), title="Bars")
        canvas.line(ax, "bars", *canvas.stems([0.3, 0.7], 0, [kappa, 0.8]), linewidth=60)
        canvas.words(ax, "verdict", 0.02, 0.9, f"{phi} at {kappa:.2f}")
        return ax.figure
    return Panel(draw, {"kappa": slider(0.5, 0.1, 0.9, 0.2, "κ"),
                        "phi": dropdown("relu", ("relu", "tanh"), "φ")})


def lab() -> nbformat.NotebookNode:
    """One with all that a lab's page has to deal with."""
    shown = panel()
    picture = {"image/png": base64.b64encode(shown.picture).decode(), "text/plain": shown.text}
    view = {pages.VIEW: {"model_id": "x"}, "text/plain": "Panel()"}
    return notebook(
        nbformat.v4.new_markdown_cell("# A lab\n\n" + r"$\|A\|_\infty \le 1$, $$\dots\big(x$$"),
        code("panel", {"text/html": '<span class="idl-lab-state" hidden>here</span>'},
             picture | {film.MIME: shown._film(10)}, view),
        code("record(x=1)", {pages.MIME: {"numbers": [["x", 1]]}}),
        code("def my_f(x):\n    ### BEGIN SOLUTION\n    return secret\n    ### END SOLUTION",
             {"text/plain": "secret"}),
        code("check.lab.f(my_f)", {"text/plain": "Right. secret"}))


# ---- what a page shows ---------------------------------------------------------------------------


def test_a_lab_is_a_students_with_its_film_in_the_panels_place():
    made = pages.lab_page(lab())
    first, numbers, answer, check = made.cells[1:]
    [output] = first.outputs
    assert "idl-lab-film" in output.data["text/html"] and list(output.data) == ["text/html"]
    assert not numbers.outputs and not check.outputs
    assert answer.source == "def my_f(x):\n    ..." and not answer.outputs
    assert "secret" not in nbformat.writes(made)


def test_without_a_run_a_panel_is_its_picture_with_its_words():
    made = lab()
    del made.cells[1].outputs[1].data[film.MIME]
    [output] = pages.lab_page(made).cells[1].outputs
    assert "image/png" in output.data
    assert "relu at 0.50" in made.cells[1].metadata.mystnb["image"]["alt"]


@pytest.mark.parametrize("name", LABS)
def test_no_lab_tells_its_solutions(name):
    found = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    for cell in pages.lab_page(found).cells:
        if cell.cell_type == "code":
            assert "SOLUTION" not in cell.source
            assert not (cell.outputs and cell.source.startswith("check."))


@pytest.mark.parametrize(("old", "new", "link", "seen"), [
    ("README.md", "docs/project/README.md", "docs/sim.md", "../sim.md"),
    ("README.md", "docs/project/README.md", "notebooks/02_x.ipynb", "../labs/02_x.ipynb"),
    ("README.md", "docs/project/README.md", "CONTRIBUTING.md", "CONTRIBUTING.md"),
    ("README.md", "docs/project/README.md", "figures/a.png", "../../figures/a.png"),
    ("docs/sim.md", "docs/sim.md", "../notebooks/02_x.ipynb#a", "labs/02_x.ipynb#a"),
    ("docs/sim.md", "docs/sim.md", "../README.md#b", "project/README.md#b"),
    ("docs/sim.md", "docs/sim.md", "speed.md", "speed.md"),
    ("docs/sim.md", "docs/sim.md", "https://a.example/b", "https://a.example/b"),
    ("docs/sim.md", "docs/sim.md", "#here", "#here"),
])
def test_a_link_leads_where_it_led(old, new, link, seen):
    assert pages.moved(f"a [b]({link}) c", ROOT / old, ROOT / new) == f"a [b]({seen}) c"


@pytest.mark.parametrize("tex", [r"\tfrac12", r"\dfrac12x", r"\frac{a}{b}", r"a,\dots,z", r"\dotsb",
                                 r"\big(x\big)", r"\Bigg|x", r"\bigl(x\bigr)", r"x<y>z\ \&"])
def test_formulas_as_they_are_often_written(tex):
    assert pages.mathml(tex, False).startswith("<math")
    with pytest.raises(pages.MathError):
        pages.mathml(tex + r"\nosuchcommand", False)


@pytest.mark.parametrize("name", LABS)
def test_every_formula_of_a_lab_can_be_written(name):
    cells = nbformat.read(ROOT / "notebooks" / name, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    formulas = re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.DOTALL)
    assert formulas
    for block, inline in formulas:
        assert pages.mathml(block or inline, bool(block)).startswith("<math")


# ---- the messages --------------------------------------------------------------------------------

SAID = list(sentences.sentences())
EXPLAINED = sentences.explained((ROOT / "docs" / "messages.md").read_text("utf-8"))


def test_messages_are_read_from_the_code():
    assert len(SAID) > 400
    assert any(said.text == "rank must be at most hidden_dim=…, got …." for said in SAID)
    assert sentences.Sentence("a", "", "x of 3 fell").says("x of … fell")
    assert not sentences.Sentence("a", "", "x of 3 fell").says("y of … fell")


@pytest.mark.parametrize("message", EXPLAINED)
def test_a_message_that_is_explained_is_said_by_the_code(message):
    assert any(said.says(message) for said in SAID)


@pytest.mark.parametrize("said", [said for said in SAID if said.kind == "Warning"
                                  and len(re.findall(r"\w{2,}", said.text)) > 3], ids=str)
def test_every_warning_is_explained(said):
    assert any(map(said.says, EXPLAINED)), "docs/messages.md does not explain it"


def test_every_class_of_error_and_warning_is_explained():
    page = (ROOT / "docs" / "messages.md").read_text("utf-8")
    source = "\n".join(path.read_text("utf-8") for path in sentences.PACKAGE.rglob("*.py"))
    classes = re.findall(r"^class ([A-Z]\w*)\(\w*(?:Error|Warning|Interrupt|Exception)\)", source,
                         re.MULTILINE)
    assert {"ConvergenceWarning", "ConvergenceError"} <= set(classes)
    assert [name for name in classes if f"`{name}`" not in page] == []


# ---- the site, without the labs' code ------------------------------------------------------------


def build(folder: Path, *options: str) -> Path:
    """A site in a folder of its own, with a page of a panel: the checkout's is left alone."""
    docs = folder / "docs"
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("labs", "project"))
    for path in (ROOT / "figures", ROOT / "idl_lab", ROOT / "notebooks", *ROOT.glob("*.md")):
        (folder / path.name).symlink_to(path)
    nbformat.write(pages.lab_page(lab()), docs / "panel.ipynb")
    with (docs / "index.md").open("a", encoding="utf-8") as index:
        index.write("\n```{toctree}\n\npanel\n```\n")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", *options,
         str(docs), str(folder / "site")], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("site"), "-t", "titles")


def test_it_builds_without_a_warning_and_has_every_public_name(site):
    api = "".join(page.read_text("utf-8") for page in (site / "api").glob("*.html"))
    shown = set(re.findall(r'id="(idl_lab[\w.]+)"', api))
    assert PUBLIC - shown == set()
    messages = (site / "messages.html").read_text("utf-8")
    assert "rank must be at most hidden_dim=…, got …." in messages
    assert sorted(path.stem for path in (site / "labs").iterdir()) == [name[:-6] for name in LABS]


def test_no_page_asks_a_network_for_anything(site):
    for page in site.rglob("*.html"):
        asked = re.findall(r'(?:src|srcset)="(https?:[^"]*)|<link[^>]*href="(https?:[^"]*)',
                           page.read_text("utf-8"))
        assert not asked, page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?https?:", sheet.read_text("utf-8"))


def test_formulas_need_no_script(site):
    page = (site / "panel.html").read_text("utf-8")
    assert page.count("<math") == 2 and "mathjax" not in page.lower()
    assert '<mo stretchy="false" lspace="0" rspace="0">‖</mo>' in page


# ---- in a browser --------------------------------------------------------------------------------

browsing = [pytest.mark.browser, pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("IDL_LAB_REQUIRE_BROWSER"),
    reason="no Chromium on this machine")]


def drive(browser, path: Path, width: int = 1280) -> int:
    """Move each control of each panel of a page by keyboard and mouse; how many pictures changed.

    Fails on a complaint of the console, and on any request that leaves the site.
    """
    page = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    moved = 0
    for moving in page.locator(".idl-lab-film").all():
        image = moving.locator("img")

        def state(image=image) -> tuple[str, str]:
            assert image.is_visible()
            return image.get_attribute("src"), image.get_attribute("alt")

        for control in moving.locator("input[type=range]").all():
            control.focus()
            seen = []
            for key in ("Home", "End"):
                page.keyboard.press(key)
                seen.append(state())
            control.scroll_into_view_if_needed()
            box = control.bounding_box()
            y = box["y"] + box["height"] / 2
            page.mouse.move(box["x"] + box["width"] - 2, y)
            page.mouse.down()
            page.mouse.move(box["x"] + 1, y, steps=4)
            page.mouse.up()
            seen.append(state())
            assert seen[0][1] != seen[1][1] != seen[2][1], "by keyboard, by mouse"
            moved += seen[0][0] != seen[1][0]
        for control in moving.locator("select").all():
            control.focus()
            seen = []
            for key in ("Home", "End"):
                page.keyboard.press(key)
                seen.append(state())
            assert seen[0][1] != seen[1][1]
            moved += seen[0][0] != seen[1][0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not said
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    page.close()
    return moved


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


class TestInABrowser:
    pytestmark = browsing

    @pytest.mark.parametrize("width", [390, 1280])
    def test_a_panel_moves_by_mouse_and_keyboard(self, site, browser, width):
        assert drive(browser, site / "panel.html", width) == 2

    def test_the_search_finds_a_message_on_a_disk(self, site, browser):
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.goto((site / "search.html").as_uri() + "?q=expansive")
        page.locator("#search-results a", has_text="Errors and warnings").wait_for()
        assert not said
        page.close()

    def test_pictures_are_dark_where_the_page_is(self, site, browser):
        for scheme, dark in (("light", False), ("dark", True)):
            page = browser.new_page(color_scheme=scheme)
            page.goto((site / "gallery.html").as_uri())
            assert ("invert" in page.locator("article img").first.evaluate(
                "image => getComputedStyle(image).filter")) is dark
            page.goto((site / "panel.html").as_uri())
            assert page.locator(".idl-lab-dark").count() == dark
            page.close()

    @pytest.mark.slow
    @pytest.mark.timeout(2400)
    def test_every_panel_of_every_lab_moves(self, browser, tmp_path):
        """With few pictures a panel: a run of all labs takes long enough."""
        subprocess.run([sys.executable, "-m", "idl_lab", "run", "--out", "build/labs"], check=False,
                       cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT),
                                                       "IDL_LAB_PICTURES": "10"})
        made = build(tmp_path)
        still = [page.name for page in sorted((made / "labs").glob("*.html"))
                 if not drive(browser, page)]
        assert still == []
