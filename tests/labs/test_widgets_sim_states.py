"""The panel of lab 07."""

from __future__ import annotations

import ipywidgets
import pytest
import torch
from helpers import draw
from torch import nn

from idl_lab.labs.kit import canvas
from idl_lab.labs.sim_states import panel as sim_states
from idl_lab.labs.sim_states.panel import sim_states_panel


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


def test_it_fits_once_and_follows_kappa(monkeypatch):
    calls, study = [], sim_states.bound_study
    monkeypatch.setattr(sim_states, "bound_study",
                        lambda *args: calls.append(args[3]) or study(*args))
    panel = sim_states_panel(*taught(), kappas=(0.1, 0.5, 0.9))
    assert panel.redraws == 1 and panel.values == {"kappa": "0.5"}
    first, figure = shown(panel), panel.figure
    for k, kappa in enumerate(("0.1", "0.9")):
        panel.set(kappa=kappa)
        now = shown(panel)
        assert panel.redraws == k + 2 and now != first and panel.figure is figure
        moved = canvas.moving(figure.axes[0])
        assert moved["verdict"].get_text().startswith(f"κ = {kappa}: ")
        assert "teacher 100.0 %" in moved["verdict"].get_text()
        assert max(moved["after"].get_ydata()[::3]) <= float(kappa)
        first = now
    assert calls == [[0.1, 0.5, 0.9]]


@pytest.mark.parametrize(("options", "message"), [
    ({"kappa": 0.4}, "kappa='0.4' is not known; there is 0.05"),
    ({"kappas": (0.5, 1.0)}, "kappas must be > 0 and < 1, got 1"),
])
def test_it_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        sim_states_panel(*taught(), **options)
