"""The network panel of lab 03, and what its exercise takes for right."""

from __future__ import annotations

import re

import numpy as np
import pytest

from idl_lab.labs.kit import canvas
from idl_lab.labs.networks_as_implicit_models.panel import network_panel


def verdict(panel) -> str:
    return canvas.moving(panel.figure.axes[0])["verdict"].get_text()


def test_it_draws_once_and_follows_its_controls():
    panel = network_panel()
    assert panel.redraws == 1
    first, figure = canvas.png(panel.figure), panel.figure
    for k, move in enumerate([{"kappa": 0.3}, {"layers": 5}, {"kind": "conv"},
                              {"kind": "residual"}]):
        panel.set(**move)
        now = canvas.png(panel.figure)
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
