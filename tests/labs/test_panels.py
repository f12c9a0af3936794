"""Every lab's panel: its picture fits a cell, and its letters can be read there."""

from __future__ import annotations

import pytest
import torch
from helpers import draw
from sim_cases import data, problem
from torch import nn

from idl_lab.labs.fixed_points.panel import convergence_panel
from idl_lab.labs.implicit_gradients.panel import gradient_panel
from idl_lab.labs.implicit_rnn.panel import reading_panel
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.panel import LETTERS
from idl_lab.labs.networks_as_implicit_models.panel import network_panel
from idl_lab.labs.sim_at_scale.panel import scale_panel
from idl_lab.labs.sim_solvers.panel import SolverComparison
from idl_lab.labs.sim_states.panel import sim_states_panel
from idl_lab.labs.start_here.panel import digit_panel
from idl_lab.labs.training.panel import tolerance_panel
from idl_lab.labs.well_posedness.panel import norm_bound_panel
from idl_lab.model import ImplicitModel
from idl_lab.rnn import ImplicitRNN
from idl_lab.sim.solvers import ADMMSolver

CELL = 820  # pixels that a cell leaves in a window of 1000, as tests/labs/test_browser.py has it
CPU = {"device": "cpu"}


def model(inputs: int, outputs: int) -> ImplicitModel:
    return ImplicitModel(inputs, outputs, 8, generator=torch.Generator("cpu").manual_seed(0), **CPU)


def states_panel():
    U = draw(0, 60, 6).float()
    teacher = nn.Sequential(nn.Linear(6, 5, bias=False, **CPU), nn.ReLU(),
                            nn.Linear(5, 3, bias=False, **CPU))
    batches = [(U, torch.arange(60, **CPU) % 3)]
    return sim_states_panel(teacher, batches, batches, kappas=(0.05, 0.5))


LABELS = torch.arange(5, **CPU)
PANELS = {
    "00": lambda: digit_panel(model(64, 10), draw(0, 5, 64).float().sigmoid(), LABELS),
    "01": convergence_panel, "02": norm_bound_panel, "03": network_panel, "04": gradient_panel,
    "05": lambda: tolerance_panel(model(4, 3), draw(0, 5, 4).float(), LABELS % 3),
    "06": lambda: reading_panel(ImplicitRNN(8, 10, 5, 6, activation="tanh", **CPU),
                                draw(0, 5, 8, 8).float().sigmoid(), LABELS),
    "07": states_panel,
    "08": lambda: SolverComparison(problem(*data(), lam=0.5, kappa=0.9, ball=7),
                                   {"ADMM": ADMMSolver(progress=False, **CPU)}),
    "09": scale_panel,
}


@pytest.mark.parametrize("make", PANELS.values(), ids=PANELS)
def test_the_picture_fits_a_cell_with_letters_that_can_be_read(make):
    panel = make()
    width = panel.figure.bbox.width
    assert width <= 900
    assert canvas.smallest_text(panel.figure) * min(1, CELL / width) >= LETTERS
    assert panel.figure.canvas.get_width_height()[0] == round(width)


@pytest.mark.parametrize("make", PANELS.values(), ids=PANELS)
def test_its_text_names_every_control_and_every_title(make):
    panel = make()
    assert all(control.description in panel.text for control in panel.controls.values())
    for ax in panel.figure.axes:
        title = canvas.moving(ax).get("title")
        assert " ".join((title.get_text() if title else ax.get_title()).split()) in panel.text
