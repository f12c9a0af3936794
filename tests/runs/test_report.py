"""The page of a run or a sweep, on notebooks written here as a run leaves them."""

from __future__ import annotations

import base64
import errno
import io
import itertools
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from labs.browser import CHROMIUM, chromium
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from idl_lab.__main__ import main
from idl_lab.labs.kit import film
from idl_lab.labs.kit.record import MIME
from idl_lab.runs import report, results, runner

EVIL = "<script>window.evil = 1</script>"
RECORD = {"status": "ok", "error": "", "seconds": 12.5, "device": "cpu", "peak_memory_mb": 512.3,
          "parameters": {"kappa": 0.9, "seed": 0}, "notebook": "01_first", "source": "0" * 64,
          "version": "0.1.0", "commit": "abc123", "versions": {"python": "3.12.3", "torch": "2.13"},
          "host": "node7", "started": "2026-01-31T23:50:00+00:00"}


def png(colour: str) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (600, 200), colour).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()


FILM = {"width": 600, "least": 300, "pictures": [png("red"), png("blue")],
        "controls": [{"label": "κ", "values": ["0.1", "0.9"], "slider": True}],
        "frames": [{"at": [1], "picture": 0, "words": "κ 0.9."},
                   {"at": [0], "picture": 1, "words": "κ 0.1."}]}


def shown(**data) -> nbformat.NotebookNode:
    return new_output("display_data", {name.replace("_", "/"): value
                                       for name, value in data.items()})


def numbers(**values) -> nbformat.NotebookNode:
    pairs = [[name, {"float": str(v)} if v in (float("inf"),) or v != v else v]
             for name, v in values.items()]
    return new_output("display_data", {MIME: {"numbers": pairs}, "text/plain": "numbers"})


def executed(path: Path, *cells, **record) -> Path:
    """Write a notebook as a run leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for k, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), start=1):
        cell.execution_count = k
    made = new_notebook(cells=list(cells))
    made.metadata[results.KEY] = RECORD | {"notebook": path.stem} | record
    nbformat.write(made, path)
    return path


def lab(path: Path, **record) -> Path:
    """One with a figure, a panel and two numbers."""
    panel = new_output("display_data", {"image/png": png("red"), "text/plain": "κ 0.9.",
                                        film.MIME: FILM})
    return executed(
        path, new_markdown_cell(f"# On {path.stem} & `more`"), new_code_cell("import torch"),
        new_markdown_cell("## 1. A *heading*"),
        new_code_cell("draw()", outputs=[shown(image_png=png("green"),
                                               text_plain="<Figure size 600x200>")]),
        new_markdown_cell("It is **green**.\n\nMore of it."),
        new_code_cell("record()", outputs=[numbers(accuracy=0.9622, norm=float("inf"))]),
        new_markdown_cell("## 2. Panel"), new_code_cell("panel", outputs=[panel]), **record)


def failed(path: Path, **record) -> Path:
    """One that stopped: its source and its traceback hold what a page may not take for its own."""
    error = new_output("error", ename="ValueError", evalue="no good", traceback=[
        "\x1b[0;31m" + "-" * 30 + "\x1b[0m", f"\x1b[1;32mIn[2], line 1\x1b[0m {EVIL} \x00\x07",
        "\x1b]8;;file:///x\x1b\\link\x1b]8;;\x1b\\", "ValueError: no good"])
    return executed(
        path, new_markdown_cell("**failed**\n```text\ncell 2: ValueError: no good\n```"),
        new_markdown_cell(f"# {path.stem} {EVIL}"), new_code_cell("x = 1"),
        new_code_cell(f"raise ValueError('{EVIL}')", outputs=[error]),
        new_code_cell("print('never')"),
        **{"status": "failed", "error": f"cell 2: ValueError: no good {EVIL}"} | record)


class Page(HTMLParser):
    """A page's elements with the text inside each, and what is visible as a whole."""

    VOID = ("meta", "img", "br", "input", "link", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert not self.open, f"{self.open} are not closed"

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> in {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, text):
        for element in self.open:
            element[2] += text
        if not any(element[0] in ("script", "style") for element in self.open):
            self.text += text

    def all(self, tag: str) -> list:
        return [(attributes, " ".join(text.split())) for name, attributes, text in self.elements
                if name == tag]


def page_of(folder: Path) -> Page:
    path = report.write(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text("utf-8"))
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "data", "action", "srcset"):
            address = attributes.get(name, "")
            assert address.startswith(("data:", "#")) or not address or tag == "a"
    for attributes, _ in page.all("a"):
        target = unquote(attributes["href"])
        if target.startswith("#"):
            assert target[1:] in {a.get("id") for _, a, _ in page.elements}
        else:
            assert (folder / target).is_file()
    for attributes, _ in page.all("img"):
        assert attributes["alt"].strip()
    levels = [int(tag[1]) for tag, _, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    return page


# ---- a run ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of which one went well, one failed, one took too long; two more files are no runs."""
    lab(tmp_path / "01_first.ipynb")
    failed(tmp_path / "more, #1 of ü" / "02_bad.ipynb")
    executed(tmp_path / "03_long.ipynb", new_code_cell("x = 1"), new_code_cell(""),
             new_code_cell("while True: pass"), status="timed out",
             error="cell 2: timed out after 60 s", host="node8",
             started="2026-02-01T01:00:00+01:00", seconds=60.0)
    (tmp_path / "04_half.ipynb").write_text('{"cells": [{"cell_ty')
    nbformat.write(new_notebook(), tmp_path / "05_mine.ipynb")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "06-checkpoint.ipynb").write_text("{")
    return tmp_path


