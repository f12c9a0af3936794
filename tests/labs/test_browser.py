"""Panels as a class meets them: JupyterLab in a real browser, live, reopened and exported."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import (
    CHROMIUM,
    ENVIRONMENT,
    PANEL,
    Lab,
    notebook,
    panel_cells,
)
from helpers import pixels

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# As wide as a lab's panel may be, with every kind of control; κ = 0.99 is one that browsers round.
SMALL = '''
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.panel import Panel, dropdown, player, slider

@canvas.styled
def draw(kappa, step, phi, figure):
    ax = canvas.axes(figure and figure.axes[0], 8.6, 3.2)
    canvas.frame(ax, xlim=(0, 1), ylim=(0, 1.5), title="Bars")
    canvas.line(ax, "bars", *canvas.stems([0.3, 0.7], 0, [kappa, step / 10]), linewidth=60)
    canvas.words(ax, "verdict", 0.02, 0.9, f"{phi} at {kappa:.4f} after {step}")
    return ax.figure

panel = Panel(draw, {"kappa": slider(0.5, 0.1, 1.5, 0.01, "κ"), "step": slider(8, 0, 12, 1, "step"),
                     "phi": dropdown("relu", ("relu", "tanh"), "φ")}, play=("step", player(12)))
panel.set(step=4)
panel
'''
BUSY = '''
import time
for kappa in (0.99, 0.57, 0.9):
    time.sleep(0.7)  # so long that the browser answers while this cell runs
    panel.set(kappa=kappa)
time.sleep(0.7)
'''
# Not trained: lab 06 trains for ten seconds. Its size is what is looked at.
READING = '''
import torch
from idl_lab import ImplicitRNN
from idl_lab.labs.implicit_rnn import reading_panel
reader = ImplicitRNN(8, 10, 16, 20, activation="tanh", device="cpu")
reading = reading_panel(reader, torch.rand(30, 8, 8), torch.arange(30) % 10)
reading.set(time=4)
reading
'''

pytestmark = pytest.mark.browser
if CHROMIUM is None and not os.environ.get("IDL_LAB_REQUIRE_BROWSER"):
    pytestmark.append(pytest.mark.skip(reason="no Chromium on this machine"))


@pytest.fixture(scope="module")
def small(folder, browser, address) -> Lab:
    """The small panel, run; the tests of it follow one another on the one page."""
    lab = Lab(browser, address, notebook(folder / "small.ipynb", SMALL, BUSY), (1280, 720))
    lab.run_all()
    lab.page.wait_for_timeout(500)  # what was sent while the kernel was busy is applied by now
    return lab


def press(lab: Lab, slider: int, *keys: str) -> None:
    """Press keys on a slider and wait for the picture of each."""
    lab.page.locator(f"{PANEL} [role=slider]").nth(slider).focus()
    for key in keys:
        before = lab.panel().picture()
        lab.page.keyboard.press(key)
        lab.panel().wait_for_another(before)


def image(page, selector: str) -> np.ndarray:
    """The pixels of the picture that ``selector`` finds."""
    encoded = page.eval_on_selector(selector, """async image => {
        const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
        return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join("")); }""")
    return pixels(base64.b64decode(encoded))


# ---- live -------------------------------------------------------------------------------------


def test_it_opens_at_the_step_that_the_lab_set_and_plays_on_from_there(small):
    assert small.panel().readouts()[1] == "4"
    small.page.get_by_role("button", name="Play or pause").click()
    small.page.wait_for_function(
        f"() => document.querySelectorAll('{PANEL} .widget-readout')[1].innerText > 4")
    small.page.get_by_role("button", name="Play or pause").click()


def test_an_echo_of_a_busy_cell_changes_nothing_and_a_reader_may_go_back(small):
    assert small.panel().readouts()[0] == "0.90" and "at 0.9000 after" in small.panel().alt()
    bar = small.page.locator(f"{PANEL} .noUi-base").first.bounding_box()
    before = small.panel().picture()
    small.page.mouse.click(bar["x"] + bar["width"] * (0.57 - 0.1) / 1.4, bar["y"] + 2)
    small.panel().wait_for_another(before)
    small.page.wait_for_timeout(300)
    assert small.panel().readouts()[0] == "0.57" and "at 0.5700 after" in small.panel().alt()
    press(small, 0, *["ArrowRight"] * 2)
    small.page.wait_for_timeout(300)
    assert small.panel().readouts()[0] == "0.59"
    press(small, 0, *["ArrowRight"] * 40)
    small.page.wait_for_timeout(500)
    assert small.panel().readouts()[0] == "0.99" and "at 0.9900 after" in small.panel().alt()


def test_every_control_and_the_picture_have_a_name_and_the_keyboard_moves_them(small):
    page = small.page
    for name in ("κ", "step"):
        assert page.get_by_role("slider", name=name, exact=True).is_visible()
    assert page.get_by_role("combobox", name="φ").is_visible()
    for name in ("Play or pause", "Stop and go back to the first step"):
        assert page.get_by_role("button", name=name).is_visible()
    page.get_by_role("button", name="Stop and go").click()
    page.wait_for_function(f"() => document.querySelector('{PANEL} img').alt.includes('after 0')")
    page.keyboard.press("Tab")  # from ■ to the slider that it drives
    before = small.panel().picture()
    page.keyboard.press("ArrowRight")
    small.panel().wait_for_another(before)
    page.keyboard.press("ArrowUp")
    page.wait_for_function(f"() => document.querySelector('{PANEL} img').alt.includes('after 2')")
    handle = page.get_by_role("slider", name="κ", exact=True)
    assert handle.get_attribute("aria-valuetext") == "0.99"
    for key, phi in (("ArrowDown", "tanh"), ("r", "relu")):  # not JupyterLab's: it has both
        page.get_by_role("combobox", name="φ").focus()
        page.keyboard.press(key)
        page.wait_for_function(
            f"() => document.querySelector('{PANEL} img').alt.includes('{phi} at')")
    assert small.panel().alt().startswith("κ 0.99, step 2, φ relu. Bars. relu at 0.99")


def test_a_drag_ends_where_the_mouse_does_and_the_page_does_not_jump(small):
    page, panel = small.page, small.panel()
    handle = panel.box.locator(".noUi-handle").first
    before, size, spot = panel.picture(), panel.box.bounding_box(), handle.bounding_box()
    first = float(panel.readouts()[0])
    x, y = spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 21):
        page.mouse.move(x + step, y)
    page.mouse.up()
    panel.wait_for_another(before)
    page.wait_for_timeout(500)  # whatever is still queued is drawn by now
    value = panel.readouts()[0]
    assert float(value) > first + 0.1
    assert f"at {float(value):.4f} after" in panel.alt() and panel.box.bounding_box() == size


@pytest.mark.parametrize(("width", "files", "fits"), [
    (1280, True, True), (1000, False, True), (1000, True, False)])
def test_it_fits_its_cell_or_scrolls(small, width, files, fits):
    """It fits at 1280, and at 1000 without the file browser.

    With it a cell has 568 pixels at 1000: a picture of 860 whose smallest letters are of 11
    cannot go below 700 with letters of 9. There letters win, and the picture scrolls sideways.
    """
    page = small.page
    page.set_viewport_size({"width": width, "height": 720})
    if files != page.locator(".jp-FileBrowser").is_visible():
        page.keyboard.press("Control+b")
    page.wait_for_function(
        f"fits => {{ const p = document.querySelector('{PANEL}');"
        "           return (p.scrollWidth <= p.clientWidth) == fits; }", arg=fits)
    clipped, scrolls = page.locator(PANEL).evaluate(
        "p => [p.scrollHeight > p.clientHeight || p.clientWidth > p.parentElement.clientWidth,"
        "      getComputedStyle(p).overflowX]")
    assert not clipped and scrolls == "auto"
    bar, edge = page.locator(PANEL).evaluate(
        "p => { p.scrollLeft = 9999; const moved = p.scrollLeft; p.scrollLeft = 0;"
        "       return [moved, p.getBoundingClientRect().right]; }")
    assert (bar > 0) != fits, "what does not fit is reached by scrolling"
    for control in page.locator(f"{PANEL} .widget-inline-hbox >> visible=true").all():
        box = control.bounding_box()
        assert box["x"] + box["width"] <= edge + 1, "a control is cut"
    shown = page.locator(f"{PANEL} img").bounding_box()
    assert shown["height"] / shown["width"] == pytest.approx(3.2 / 8.6, rel=0.01)
    letters = 8 / 72 * 100  # its smallest are of 8 points
    assert letters * shown["width"] / 860 >= 8.99


def test_a_cell_that_is_run_again_shows_its_new_panel_alone(small):
    page = small.page
    before = small.panel().picture()
    page.set_viewport_size({"width": 1280, "height": 720})
    page.locator(".jp-CodeCell").first.locator(".jp-InputArea-editor").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function(f"""before => {{
        const shown = [...document.querySelectorAll('{PANEL} img')];
        return shown.length && shown.every(img => img.alt && img.src !== before) }}""", arg=before)
    small.idle()
    assert page.locator(PANEL).count() == 1
    press(small, 1, "ArrowRight")
    assert small.panel().readouts() == ["0.50", "5"] and not small.complaints


def test_light_and_dark_are_both_legible(small):
    page = small.page

    def tones() -> tuple[float, float, float]:
        """Of the picture's paper and ink, and of the words above it: how bright they are."""
        grey = pixels(page.locator(f"{PANEL} img").screenshot())
        colour = page.locator(f"{PANEL} .widget-label").first.evaluate(
            "e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).map(Number)")
        return np.median(grey), abs(grey - np.median(grey)).max(), np.mean(colour)

    paper, ink, words = tones()
    assert paper > 240 and ink > 150 and words < 100
    small.theme("Dark")
    paper, ink, words = tones()
    assert paper < 50 and ink > 150 and words > 155
    small.theme("Light")


