"""Panels: redraws, stale events, errors, and what a saved notebook keeps."""

from __future__ import annotations

import asyncio
import base64

import ipywidgets
import numpy as np
import pytest
import torch
from helpers import pixels

from idl_lab.labs.fixed_points.panel import convergence_panel
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit import panel as kit
from idl_lab.labs.kit.panel import Panel, slider
from idl_lab.labs.kit.problems import random_matrix
from idl_lab.labs.start_here.panel import digit_panel
from idl_lab.labs.well_posedness.panel import norm_bound_panel
from idl_lab.model import ImplicitModel


def from_browser(control, value) -> None:
    """Deliver what the browser sends when a slider is dragged."""
    control.set_state({"value": value})


def small_digit_panel() -> Panel:
    generator = torch.Generator("cpu").manual_seed(0)
    model = ImplicitModel(64, 10, 8, device="cpu", generator=generator)
    U = torch.rand(5, 64, generator=generator, device="cpu")
    return digit_panel(model, U, torch.arange(5, device="cpu"), steps=6)


PANELS = {"convergence": (convergence_panel, {"kappa": 0.5}),
          "norm bound": (norm_bound_panel, {"kappa": 1.3}),
          "digit": (small_digit_panel, {"image": 3})}


@pytest.mark.parametrize(("make", "move"), PANELS.values(), ids=PANELS)
def test_panel_draws_once_and_follows_its_controls(make, move):
    panel = make()
    assert panel.redraws == 1
    first, figure = panel.picture, panel.figure
    assert first.startswith(b"\x89PNG")
    panel.set(**move)
    assert panel.redraws == 2 and panel.picture != first and panel.figure is figure
    for name, control in panel.controls.items():
        assert panel.values[name] == pytest.approx(control.value)


def test_every_setting_of_the_norm_bound_panel_draws():
    panel = norm_bound_panel(n=6)
    for phi in panel.controls["activation"].options:
        for kind in panel.controls["kind"].options:
            for kappa in (0.99, 1.5):
                panel.set(activation=phi, kind=kind, kappa=kappa)
                words = panel.figure.axes[0].texts[-1].get_text()
                A = random_matrix(6, kappa, kind, generator=torch.Generator("cpu").manual_seed(0))
                root = np.abs(np.linalg.eigvals(A.abs().numpy())).max()
                top = np.linalg.eigvalsh((A + A.mT).numpy() / 2)[-1]
                promised = (0.25 if phi == "sigmoid" else 1) * min(root, top) < 1
                assert ("Guaranteed" in words) == promised, (phi, kind, kappa, words)
    for n in (2, 60):
        panel.set(n=n, activation="tanh", kappa=0.0)


@pytest.mark.parametrize(("kind", "phi", "words"), [
    ("positive", "relu", "diverges"), ("positive", "tanh", "several equilibria"),
    ("positive", "sigmoid", "5 starts agree"), ("negative", "tanh", "still moving after 200 steps"),
])
def test_past_one_the_panel_shows_what_happens(kind, phi, words):
    panel = norm_bound_panel(kappa=1.3, activation=phi, kind=kind)
    assert words in panel.figure.axes[0].texts[-1].get_text()


def counting_panel(value: float = 0, high: float = 20, step: float = 1) -> tuple[Panel, list]:
    seen = []

    def draw(value, figure):
        if value == 13:
            raise ValueError("unlucky")
        seen.append(value)
        ax = canvas.axes(figure and figure.axes[0])
        canvas.line(ax, "dot", [0.5], [value / 20], "o")
        return ax.figure
    return Panel(draw, {"value": slider(value, 0, high, step, "value")}), seen


def test_stale_events_are_dropped_and_the_last_is_drawn():
    panel, seen = counting_panel()

    async def drag():
        for value in range(1, 13):
            from_browser(panel.controls["value"], value)
        await asyncio.sleep(0.2)
    asyncio.run(drag())
    assert seen == [0, 12] and panel.redraws == 2


@pytest.mark.parametrize(("told", "stands"), [
    (0.99, 0.99), (0.57, 0.57), (0.904, 0.9), (0.906, 0.91), (0.0, 0.0), (1.5, 1.5)])
def test_code_moves_a_slider_to_its_nearest_step(told, stands):
    panel, seen = counting_panel(0.2, 1.5, 0.01)
    panel.set(value=told)
    assert panel.values == {"value": stands} and seen == [0.2, stands]
    assert f"value {stands:g}" in panel.text
    control = panel.controls["value"]
    assert control.value == pytest.approx(stands, abs=1e-12)
    control.value = control.value  # what stands on a step is left to the last bit
    assert panel.redraws == 2


def test_a_reader_may_go_where_code_has_been():
    panel, seen = counting_panel(0.2, 1.5, 0.01)
    for value in (0.99, 0.57, 0.9):
        panel.set(value=value)
    from_browser(panel.controls["value"], 0.5700000000000001)  # so the browser's slider has it
    assert panel.values == {"value": 0.57} and seen == [0.2, 0.99, 0.57, 0.9, 0.57]


def test_code_draws_at_once_and_errors_reach_it():
    panel, seen = counting_panel()

    async def cell():  # a notebook's cell runs inside the kernel's loop too
        panel.controls["value"].value = 5
        assert seen == [0, 5]
        with pytest.raises(ValueError, match="unlucky"):
            panel.set(value=13)
    asyncio.run(cell())