def test_the_summary_says_what_when_where_and_how_long(run):
    page = page_of(run)
    [(_, title)] = page.all("h1")
    said = dict(zip([text for _, text in page.all("dt")], [text for _, text in page.all("dd")],
                    strict=True))
    assert title == "Run of 3 labs" and page.all("title")[0][1] == title
    assert said["outcome"] == "1 ok, 1 timed out, 1 failed, 2 not a run"
    assert said["run time"] == "1 min 25 s in all"
    assert said["machine"] == "node7, node8" and said["device"] == "cpu"
    assert said["commit"] == "abc123" and said["versions"] == "python 3.12.3, torch 2.13"
    # Times of two zones: from 23:50 UTC to 00:00 UTC and a minute.
    assert said["started"][14:16] == "50" and said["ended"][14:19] == "01:00"


def test_what_failed_comes_first_with_its_cell_and_traceback(run):
    page = page_of(run)
    heads = [text for _, text in page.all("h2")]
    assert heads[:3] == ["Not in this report", "2 of 3 did not end well", "All labs"]
    codes = [text for _, text in page.all("code")]
    assert codes == ["while True: pass", f"raise ValueError('{EVIL}')"]
    [trace] = [text for _, text in page.all("pre") if text not in codes]
    assert trace == f"{'-' * 30} In[2], line 1 {EVIL} link ValueError: no good"
    assert "cell 2: timed out after 60 s" in page.text and "never" not in page.text
    assert "04_half.ipynb: cannot be read" in page.text
    assert "05_mine.ipynb: carries no record" in page.text and "06-check" not in page.text


def test_a_lab_shows_its_numbers_figures_and_panel_under_their_headings(run):
    page = page_of(run)
    assert [text for _, text in page.all("h2")][3] == "On 01_first & more"
    assert ["1. A heading", "2. Panel"] == [text for _, text in page.all("h3")][-2:]
    pictures = page.all("img")
    assert [attributes["alt"] for attributes, _ in pictures] == [
        "1. A heading. It is green.", "κ 0.9."]
    assert png("green") in pictures[0][0]["src"]
    cells = [text for _, text in page.all("td")]
    assert cells[cells.index("accuracy") + 1] == "0.9622"
    assert cells[cells.index("norm") + 1] == "inf"
    assert "kappa = 0.9, seed = 0" in page.text
    moves = [json.loads(text) for _, text in page.all("script") if text.startswith("{")]
    assert [move["frames"] for move in moves] == [FILM["frames"]]


