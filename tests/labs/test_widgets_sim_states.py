"""The panel of lab 07."""

from __future__ import annotations

import functools

import ipywidgets
import pandas as pd
import pytest
import torch
from helpers import draw
from torch import nn

from idl_lab.labs.kit import canvas
from idl_lab.labs.sim_states.panel import sim_states_panel
from idl_lab.labs.sim_states.problems import bound_study
from idl_lab.sim.solvers import ADMMSolver


def taught(activation=nn.ReLU):
    """A teacher at random, who is right by definition, and data."""
    cpu = {"device": "cpu", "bias": False}
    teacher = nn.Sequential(nn.Linear(6, 5, **cpu), activation(), nn.Linear(5, 4, **cpu),
                            activation(), nn.Linear(4, 3, **cpu))
    with torch.no_grad():
        for k, layer in enumerate(teacher[::2]):
            layer.weight.copy_(draw(k, *layer.weight.shape))
        U = draw(9, 60, 6).float()
        return teacher, [(U, teacher(U).argmax(1))], [(U, teacher(U).argmax(1))]


def shown(panel) -> bytes:
    return bytes(next(w for w in panel.children if isinstance(w, ipywidgets.Image)).value)


KAPPAS = (0.1, 0.5, 0.9)


@functools.cache
def study() -> pd.DataFrame:
    return bound_study(*taught(), KAPPAS, ADMMSolver(tol=1e-4, device="cpu", progress=False))


def panel(kappa: float = 0.5):
    worse = study().assign(fidelity=-1.0)
    return sim_states_panel({"one": taught()[0], "two": taught()[0]},
                            {"one": study(), "two": worse}, kappa)


def test_it_follows_kappa_and_the_teacher():
    shown_panel = panel()
    assert shown_panel.redraws == 1 and shown_panel.values == {"teacher": "one", "kappa": "0.5"}
    first, figure = shown(shown_panel), shown_panel.figure
    for k, kappa in enumerate(("0.1", "0.9")):
        shown_panel.set(kappa=kappa)
        now = shown(shown_panel)
        assert shown_panel.redraws == k + 2 and now != first and shown_panel.figure is figure
        moved = canvas.moving(figure.axes[0])
        there = study().loc[(float(kappa), True), "fidelity"]
        assert moved["verdict"].get_text().startswith(f"κ = {kappa}: fidelity {there:.4f} rescaled")
        assert max(moved["after"].get_ydata()[::3]) <= float(kappa)
        first = now
    shown_panel.set(teacher="two")
    assert "fidelity -1.0000" in canvas.moving(figure.axes[0])["verdict"].get_text()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: panel(0.4), "kappa='0.4' is not known; there is 0.1"),
    (lambda: sim_states_panel({"one": taught()[0]}, {"two": study()}), "studies must be of one"),
    (lambda: sim_states_panel({"a": taught()[0], "b": taught()[0]},
                              {"a": study(), "b": study().loc[[0.1]]}), "all for the same κ"),
])
def test_it_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
