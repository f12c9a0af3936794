"""The panel and the exercise of lab 07."""

from __future__ import annotations

import pytest
import torch
from helpers import CPU64, draw
from torch import nn

from idl_lab.labs import check
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.exercise import Outcome
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


def test_it_fits_once_and_follows_kappa(monkeypatch):
    calls, study = [], sim_states.bound_study
    monkeypatch.setattr(sim_states, "bound_study",
                        lambda *args: calls.append(args[3]) or study(*args))
    panel = sim_states_panel(*taught(), kappas=(0.1, 0.5, 0.9))
    assert panel.redraws == 1 and panel.values == {"kappa": "0.5"}
    first, figure = bytes(panel._image.value), panel.figure
    for k, kappa in enumerate(("0.1", "0.9")):
        panel.set(kappa=kappa)
        now = bytes(panel._image.value)
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


# ---- the exercise ---------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (lambda w, G, c, n: ..., Outcome.NOT_ATTEMPTED, "written with gram, cross and norm"),
    (lambda w, G, c, n: None, Outcome.NOT_ATTEMPTED, "written with gram, cross and norm"),
    (lambda w, G, c, n: w @ torch.ones(7, **CPU64), Outcome.HINT, "raised RuntimeError"),
    (lambda w, G, c, n: G @ w, Outcome.HINT, "shape (4,)"),
    (lambda w, G, c, n: "so", Outcome.HINT, "'so'"),
    (lambda w, G, c, n: 1j * (w @ w), Outcome.HINT, "one real number"),
    (lambda w, G, c, n: w @ G @ w - 2 * w @ c + n, Outcome.HINT, "factor ½ is missing"),
    (lambda w, G, c, n: 0.5 * w @ G @ w + w @ c + 0.5 * n, Outcome.HINT, "sign"),
    (lambda w, G, c, n: 0.5 * w @ G @ w - 0.5 * w @ c + 0.5 * n, Outcome.HINT, "counts twice"),
    (lambda w, G, c, n: 0.5 * w @ G @ w - w @ c, Outcome.HINT, "‖z‖² is missing"),
    (lambda w, G, c, n: 0.5 * w @ w + n, Outcome.HINT, "Expand"),
    (lambda w, G, c, n: float("nan") * n, Outcome.HINT, "Expand"),
    (lambda w, G, c, n: 0.5 * w @ G @ w - w @ c + 0.5 * n, Outcome.RIGHT, "nine samples"),
    (lambda w, G, c, n: ((G @ w / 2 - c) @ w + n / 2)[None], Outcome.RIGHT, "nine samples"),
    (lambda w, G, c, n: float((G @ w / 2 - c) @ w + n / 2), Outcome.RIGHT, "nine samples"),
])
def test_gram_objective(answer, outcome, words):
    verdict = check.sim_states.gram_objective(answer)
    assert verdict.outcome is outcome and words in verdict.sentence, verdict