def test_no_text_of_a_notebook_becomes_part_of_the_page(tmp_path):
    failed(tmp_path / "02_bad.ipynb")
    evil = f'x" onerror="evil()" {EVIL}'
    bad = FILM | {"width": evil}  # is no film: its picture stands instead
    executed(tmp_path / "01_x.ipynb", new_markdown_cell(f"## {EVIL}"), new_code_cell(
        EVIL, outputs=[new_output("display_data", {
            "image/png": evil, "text/plain": evil, film.MIME: bad}), numbers(**{EVIL: EVIL})]),
        parameters={EVIL: EVIL}, host=EVIL, error=EVIL, status=EVIL, commit=EVIL,
        versions={EVIL: EVIL}, seconds=EVIL, peak_memory_mb=EVIL, device=EVIL, started=EVIL)
    page = page_of(tmp_path)
    assert len(page.all("script")) == 1 and EVIL in page.text
    assert not any(name.startswith("on") for _, attributes, _ in page.elements
                   for name in attributes)


@pytest.mark.parametrize("record", [
    {}, {"status": None}, {"parameters": None}, {"versions": [1]}, {"notebook": 7}, {"error": 1}],
    ids=str)
def test_a_record_of_another_making_is_told(tmp_path, record):
    lab(tmp_path / "01_first.ipynb")
    other = new_notebook()
    other.metadata[results.KEY] = RECORD | record if record else "mine"
    nbformat.write(other, tmp_path / "02_other.ipynb")
    page = page_of(tmp_path)
    assert page.all("h1")[0][1] == "Run of 01_first"
    assert "02_other.ipynb: carries no record" in page.text


def test_a_folder_of_broken_notebooks_alone_has_a_page(tmp_path):
    (tmp_path / "01_half.ipynb").write_text('{"cells": [')
    page = page_of(tmp_path)
    assert "1 not a run" in page.text and "01_half.ipynb: cannot be read" in page.text


def test_an_error_in_a_widgets_callback_has_its_traceback(tmp_path):
    path = executed(tmp_path / "01_w.ipynb", new_code_cell("x = 1"), new_code_cell("interact(f)"),
                    status="failed",
                    error="cell 2: ZeroDivisionError: division by zero (in a widget's callback)")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {
        "a": {"state": {}}, "b": {"state": {"outputs": [{
            "output_type": "error", "ename": "ZeroDivisionError", "evalue": "division by zero",
            "traceback": ["\x1b[31mf(0)\x1b[0m"]}]}}}}}
    nbformat.write(notebook, path)
    page = page_of(tmp_path)
    assert [text for _, text in page.all("pre")] == ["interact(f)", "f(0)"]


def test_an_error_that_a_lesson_shows_is_not_what_failed(tmp_path):
    shows = new_output("error", ename="E", evalue="", traceback=["shown on purpose"])
    executed(tmp_path / "01_x.ipynb",
             new_code_cell("1 / 0", outputs=[shows], metadata={"tags": ["raises-exception"]}),
             new_code_cell("die()"), status="failed", error="cell 2: the kernel died (SIGKILL)")
    page = page_of(tmp_path)
    assert [text for _, text in page.all("pre")] == ["die()"]


def test_a_traceback_without_end_is_cut(tmp_path):
    error = new_output("error", ename="RecursionError", evalue="", traceback=[
        "first", *["again\n" * 1000] * 100, "last"])
    executed(tmp_path / "01_x.ipynb", new_code_cell("f()", outputs=[error]), status="failed",
             error="cell 1: RecursionError")
    page = page_of(tmp_path)
    trace = page.all("pre")[1][1]
    assert trace.startswith("first") and trace.endswith("last") and len(trace) < 21_000


# ---- a sweep -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A hundred runs: 5 κ, 4 ranks, 5 seeds; seven failed."""
    folder = tmp_path_factory.mktemp("sweep")
    picture = png("green")
    for k, (kappa, rank, seed) in enumerate(itertools.product(
            (0.1, 0.5, 0.9, 0.95, 0.99), (1, 5, 20, None), range(5))):
        well = {} if k % 16 else {"status": "failed", "error": "cell 1: ValueError: no"}
        executed(folder / f"05_training,kappa={kappa},rank={rank},seed={seed}.ipynb",
                 new_markdown_cell("# Training"), new_code_cell("draw()", outputs=[
                     shown(image_png=picture),
                     numbers(accuracy=kappa, steps=10 * (k + 1), word="x",
                             gap=float("nan") if k % 2 else 1e-3)]),
                 notebook="05_training", seconds=k + 0.5,
                 parameters={"kappa": kappa, "n": 12, "rank": rank, "seed": seed}, **well)
    return folder


