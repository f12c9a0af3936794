"""The gradient panel: it draws what `equilibrium` gives, at every setting."""

from __future__ import annotations

import re

import numpy as np
import pytest

from idl_lab.labs.implicit_gradients.panel import GRID, gradient_panel
from idl_lab.labs.kit import canvas


def cosine(panel, name: str) -> float:
    texts = [t.get_text() for t in panel.figure.axes[1].texts]
    (text,) = [t for t in texts if t.startswith(name)]
    return float(re.search(r"[+-][\d.]+", text).group())


def test_it_draws_once_and_follows_its_controls():
    panel = gradient_panel()
    assert panel.redraws == 1
    first, figure = canvas.png(panel.figure), panel.figure
    for k, move in enumerate([{"steps": 3}, {"kappa": 0.4}, {"activation": "tanh"},
                              {"listens": "hub"}]):
        panel.set(**move)
        now = canvas.png(panel.figure)
        assert panel.redraws == k + 2 and now != first and panel.figure is figure
        first = now


def test_more_steps_bring_two_gradients_home_and_not_the_third():
    panel = gradient_panel(kappa=0.6)
    panel.set(steps=GRID[-1], listens="hub")
    assert cosine(panel, "implicit") == cosine(panel, "unrolled") == 1
    assert cosine(panel, "one-step") < 0
    panel.set(kappa=0.2)
    assert 0 < cosine(panel, "one-step") < 1
    panel.set(kappa=0.0)
    assert cosine(panel, "one-step") == 1


def test_its_curves_fall_at_the_rate_kappa():
    panel = gradient_panel(kappa=0.5)
    errors = canvas.moving(panel.figure.axes[0])["curve 0"].get_ydata()
    at = GRID.index(16)
    assert (errors[at] / errors[at - 1]) ** (1 / 8) == pytest.approx(0.5, abs=0.02)


def test_moving_the_steps_measures_the_curves_only_once(monkeypatch):
    from idl_lab.labs.implicit_gradients import panel as gradients
    calls = []
    measure = gradients.gradients_after
    monkeypatch.setattr(gradients, "gradients_after",
                        lambda steps, *rest: calls.append(tuple(steps)) or measure(steps, *rest))
    panel = gradient_panel()
    panel.set(steps=5)
    panel.set(steps=6)
    assert calls == [GRID, (8,), (5,), (6,)]


def test_every_corner_draws():
    panel = gradient_panel(n=3)
    for phi in panel.controls["activation"].options:
        for listens in panel.controls["listens"].options:
            for kappa, steps in ((0.0, 1), (0.95, 1), (0.95, GRID[-1])):
                panel.set(activation=phi, listens=listens, kappa=kappa, steps=steps)
                assert np.isfinite(panel.figure.axes[0].get_ylim()).all()


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n": 1}, "n must be at least 2, got 1"),
    ({"kappa": 1.0}, "must be >= 0 and <= 0.95, got 1"),
    ({"activation": "rleu"}, "Did you mean 'relu'"),
])
def test_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        gradient_panel(**arguments)