# ---- without a kernel -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def last(small) -> tuple[np.ndarray, str]:
    """The last picture of the small notebook and its text: moved, saved, its kernel shut down."""
    press(small, 1, "ArrowRight", "ArrowRight")
    small.page.wait_for_timeout(2000)  # the pause after which the notebook gets the picture
    seen = image(small.page, f"{PANEL} img"), small.panel().alt()
    small.save()
    small.shut_down_kernels()
    return seen


def test_a_reopened_notebook_shows_the_last_picture(small, last):
    page, (picture, text) = small.page, last
    small.open()
    page.get_by_text("model not found").wait_for(state="attached")  # JupyterLab has given up
    assert not page.get_by_text("model not found").is_visible()
    shown = page.locator(".jp-OutputArea img").locator("visible=true")
    assert shown.count() == 1 and shown.get_attribute("alt") == text
    assert np.array_equal(image(page, ".jp-OutputArea img"), picture)
    assert small.path.stat().st_size < 100_000


def test_a_notebook_that_is_not_trusted_shows_the_last_picture(small, last, browser, folder):
    foreign = nbformat.read(small.path, as_version=4)
    foreign.cells.append(nbformat.v4.new_markdown_cell("From elsewhere."))
    nbformat.write(foreign, folder / "foreign.ipynb")
    lab = Lab(browser, small.address, folder / "foreign.ipynb")
    lab.page.get_by_role("img").locator("visible=true").last.wait_for()
    assert np.array_equal(image(lab.page, ".jp-OutputArea img"), last[0])
    lab.page.close()


