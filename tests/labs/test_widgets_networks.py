"""The network panel and the exercise of lab 03."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers import CPU64

from idl_lab import ImplicitModel, compose
from idl_lab.labs import check
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.exercise import Outcome
from idl_lab.labs.networks_as_implicit_models.panel import network_panel


def verdict(panel) -> str:
    return canvas.moving(panel.figure.axes[0])["verdict"].get_text()


def test_it_draws_once_and_follows_its_controls():
    panel = network_panel()
    assert panel.redraws == 1
    first, figure = bytes(panel._image.value), panel.figure
    for k, move in enumerate([{"kappa": 0.3}, {"layers": 5}, {"kind": "conv"},
                              {"kind": "residual"}]):
        panel.set(**move)
        now = bytes(panel._image.value)
        assert panel.redraws == k + 2 and now != first and panel.figure is figure
        first = now


def test_every_corner_keeps_its_promise():
    panel = network_panel()
    for kind in panel.controls["kind"].options:
        for layers in (1, 6):
            for kappa in (0.05, 0.99):
                panel.set(kind=kind, layers=layers, kappa=kappa)
                after = canvas.moving(panel.figure.axes[1])["after"].get_ydata()
                v = canvas.moving(panel.figure.axes[2])["units"].get_ydata()[::3]
                assert np.nanmax(after) <= max(kappa, 1e-3)  # empty rows stand at the axis' foot
                size = 32 if kind == "conv" else 24
                assert len(v) == layers * size and v.min() >= 1 - 1e-9 and v.max() < 1e10
                assert verdict(panel).startswith(f"{kind}, {len(v)} states: λ_PF(|A|) = 0,")
                labels = [t.get_text() for t in panel.figure.axes[2].get_xticklabels()]
                assert labels == [f"x{k}" for k in range(layers, 0, -1)]


def test_halving_kappa_multiplies_the_largest_unit():
    panel = network_panel(layers=4)
    largest = []
    for kappa in (0.2, 0.1):
        panel.set(kappa=kappa)
        largest.append(float(re.search(r"largest unit ([\d.e+]+)", verdict(panel))[1]))
    assert 4 < largest[1] / largest[0] <= 8


def test_moving_kappa_reads_no_network_anew(monkeypatch):
    from idl_lab.labs.networks_as_implicit_models import panel as networks
    calls, make = [], networks.small_network
    monkeypatch.setattr(networks, "small_network",
                        lambda *args, **kw: calls.append(args) or make(*args, **kw))
    panel = network_panel()
    panel.set(kappa=0.5)
    panel.set(layers=2)
    panel.set(layers=3)
    assert calls == [("dense", 3), ("dense", 2)]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"kind": "denze"}, "Did you mean 'dense'"),
    ({"layers": 7}, "hidden layers must be >= 1 and <= 6, got 7"),
    ({"kappa": 1.0}, "must be >= 0.05 and <= 0.99, got 1"),
    ({"seed": -1}, "seed must be at least 0"),
])
def test_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        network_panel(**arguments)


# ---- the exercise ---------------------------------------------------------------------------


def model(seed, p, q, n):
    generator = torch.Generator("cpu").manual_seed(seed)
    return ImplicitModel(p, q, n, generator=generator, **CPU64)


FIRST, LAST = model(0, 3, 2, 4), model(1, 2, 5, 3)


def blocks(top_left, top_right, low_left, low_right):
    return torch.cat([torch.cat([top_left, top_right], 1), torch.cat([low_left, low_right], 1)])


A1, A2 = FIRST.A.detach(), LAST.A.detach()
HEARD = (LAST.B @ FIRST.C).detach()
ZERO = torch.zeros(4, 3, **CPU64)
RIGHT = blocks(A2, HEARD, ZERO, A1)


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (..., Outcome.NOT_ATTEMPTED, "a matrix"),
    (3, Outcome.HINT, "yours is 3"),
    (A1, Outcome.HINT, "3 + 4 states"),
    (blocks(A1, ZERO, HEARD, A2), Outcome.HINT, "order is turned round"),
    (blocks(0 * A2, HEARD, ZERO, A1), Outcome.HINT, "On the diagonal"),
    (blocks(A2, HEARD, ZERO + 1, A1), Outcome.HINT, "lower left"),
    (blocks(A2, 0 * HEARD, ZERO, A1), Outcome.HINT, "is missing"),
    (blocks(A2, -HEARD, ZERO, A1), Outcome.HINT, "B₂ multiplies"),
    (RIGHT.to(torch.complex64), Outcome.HINT, "real"),
    (float("nan") * RIGHT, Outcome.HINT, "finite"),
    (RIGHT, Outcome.RIGHT, "triangular"),
    (RIGHT.float(), Outcome.RIGHT, "triangular"),
    (RIGHT.clone().requires_grad_(), Outcome.RIGHT, "triangular"),
])
def test_cascade_matrix(answer, outcome, words):
    verdict = check.networks_as_implicit_models.cascade_matrix(answer, FIRST, LAST)
    assert verdict.outcome is outcome and words in verdict.sentence, verdict


def test_the_answer_is_what_compose_says():
    answer = compose.cascade(FIRST, LAST).A
    assert check.networks_as_implicit_models.cascade_matrix(answer, FIRST, LAST).right
