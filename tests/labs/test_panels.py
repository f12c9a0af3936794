"""Every lab's panel: it fits a cell, is read there, and no word in it stands on another."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from helpers import draw
from sim_cases import data, problem
from torch import nn

from idl_lab.labs.any_layer.panel import stability_panel
from idl_lab.labs.any_layer.problems import classifier
from idl_lab.labs.extrapolation.panel import unit_panel
from idl_lab.labs.extrapolation.problems import Normalised, Perceptron, argmax, arithmetic
from idl_lab.labs.fixed_points.panel import convergence_panel
from idl_lab.labs.graphs.panel import transport_panel
from idl_lab.labs.implicit_gradients.panel import gradient_panel
from idl_lab.labs.implicit_rnn.panel import reading_panel
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.panel import LETTERS
from idl_lab.labs.kit.recurrent import TorchRNN
from idl_lab.labs.networks_as_implicit_models.panel import network_panel
from idl_lab.labs.robustness.panel import margin_panel
from idl_lab.labs.sim_at_scale.panel import scale_panel
from idl_lab.labs.sim_solvers.panel import SolverComparison, path_panel
from idl_lab.labs.sim_states.panel import sim_states_panel
from idl_lab.labs.sim_states.problems import bound_study
from idl_lab.labs.sparsity.panel import sparsity_panel
from idl_lab.labs.sparsity.problems import random
from idl_lab.labs.start_here.panel import digit_panel
from idl_lab.labs.sweeps.panel import difference_panel
from idl_lab.labs.training.panel import tolerance_panel
from idl_lab.labs.well_posedness.panel import norm_bound_panel
from idl_lab.model import ImplicitModel
from idl_lab.rnn import ImplicitRNN
from idl_lab.sim.solvers import ADMMSolver

CELL = 820  # pixels that a cell leaves in a window of 1000, as tests/labs/test_browser.py has it
# JupyterLab at 1280 × 720 with its file browser leaves a cell 860 pixels, and 600 below a tab.
WIDTH, HEIGHT = 860, 480
CPU = {"device": "cpu"}


def model(inputs: int, outputs: int) -> ImplicitModel:
    return ImplicitModel(inputs, outputs, 8, generator=torch.Generator("cpu").manual_seed(0), **CPU)


def states_panel():
    U = draw(0, 60, 6).float()
    teacher = nn.Sequential(nn.Linear(6, 5, bias=False, **CPU), nn.ReLU(),
                            nn.Linear(5, 3, bias=False, **CPU))
    batches = [(U, torch.arange(60, **CPU) % 3)]
    study = bound_study(teacher, batches, batches, (0.05, 0.5), ADMMSolver(progress=False, **CPU))
    return sim_states_panel({"it": teacher}, {"it": study})


def lambda_panel():
    """A path with the longest words that there are."""
    table = pd.DataFrame({"fidelity": [-10.0, 0.99999], "accuracy": [0.1, 0.999],
                          "nonzeros": [1, 123456], "gap": [1e-3, 1e-12],
                          "chosen": [False, True]}, index=pd.Index([100.0, 0.0316], name="lambda"))
    return path_panel({"random": {"as fitted": table, "refitted": table}}, {"random": 1.0})


def sparse_panel():
    """With the longest name of a method, and the most digits."""
    task = random(0, sizes=(10, 60, 50, 10)).first(300)
    walks = {name: {0.2: task.prune("magnitude", 0.2), 0.95: task.prune("magnitude", 0.95)._replace(
        fidelity=-1e9)} for name in ("OBC", "SIM without feedback, adaptive")}
    return sparsity_panel(task, walks, 0.2)


def scales_panel():
    """Not trained; two models of a task, with long names."""
    seeded = torch.Generator("cpu").manual_seed(0)
    _, sums = arithmetic("add", 1, 40, generator=seeded)
    _, places = argmax(1, 40, generator=seeded)
    network = Perceptron(50, 1, 600, bias=True, generator=seeded)
    reader = TorchRNN("LSTM", 1, 10, 300, generator=seeded)
    return unit_panel({"sums": ({"implicit, ReLU": network, "network, ReLU and biases": network},
                                sums),
                       "argmax": ({"implicit RNN": reader, "LSTM, normalised": Normalised(reader)},
                                  places)})


def margins_panel():
    """Of models that are not trained: most answers are wrong."""
    models = {"κ = 0.99": model(64, 10), "bounds at ε = 0.03": model(64, 10)}
    return margin_panel(models, draw(0, 5, 64).float().sigmoid(), LABELS)


def seeds_panel():
    """Numbers with all their digits, of the number with the longest name."""
    scores = 0.8 + 0.1 * draw(0, 4, 12).numpy()
    return difference_panel(pd.DataFrame([
        {"kappa": kappa, "rank": rank, "seed": seed, "test_accuracy": score,
         "validation_accuracy": -score, "steps": 1234 * score}
        for (kappa, rank), row in zip([(k, r) for k in (0.5, 0.99) for r in (1, None)], scores,
                                      strict=True)
        for seed, score in enumerate(row)]).astype({"rank": "Int64"}))


LABELS = torch.arange(5, **CPU)
PANELS = {  # how each is made, and a move that brings its longest words
    "00": (lambda: digit_panel(model(64, 10), draw(0, 5, 64).float().sigmoid(), LABELS, steps=6),
           {}),
    "01": (convergence_panel, {}),
    "02": (norm_bound_panel, {}),
    "03": (network_panel, {"kind": "residual", "layers": 6, "kappa": 0.05}),
    "04": (gradient_panel, {"listens": "hub", "steps": 40}),
    "05": (lambda: tolerance_panel(model(64, 10), draw(0, 5, 64).float().sigmoid(), LABELS),
           {"digits": 0.0}),
    "06": (lambda: reading_panel(ImplicitRNN(8, 10, 5, 6, activation="tanh", **CPU),
                                 draw(0, 5, 8, 8).float().sigmoid(), LABELS), {"time": 0}),
    "07": (states_panel, {"kappa": "0.5"}),
    "08": (lambda: SolverComparison(problem(*data(), lam=0.5, kappa=0.9, ball=7),
                                    {"ADMM": ADMMSolver(progress=False, **CPU)}), {}),
    "08 λ": (lambda_panel, {"way": "refitted", "lam": "0.0316"}),
    "09": (scale_panel, {}),
    "10": (seeds_panel, {"number": "validation_accuracy", "one": "κ 0.99, rank 1", "seeds": 12}),
    "11": (sparse_panel, {"method": "SIM without feedback, adaptive", "gone": "95%"}),
    "12": (margins_panel, {"image": 4, "eps": 0.15, "model": "bounds at ε = 0.03"}),
    "13": (scales_panel, {"model": "sums: network, ReLU and biases", "digits": -3.0}),
    "13 argmax": (scales_panel, {"model": "argmax: LSTM, normalised", "digits": 4.75}),
    "14": (lambda: stability_panel(classifier().layer.f, draw(0, 1, 8, 4, 4).float()),
           {"gain": 4.0, "norm": "none"}),
    "15": (transport_panel, {"kappa": 0.99, "length": 60, "step": 200}),
}


@pytest.fixture(params=PANELS.values(), ids=PANELS)
def panel(request):
    return request.param[0]()


@pytest.fixture(params=PANELS.values(), ids=PANELS)
def moved(request):
    make, move = request.param
    panel = make()
    panel.set(**move)
    return panel


def test_the_picture_fits_a_cell_with_letters_that_can_be_read(panel):
    width, height = panel.figure.bbox.size
    assert width <= WIDTH and height <= HEIGHT
    assert canvas.smallest_text(panel.figure) * min(1, CELL / width) >= LETTERS
    assert panel.figure.canvas.get_width_height()[0] == round(width)


def test_its_text_names_every_control_and_every_title(panel):
    assert all(control.description in panel.text for control in panel.controls.values())
    for ax in panel.figure.axes:
        title = canvas.moving(ax).get("title")
        assert " ".join((title.get_text() if title else ax.get_title()).split()) in panel.text


def test_every_word_is_inside_and_clear_of_the_others(moved):
    figure = moved.figure
    figure.canvas.draw()
    words = [(text.get_text(), text.get_window_extent())
             for ax in figure.axes for text in words_of(ax)]
    outside = [word for word, box in words if min(box.x0, box.y0) < -1
               or box.x1 > figure.bbox.width + 1 or box.y1 > figure.bbox.height + 1]
    clashes = [(one, other) for k, (one, a) in enumerate(words) for other, b in words[:k]
               if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1]
    assert words and not outside and not clashes


def words_of(ax) -> list:
    legend = ax.get_legend()
    shown = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts,
             *(legend.get_texts() if legend else [])]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        shown += [tick.label2 if tick.label2.get_visible() else tick.label1
                  for tick in axis.get_major_ticks()
                  if low <= tick.get_loc() <= high]
    return [text for text in shown if text.get_visible() and text.get_text()]