def test_a_sweep_has_one_table_and_a_picture_per_number_and_parameter(sweep):
    page = page_of(sweep)
    assert page.all("h1")[0][1] == "Sweep of 05_training: 100 runs"
    assert [text for _, text in page.all("h2")] == ["7 of 100 did not end well", "Training"]
    columns = [text for _, text in page.all("th")]
    assert columns == ["run", "kappa", "rank", "seed", "status", "seconds", "memory, MB",
                       "device", "accuracy", "steps", "word", "gap"]
    cells = [text for _, text in page.all("td")]
    assert len(cells) == 100 * len(columns)
    row = cells[1 * len(columns):2 * len(columns)]
    assert row == ["05_training,kappa=0.1,rank=1,seed=1", "0.1", "1", "1", "ok", "1.5", "512",
                   "cpu", "0.1", "20", "x", "nan"]
    alts = [attributes["alt"] for attributes, _ in page.all("img")]
    assert [alt.split(";")[0] for alt in alts] == [
        f"{number} against {parameter}" for number in ("accuracy", "steps", "gap")
        for parameter in ("kappa", "rank")], "no figures of the runs"
    assert "n = 12 in all of them" in page.text
    assert (sweep / "report.html").stat().st_size < 1e6


def test_of_many_failures_some_are_shown_in_full(tmp_path):
    for seed in range(30):
        failed(tmp_path / f"02_bad,seed={seed}.ipynb", notebook="02_bad",
               parameters={"seed": seed})
    page = page_of(tmp_path)
    assert len(page.all("code")) == 20 and "10 more stand in the tables below" in page.text
    assert len(page.all("td")) == 30 * 6 and not page.all("img")


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_names_the_page(run, capsys):
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")


@pytest.mark.parametrize(("make", "said"), [
    (lambda path: None, "there is no folder"), (lambda path: path.write_text(""), "no folder"),
    (lambda path: path.mkdir(), "no executed notebook")])