@pytest.mark.parametrize("ran", ["in JupyterLab", "by papermill"])
def test_an_exported_page_shows_the_last_picture_without_network(small, last, browser, folder, ran):
    from nbconvert import HTMLExporter

    path, (picture, text) = small.path, last
    if ran == "by papermill":
        path, text = folder / "ran.ipynb", "κ 0.9, step 4, φ relu. Bars. relu at 0.9000 after 4."
        subprocess.run([sys.executable, "-m", "papermill", small.path, path], check=True,
                       capture_output=True, env=ENVIRONMENT)
    page = folder / "page.html"
    page.write_text(HTMLExporter().from_filename(str(path))[0], "utf-8")
    context = browser.new_context(offline=True)
    exported = context.new_page()
    exported.goto(page.as_uri())
    shown = exported.locator("img").locator("visible=true")
    assert shown.count() == 1 and shown.get_attribute("alt") == text
    assert shown.bounding_box()["width"] > 700
    widget = exported.locator(".jp-OutputArea").get_by_text("Panel(")
    assert not widget.locator("visible=true").count()
    if ran == "in JupyterLab":
        assert np.array_equal(image(exported, ".jp-OutputArea img"), picture)
    context.close()


# ---- the labs' own panels ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labs(folder, browser, address) -> Lab:
    """What the panels of labs 00 and 01 need, and lab 06's panel, one after the other.

    Every lab whole, its panel in use: that is test_browser_labs.py's, on demand.
    """
    cells = [cell for name in ("00_start_here", "01_fixed_points")
             for cell in panel_cells(NOTEBOOKS / f"{name}.ipynb")]
    lab = Lab(browser, address, notebook(folder / "labs.ipynb", *cells, READING),
              (1280, 720))
    lab.run_all()
    return lab


def test_the_labs_panels_open_as_the_lab_set_them(labs):
    digit, convergence, reading = (
        img.get_attribute("alt") for img in labs.page.locator(f"{PANEL} img").all())
    assert "step 12" in digit and "step 8" in convergence and "row 4" in reading


@pytest.mark.parametrize("width", [1280, 1500])
def test_the_labs_pictures_fit_their_cells(labs, width):
    labs.page.set_viewport_size({"width": width, "height": 720})
    labs.page.wait_for_timeout(500)
    assert labs.page.locator(".jp-FileBrowser").is_visible()
    for panel in labs.page.locator(PANEL).all():
        inside, cell, picture = panel.evaluate(
            "p => [p.scrollWidth, p.clientWidth, p.querySelector('img').clientWidth]")
        assert picture <= inside <= cell