def test_an_error_while_dragging_is_shown_and_goes_away(capsys):
    panel, _ = counting_panel()

    async def drag(value):
        from_browser(panel.controls["value"], value)
        await asyncio.sleep(0.1)
    asyncio.run(drag(13))
    assert "ValueError: unlucky" in panel.message
    assert "unlucky" in capsys.readouterr().err
    asyncio.run(drag(14))
    assert panel.message == ""


def test_an_error_at_creation_is_raised():
    def draw(value, figure):
        raise RuntimeError("no")
    with pytest.raises(RuntimeError, match="no"):
        Panel(draw, {"value": slider(0, 0, 1, 1, "value")})


def test_unknown_control_is_named():
    panel, _ = counting_panel()
    with pytest.raises(ValueError, match="no control is called kapa; there is value"):
        panel.set(kapa=1)


def test_set_draws_once_for_many_controls():
    panel = small_digit_panel()
    panel.set(image=2, step=1)
    assert panel.redraws == 2


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook's document would hold: by display id the last bundle."""
    document = {}

    def display(data, *, raw, display_id=None, update=False):
        assert raw and (not update or display_id in document)
        document[display_id] = data
    monkeypatch.setattr(kit, "display", display)
    return document


def kept(document: dict) -> bytes:
    return base64.b64decode(next(data["image/png"] for data in document.values()
                                 if "image/png" in data))


def test_the_notebook_keeps_the_last_picture_beside_the_panel(notebook):
    panel, _ = counting_panel()
    panel._ipython_display_()
    sheet, image, live = notebook.values()
    assert "application/vnd.jupyter.widget-view+json" in live and "Panel(" in live["text/plain"]
    assert "<style>" in sheet["text/html"] and panel.text in sheet["text/html"]
    assert image["text/plain"] == panel.text
    before = kept(notebook)
    panel.set(value=7)
    assert np.abs(pixels(kept(notebook)) - pixels(canvas.png(panel.figure))).max() < 10
    assert kept(notebook) != before and "value 7" in panel.text
    assert kept(notebook) == panel.picture


def test_while_dragging_the_notebook_waits_for_a_pause(notebook, monkeypatch):
    monkeypatch.setattr(kit, "PAUSE", 2.0)  # long, so that a busy machine is not taken for one
    panel, _ = counting_panel()
    panel._ipython_display_()
    before = kept(notebook)

    async def drag():
        for value in (3, 4, 5):
            from_browser(panel.controls["value"], value)
            await asyncio.sleep(0.05)
            assert kept(notebook) == before
        for _ in range(200):
            if kept(notebook) != before:
                break
            await asyncio.sleep(0.05)
    asyncio.run(drag())
    assert panel.redraws == 4 and kept(notebook) == panel.picture != before


def test_text_says_the_controls_and_the_titles():
    assert norm_bound_panel(n=6, kappa=0.5).text.startswith(
        "κ = ‖A‖∞ 0.5, n 6, φ tanh, entries positive. Eigenvalues of A. ")
    assert "Guaranteed: one equilibrium" in norm_bound_panel(n=6, kappa=0.5).text


def test_the_picture_shrinks_with_its_cell_as_long_as_its_letters_can_be_read():
    panel = norm_bound_panel(n=6)
    width, letters = panel.figure.bbox.width, canvas.smallest_text(panel.figure)
    layout = next(w.layout for w in panel.children if isinstance(w, ipywidgets.Image))
    assert (layout.width, layout.max_width, layout.height) == (f"{width:.0f}px", "100%", "auto")
    least = int(layout.min_width.removesuffix("px"))
    assert 9 <= letters * least / width < 9.1


def test_the_smallest_text_is_that_which_is_seen():
    ax = canvas.axes(None)
    ax.set(xlabel="x", xticks=[], yticks=[])
    ax.text(0, 0, "small", fontsize=7.2)
    ax.text(0, 0, " ", fontsize=1)
    ax.text(0, 0, "unseen", fontsize=1, visible=False)
    assert canvas.smallest_text(ax.figure) == pytest.approx(10)  # 7.2 points at 100 dots an inch


def test_a_panel_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        counting_panel()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: convergence_panel(kappa=1.6), "must be >= 0 and <= 1.5, got 1.6"),
    (lambda: convergence_panel(activation="rleu"), "Did you mean 'relu'"),
    (lambda: norm_bound_panel(kappa=2), "must be >= 0 and <= 1.5, got 2"),
    (lambda: norm_bound_panel(n=1), "n must be at least 2, got 1"),
    (lambda: norm_bound_panel(kind="pos"), "Did you mean 'positive'"),
    (lambda: digit_panel(None, torch.ones(2, 9, device="cpu"), [0, 1]), "p=64"),
    (lambda: digit_panel(None, torch.ones(0, 64, device="cpu"), []), "at least one"),
    (lambda: small_digit_panel().set(image=99), "image must be >= 0 and <= 4, got 99"),
])
def test_panels_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_setting_moves_nothing():
    panel = norm_bound_panel(n=3)
    with pytest.raises(ValueError, match="activation"):
        panel.set(kappa=0.5, activation="bad")
    assert panel.values["kappa"] == 0.9 and panel.redraws == 1


def test_a_larger_n_than_the_slider_has_is_drawn():
    assert norm_bound_panel(n=80).values["n"] == 80