def test_what_is_no_run_is_refused_in_a_sentence(tmp_path, capsys, make, said):
    make(tmp_path / "it")
    assert main(["report", str(tmp_path / "it")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_a_full_disk_leaves_the_page_that_was_there(run, capsys, monkeypatch):
    (run / "report.html").write_text("older")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", full)
    assert main(["report", str(run)]) == 2
    assert "report.html cannot be written (No space left" in capsys.readouterr().err
    assert (run / "report.html").read_text() == "older"
    assert not [path for path in run.iterdir() if path.name.startswith(".report")]


# ---- from a kernel to the page -------------------------------------------------------------------

PANEL = """
import os
from idl_lab.labs.kit import canvas, record
from idl_lab.labs.kit.panel import Panel, slider
def draw(kappa, figure):
    ax = canvas.axes(figure and figure.axes[0])
    canvas.frame(ax, xlim=(0, 1), ylim=(0, 1))
    canvas.line(ax, "dot", [0.5], [kappa], "o")
    return ax.figure
panel = Panel(canvas.styled(draw), {"kappa": slider(0.5, 0.0, 1.0, 0.01, "κ")})
panel
"""
MOVED = """
panel.set(kappa=1.0)
panel.set(kappa=0.25)
record(asked=os.environ.get("IDL_LAB_PICTURES", "no"))
"""


@pytest.mark.parametrize(("asked", "pictures"), [(None, 10), ("0", None)])
def test_a_runs_panel_still_moves_in_its_report(tmp_path, monkeypatch, asked, pictures):
    notebook = new_notebook(cells=[new_code_cell(PANEL), new_code_cell(MOVED)])
    nbformat.write(notebook, tmp_path / "01_panel.ipynb")
    if asked is not None:
        monkeypatch.setenv("IDL_LAB_PICTURES", asked)
    [result] = runner.run_notebooks([tmp_path / "01_panel.ipynb"], out=tmp_path / "out")
    assert result.status == "ok", result.error
    assert result.numbers == {"asked": "no"}, "a lab that sweeps would hand it on"
    assert os.environ.get("IDL_LAB_PICTURES") == asked
    page = page_of(tmp_path / "out")
    films = [json.loads(text) for _, text in page.all("script") if text.startswith("{")]
    assert [len(made["frames"]) for made in films] == ([pictures] if pictures else [])
    assert page.all("img")[0][0]["alt"].startswith("κ 0.25"), "the panel as it stood at the end"


# ---- in a browser --------------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("IDL_LAB_REQUIRE_BROWSER"),
    reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens a folder's report; fails on complaints, and on any request but that for the page."""
    said, asked, pages = [], [], []

    def opened(folder: Path, **options):
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.write(folder).as_uri())
        return page
    yield opened
    assert not said
    assert len([url for url in asked if not url.startswith("data:")]) == len(pages)
    for page in pages:
        assert page.evaluate("window.evil") is None
        page.close()


@pytest.mark.browser
@needs_chromium
def test_its_panel_moves_under_keyboard_and_mouse(run, opened):
    page = opened(run, viewport={"width": 1280, "height": 720})
    image, slider = page.locator(".idl-lab-film img"), page.get_by_role("slider", name="κ")
    first = image.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert image.get_attribute("alt") == "κ 0.1." and image.get_attribute("src") != first
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert image.get_attribute("alt") == "κ 0.9." and image.get_attribute("src") == first


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_only_what_is_wide_scrolls(run, sweep, opened, scheme):
    for folder in (run, sweep):
        page = opened(folder, viewport={"width": 390, "height": 844}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        # WCAG's contrast of 4.5, of every text on the page's ground.
        pale = page.evaluate("""() => {
            const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(c => {
                c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
              return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
            const ground = e => { const c = getComputedStyle(e).backgroundColor;
              return c === "rgba(0, 0, 0, 0)" ? ground(e.parentElement) : c; };
            return [...document.querySelectorAll("main *")].filter(e =>
              [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
              && !["SCRIPT", "STYLE", "OPTION"].includes(e.tagName)).filter(e => {
                const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort();
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5; })
              .map(e => e.outerHTML.slice(0, 80)); }""")
        assert not pale


@pytest.mark.browser
@needs_chromium
def test_a_table_is_sorted_by_its_heads(sweep, opened):
    page = opened(sweep, viewport={"width": 1280, "height": 720})
    def column(k: int) -> list[str]:
        return page.locator(f"tbody td:nth-child({k})").all_inner_texts()
    page.get_by_role("button", name="steps").click()
    steps = [int(text) for text in column(10)]
    assert steps == sorted(steps) and len(steps) == 100
    page.get_by_role("button", name="steps").focus()
    page.keyboard.press("Enter")
    assert [int(text) for text in column(10)] == steps[::-1]
    assert page.locator("th[aria-sort]").all_inner_texts() == ["steps ↓"] or \
        page.locator("th[aria-sort=descending]").inner_text() == "steps"
    for _ in range(2):  # what has no number stays at the end
        page.get_by_role("button", name="gap").click()
        assert set(column(12)[50:]) == {"nan"}
    page.get_by_role("button", name="rank").click()
    assert column(3)[:75] == ["1"] * 25 + ["5"] * 25 + ["20"] * 25


@pytest.mark.browser
@needs_chromium
def test_on_paper_nothing_is_cut_off(run, sweep, opened):
    for folder in (run, sweep):
        page = opened(folder, viewport={"width": 700, "height": 1000}, color_scheme="dark")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("""[...document.querySelectorAll(".wide, pre")].every(e =>
            e.scrollWidth <= e.clientWidth + 1 && e.scrollHeight <= e.clientHeight + 1)""")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == \
            "rgb(255, 255, 255)"
        assert page.pdf().startswith(b"%PDF")
