"""Every lab whole in a real browser: its panels under mouse and keyboard, in light and dark."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM, PANEL, Lab, Shown

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SIZE = (1280, 720)

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1200)]
if CHROMIUM is None and not os.environ.get("IDL_LAB_REQUIRE_BROWSER"):
    pytestmark.append(pytest.mark.skip(reason="no Chromium on this machine"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Where the screenshots go: a folder to look at, or one that pytest throws away."""
    kept = os.environ.get("IDL_LAB_SCREENSHOTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def never_run(source: Path, folder: Path) -> Path:
    """A copy in which nothing saved may pass for something run."""
    lab = nbformat.read(source, as_version=4)
    for cell in lab.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    lab.metadata.pop("widgets", None)
    nbformat.write(lab, folder / source.name)
    return folder / source.name


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lab_runs_and_mouse_and_keyboard_move_its_panels(source, folder, browser, address,
                                                            pictures):
    lab = Lab(browser, address, never_run(source, folder), SIZE)
    try:
        lab.run_all(900)
        panels = lab.page.locator(PANEL).count()
        assert panels, "a lab has a panel"
        for k in range(panels):
            panel = lab.panel(k)
            panel.box.scroll_into_view_if_needed()
            inside, cell, picture = panel.box.evaluate(
                "p => [p.scrollWidth, p.clientWidth, p.querySelector('img').clientWidth]")
            assert 600 < picture <= inside <= cell
            move_all(panel)
            assert "Error" not in panel.box.inner_text()
        for theme in ("Dark", "Light"):
            lab.theme(theme)
            for k in range(panels):
                lab.panel(k).box.scroll_into_view_if_needed()
                lab.page.wait_for_timeout(300)
                lab.page.screenshot(path=str(pictures / f"{source.stem}_{k}_{theme.lower()}.png"))
        assert not lab.complaints
    finally:
        lab.shut_down_kernels()
        lab.page.close()


def move_all(panel: Shown) -> None:
    """Each control by mouse and by keyboard: each changes picture, words, and what it shows."""
    for kind, move in (("[role=slider]", move_slider), ("select:not([multiple])", move_choice),
                       ("select[multiple]", move_list), (".widget-play", press_play),
                       ("button.widget-button", press_button)):
        controls = panel.box.locator(kind)
        for k in range(controls.count()):
            move(panel, controls.nth(k))


def move_slider(panel: Shown, handle) -> None:
    page = panel.page
    shown = handle.locator("xpath=ancestor::*[contains(@class, 'widget-inline-hbox')]").locator(
        ".widget-readout")

    def at(name: str) -> float:
        return float(handle.get_attribute(f"aria-value{name}"))

    up = at("now") < (at("min") + at("max")) / 2
    picture, said, size = panel.picture(), panel.alt(), sizes(panel)
    handle.focus()
    for _ in range(3):  # one step may be too small to be seen
        if at("now") in (at("min"), at("max")):
            up = at("now") == at("min")
        alt, number = panel.alt(), shown.inner_text()
        page.keyboard.press("ArrowRight" if up else "ArrowLeft")
        panel.wait_for_other_words(alt)
        assert shown.inner_text() != number
        settle(panel)
    assert panel.picture() != picture, f"the keyboard does not move the picture of {said}"

    picture, alt, number = panel.picture(), panel.alt(), shown.inner_text()
    handle.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    spot, bar = handle.bounding_box(), handle.locator("xpath=ancestor::*[contains(@class, "
                                                      "'noUi-base')]").bounding_box()
    x, y = spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2
    to = bar["x"] + bar["width"] * (0.1 if x > bar["x"] + bar["width"] / 2 else 0.9)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 21):
        page.mouse.move(x + (to - x) * step / 20, y)
    page.mouse.up()
    panel.wait_for_other_words(alt)
    settle(panel)
    assert shown.inner_text() != number and panel.alt() != alt
    assert panel.picture() != picture, f"the mouse does not move the picture of {alt}"
    assert sizes(panel) == size, "the page jumps"


def sizes(panel: Shown) -> tuple[float, float]:
    box = panel.box.bounding_box()
    return box["width"], box["height"]


def move_choice(panel: Shown, choice) -> None:
    options = choice.locator("option").count()
    for by in ("keyboard", "mouse"):
        picture, alt, value = panel.picture(), panel.alt(), choice.input_value()
        last = choice.evaluate("select => select.selectedIndex") == options - 1
        if by == "mouse":
            choice.click()
        else:
            choice.focus()
        panel.page.keyboard.press("ArrowUp" if last else "ArrowDown")
        if by == "mouse":
            panel.page.keyboard.press("Enter")
        panel.wait_for_other_words(alt)
        settle(panel)
        assert choice.input_value() != value
        assert panel.picture() != picture, f"{by} does not change {alt}"


def move_list(panel: Shown, choice) -> None:
    alt = panel.alt()
    choice.locator("option").last.click()
    panel.wait_for_other_words(alt)
    alt = panel.alt()
    choice.focus()
    panel.page.keyboard.press("ArrowUp")
    panel.wait_for_other_words(alt)
    settle(panel)


def press_play(panel: Shown, play) -> None:
    """▶ plays on, ■ goes back to the first step; with the mouse, then with the keyboard."""
    start, stop = (play.locator("button").nth(k) for k in (0, 1))
    for press in (lambda button: button.click(), lambda button: button.press("Enter")):
        press(stop)
        settle(panel)
        alt = panel.alt()
        press(start)
        panel.wait_for_other_words(alt)
        press(start)
        settle(panel)
        alt = panel.alt()
        press(stop)
        panel.wait_for_other_words(alt)
        settle(panel)


def press_button(panel: Shown, button) -> None:
    """What is pressed does its work, and is there again afterwards; Cancel has nothing to do."""
    if button.is_disabled():
        return
    for press in (button.click, lambda: button.press("Enter")):
        picture = panel.picture()
        press()
        panel.wait_for_another(picture)
        panel.page.wait_for_function("button => !button.disabled", arg=button.element_handle(),
                                     timeout=120_000)
        settle(panel)


def settle(panel: Shown) -> None:
    """Until neither picture nor words have changed for a while: nothing is left in a queue."""
    seen = None
    while (now := (panel.picture(), panel.alt())) != seen:
        seen = now
        panel.page.wait_for_timeout(400)
