"""A panel as HTML: which pictures, what it leaves alone, and that it moves in a browser."""

from __future__ import annotations

import base64
import itertools
import json
import os
from html.parser import HTMLParser

import ipywidgets
import numpy as np
import pytest
from browser import CHROMIUM
from helpers import pixels
from sim_cases import data, problem
from test_panels import PANELS

from idl_lab.labs.kit import canvas, film
from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.labs.sim_solvers.panel import SolverComparison
from idl_lab.sim.solvers import ADMMSolver

EVIL = "</script><script>window.evil = 1</script><!--"


def bars(kappa: float = 0.5, phi: str = "relu", name: str = "κ", options=("relu", "tanh", EVIL)
         ) -> Panel:
    def draw(kappa, step, phi, figure):
        if step == 12:
            raise ValueError(f"unlucky {EVIL}")
        ax = canvas.axes(figure and figure.axes[0], 8.6, 3.2)
        canvas.frame(ax, xlim=(0, 1), ylim=(0, 1.5), title="Bars")
        canvas.line(ax, "bars", *canvas.stems([0.3, 0.7], 0, [kappa, step / 10]), linewidth=60)
        canvas.words(ax, "verdict", 0.02, 0.9, f"{phi} at {kappa:.2f} after {step}")
        return ax.figure
    return Panel(canvas.styled(draw), {
        "kappa": slider(kappa, 0.1, 1.5, 0.01, name), "step": slider(8, 0, 12, 1, "step"),
        "phi": dropdown(phi, options, "φ")})


# ---- which pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize(("control", "value", "values"), [
    (slider(1, 0, 3, 1, "n"), 1, [0, 1, 2, 3]),
    (slider(0.5, 0.1, 1.0, 0.3, "x"), 0.4, [0.1, 0.4, 0.7, 1.0]),
    (ipywidgets.FloatSlider(0.33, min=0, max=1, step=0.5), 0.33, [0, 0.33, 0.5, 1.0]),
    (ipywidgets.IntSlider(0, min=0, max=0), 0, [0]),
    (dropdown("b", ("a", "b"), "x"), "b", ["a", "b"]),
    (ipywidgets.SelectionSlider(options=("1", "2"), value="2"), "2", ["1", "2"]),
    (ipywidgets.SelectMultiple(options=("a", "b", "c"), value=("a", "c")), ("a", "c"),
     [("a", "c"), ("a",), ("b",), ("c",)]),
    (ipywidgets.SelectMultiple(options=("a", "b"), value=("b",)), ("b",), [("b",), ("a",)]),
    (ipywidgets.Checkbox(True), True, [False, True]),
    (ipywidgets.Text("any"), "any", ["any"]),
    (ipywidgets.Dropdown(options=[("one", 1), ("two", 2)], value=2), 2, [2]),
])
def test_the_values_that_a_control_can_take(control, value, values):
    assert film.reach(control, value) == values


REACHES = {"step": list(range(151)), "kappa": [k / 100 for k in range(151)],
           "kind": ["a", "b", "c"]}
HERE = {"step": 8, "kappa": 0.9, "kind": "b"}


def test_a_film_of_few_combinations_has_them_all():
    few = REACHES | {"step": [0, 8], "kappa": [0.1, 0.5, 0.9]}
    found = film.settings(few, HERE, 18, "step")
    assert found[0] == HERE
    assert sorted(map(repr, found)) == sorted(
        repr(dict(zip(few, point, strict=True))) for point in itertools.product(*few.values()))


@pytest.mark.parametrize("pictures", [1, 2, 3, 5, 17, 23, 24, 40])
@pytest.mark.parametrize("here", [HERE, {"step": 0, "kappa": 1.5, "kind": "a"},
                                  {"step": 150, "kappa": 0.01, "kind": "c"}])
def test_a_film_of_many_moves_each_control_alone(pictures, here):
    found = film.settings(REACHES, here, pictures, "step")
    assert found[0] == here and len(found) <= pictures
    moved = {name: [setting[name] for setting in found[1:] if setting[name] != here[name]]
             for name in here}
    assert sum(map(len, moved.values())) == len(found) - 1, "one control is moved at a time"
    assert all(len(set(values)) == len(values) for values in moved.values())
    assert all(set(values) <= set(REACHES[name]) for name, values in moved.items())
    assert len(found) == pictures
    if pictures < 24:  # eight for each
        assert not moved["kappa"] and not moved["kind"]
    else:
        assert len(moved["kind"]) == 2
        assert len(moved["step"]) > len(moved["kappa"]) >= 5, "the main control has most"
        for name in ("step", "kappa"):
            values = sorted([here[name], *moved[name]])
            gaps = np.diff([REACHES[name].index(value) for value in values])
            assert gaps.max() <= 3 * 150 / len(values), "no stretch of a slider is left out"


