"""Every panel fits its cell, and no word in it stands on another."""

from __future__ import annotations

import pytest
import torch

from idl_lab.labs.fixed_points.panel import convergence_panel
from idl_lab.labs.implicit_gradients.panel import gradient_panel
from idl_lab.labs.implicit_rnn.panel import reading_panel
from idl_lab.labs.networks_as_implicit_models.panel import network_panel
from idl_lab.labs.start_here.panel import digit_panel
from idl_lab.labs.training.panel import tolerance_panel
from idl_lab.labs.well_posedness.panel import norm_bound_panel
from idl_lab.model import ImplicitModel
from idl_lab.rnn import ImplicitRNN


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(3, *shape, generator=seeded(), device="cpu")


def digits_model() -> ImplicitModel:
    return ImplicitModel(64, 10, 8, device="cpu", generator=seeded())


LABELS = torch.arange(3, device="cpu")
PANELS = {
    "digit": (lambda: digit_panel(digits_model(), images(64), LABELS, steps=6), {}),
    "convergence": (convergence_panel, {}),
    "norm bound": (norm_bound_panel, {}),
    "network": (network_panel, {"kind": "residual", "layers": 6, "kappa": 0.05}),
    "gradient": (gradient_panel, {"listens": "hub", "steps": 40}),
    "tolerance": (lambda: tolerance_panel(digits_model(), images(64), LABELS), {"digits": 2.0}),
    "reading": (lambda: reading_panel(ImplicitRNN(8, 10, 5, 6, activation="tanh", device="cpu",
                                                  generator=seeded()), images(8, 8), LABELS),
                {"time": 0}),
}


@pytest.fixture(params=PANELS.values(), ids=PANELS)
def panel(request):
    make, _ = request.param
    return make()


def test_a_panel_fits_beside_the_file_browser(panel):
    width, height = panel.figure.bbox.size
    # JupyterLab at 1280 × 720 with its file browser leaves a cell 860 pixels, and 600 below a tab.
    assert width <= 860 and height <= 480


@pytest.mark.parametrize(("make", "move"), PANELS.values(), ids=PANELS)
def test_every_word_in_a_panel_is_inside_and_clear_of_the_others(make, move):
    panel = make()
    panel.set(**move)
    figure = panel.figure
    figure.canvas.draw()
    boxes = [text.get_window_extent() for ax in figure.axes for text in words_of(ax)]
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1
        assert box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
    clashes = [(a, b) for k, a in enumerate(boxes) for b in boxes[:k]
               if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1]
    assert not clashes


def words_of(ax) -> list:
    shown = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        shown += [tick.label2 if tick.label2.get_visible() else tick.label1
                  for tick in axis.get_major_ticks()
                  if low <= tick.get_loc() <= high]
    return [text for text in shown if text.get_visible() and text.get_text()]