# ---- what a film holds ---------------------------------------------------------------------------


def test_it_shows_what_the_panel_would_and_leaves_the_panel_alone():
    panel = bars()
    state = (panel.values, panel.picture, panel.redraws, panel.message, panel.figure, panel.text)
    seen = []
    for control in panel.controls.values():
        control.observe(seen.append)
    made = panel._film(24)
    assert not seen
    assert state == (panel.values, panel.picture, panel.redraws, panel.message, panel.figure,
                     panel.text)
    names = list(panel.controls)
    assert len(made["frames"]) == 24
    for frame in made["frames"]:
        setting = {name: control["values"][at] for name, control, at
                   in zip(names, made["controls"], frame["at"], strict=True)}
        move = {"kappa": float(setting["kappa"]), "step": int(setting["step"]),
                "phi": setting["phi"]}
        if move["step"] == 12:
            assert frame["picture"] is None and "ValueError: unlucky" in frame["words"]
            continue
        panel.set(**move)
        shown = pixels(base64.b64decode(made["pictures"][frame["picture"]])).astype(int)
        assert np.abs(shown - pixels(panel.picture)).mean() < 1
        assert frame["words"] == panel.text


def test_pictures_that_are_alike_are_kept_once():
    def draw(value, figure):
        ax = canvas.axes(figure and figure.axes[0])
        canvas.frame(ax, xlim=(0, 1), ylim=(-1, 4))
        canvas.line(ax, "dot", [0.5], [min(value, 3)], "o")
        return ax.figure
    made = Panel(draw, {"value": slider(0, 0, 9, 1, "value")})._film(40)
    assert len(made["frames"]) == 10 and len(made["pictures"]) == 4


def test_a_solver_comparison_shows_what_was_solved_and_starts_nothing():
    panel = SolverComparison(problem(*data(), lam=0.5, kappa=0.9, ball=7),
                             {"ADMM": ADMMSolver(progress=False, device="cpu")})
    assert len(panel._film(40)["frames"]) == 1 and "press Run" in panel._film(40)["frames"][0][
        "words"]
    panel.run(wait=True)
    panel.set(kappa=0.3)
    panel.run(wait=True)
    panel.set(kappa=0.5, digits=1.0)
    runs, text = panel.runs, panel.text
    made = panel._film(40)
    assert panel.text == text and not panel.running and all(map(len, [runs, panel.runs]))
    assert [control["values"] for control in made["controls"][1:]] == [
        ["0.3", "0.5", "0.9"], ["0", "1"]]
    assert [frame["at"][1:] for frame in made["frames"]] == [[1, 1], [2, 0], [0, 0]]
    assert "press Run" in made["frames"][0]["words"]
    assert not any("press Run" in frame["words"] for frame in made["frames"][1:])


@pytest.mark.parametrize("pictures", [0, -1, 2.5, "all"])
def test_a_number_of_pictures_that_is_none_is_refused(pictures):
    with pytest.raises((ValueError, TypeError), match="pictures"):
        bars().to_html(pictures)


@pytest.mark.slow
@pytest.mark.parametrize("make", [make for make, _ in PANELS.values()], ids=PANELS)
def test_every_panel_becomes_a_page(make):
    panel = make()
    before = panel.picture, panel.values, panel.redraws
    html = panel.to_html()
    made = json.loads(Elements(html).scripts[0])
    assert len(html.encode()) < 1.5e6 and 1 <= len(made["frames"]) <= 40
    assert all(frame["picture"] is not None for frame in made["frames"])
    assert before == (panel.picture, panel.values, panel.redraws)


# ---- the HTML ------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, text):
        if self.lasttag == "script":
            self.scripts[-1] += text


def test_nothing_in_a_panel_can_leave_its_place():
    html = bars(phi=EVIL, name=EVIL).to_html(5)
    found = Elements(html)
    assert [tag for tag, _ in found.tags].count("script") == 2
    assert json.loads(found.scripts[0])["controls"][0]["label"] == EVIL
    [picture] = [attributes for tag, attributes in found.tags if tag == "img"]
    assert EVIL in picture["alt"] and picture["src"].startswith("data:image/png;base64,")


def test_without_scripts_it_is_a_picture_with_words():
    panel = bars()
    tags = Elements(panel.to_html(5)).tags
    assert dict(tags)["img"]["alt"] == panel.text
    assert not {"input", "select", "button"} & {tag for tag, _ in tags}, "they would move nothing"


@pytest.mark.parametrize("other", [
    None, [], {}, "text", {"frames": [], "pictures": ["x"], "width": 1, "least": 1, "controls": []},
    {"frames": [{"at": [], "picture": 0, "words": ""}], "pictures": [], "width": 1, "least": 1,
     "controls": []},
    {"frames": [{"at": [0], "picture": 7, "words": ""}], "pictures": ["AA=="], "width": 1,
     "least": 1, "controls": [{"label": "x", "values": ["1"], "slider": True}]},
    {"frames": [{"at": [3], "picture": 0, "words": ""}], "pictures": ["AA=="], "width": 1,
     "least": 1, "controls": [{"label": "x", "values": ["1"], "slider": True}]},
    {"frames": [{"at": [], "picture": 0, "words": ""}], "pictures": ["AA=="], "width": "1em;x",
     "least": 1, "controls": []},
])
def test_what_is_no_film_is_refused(other):
    with pytest.raises(ValueError, match="no film"):
        film.to_html(other)


# ---- in a browser --------------------------------------------------------------------------------

browsing = [pytest.mark.browser, pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("IDL_LAB_REQUIRE_BROWSER"),
    reason="no Chromium on this machine")]


@pytest.fixture
def page(browser, tmp_path):
    """Two panels on a page that can be dark; fails on complaints and on any request."""
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><html lang=en><meta charset=utf-8><title>Panels</title>"
                    "<meta name=color-scheme content='light dark'>"
                    f"<body>{bars().to_html(24)}{bars(1.5, name='bound').to_html(9)}",
                    encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert not said
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("window.evil") is None
    page.close()


def alt(page, k: int = 0) -> str:
    return page.locator(".idl-lab-film img").nth(k).get_attribute("alt")


class TestInABrowser:
    pytestmark = browsing

    def test_the_keyboard_moves_one_panel_and_not_the_other(self, page):
        image = page.locator(".idl-lab-film img")
        first, other = image.nth(0).get_attribute("src"), alt(page, 1)
        kappa = page.get_by_role("slider", name="κ", exact=True)
        assert kappa.get_attribute("aria-valuetext") == "0.5"
        kappa.focus()
        page.keyboard.press("ArrowRight")
        moved = kappa.get_attribute("aria-valuetext")
        assert float(moved) > 0.5 and f"at {float(moved):.2f} after 8" in alt(page)
        assert image.nth(0).get_attribute("src") != first and alt(page, 1) == other
        assert page.locator(".idl-lab-film-words").nth(0).inner_text() == alt(page)
        page.keyboard.press("Home")
        assert "at 0.10 after 8" in alt(page)
        page.keyboard.press("End")
        assert "at 1.50 after 8" in alt(page)

    def test_a_second_control_brings_the_first_back(self, page):
        page.get_by_role("slider", name="κ", exact=True).focus()
        page.keyboard.press("End")
        choice = page.get_by_role("combobox", name="φ").nth(0)
        choice.select_option("tanh")
        assert "tanh at 0.50 after 8" in alt(page)
        assert page.get_by_role("slider", name="κ", exact=True).get_attribute(
            "aria-valuetext") == "0.5"
        choice.select_option(EVIL)
        assert f"{EVIL} at 0.50" in alt(page)

    def test_the_mouse_drags_to_a_setting_that_failed_and_back(self, page):
        step = page.get_by_role("slider", name="step").nth(0)
        box = step.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.66, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] / 2, steps=8)
        caption = page.locator(".idl-lab-film figcaption").nth(0)
        assert "unlucky" in caption.inner_text()
        assert not page.locator(".idl-lab-film img").nth(0).is_visible()
        page.mouse.move(box["x"] + 1, box["y"] + box["height"] / 2, steps=8)
        page.mouse.up()
        assert "after 0" in alt(page) and "unlucky" not in caption.inner_text()
        assert page.locator(".idl-lab-film img").nth(0).is_visible()

    def test_on_a_phone_the_picture_scrolls_and_the_page_does_not(self, page):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        inside, seen = page.locator(".idl-lab-film-picture").nth(0).evaluate(
            "p => [p.scrollWidth, p.clientWidth]")
        assert inside > seen

    def test_it_is_dark_where_the_page_is_and_never_on_paper(self, page):
        image = page.locator(".idl-lab-film img").nth(0)
        style = "image => getComputedStyle(image).filter"
        assert image.evaluate(style) == "none"
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.querySelectorAll('.idl-lab-dark').length == 2")
        assert "invert" in image.evaluate(style)
        page.emulate_media(color_scheme="dark", media="print")
        assert image.evaluate(style) == "none"
        page.emulate_media(color_scheme="light", media="screen")
        page.evaluate("document.body.style.color = '#eee'")  # a site's own switch
        page.wait_for_function("document.querySelectorAll('.idl-lab-dark').length == 2")
