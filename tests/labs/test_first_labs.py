"""The problems and panels of labs 00 to 02: what they promise at any seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from idl_lab.fixed_point import Picard
from idl_lab.labs.fixed_points.panel import convergence_panel
from idl_lab.labs.fixed_points.problems import even_injection
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.problems import random_matrix, solve_quietly
from idl_lab.labs.well_posedness.problems import several_starts, spread


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [2, 12, 40])
def test_an_even_injection_leaves_every_relu_on(n, seed):
    b = even_injection(n, generator=seeded(seed))
    assert b.shape == (1, n) and b.min() >= 0.75 and b.max() <= 1.25
    A = random_matrix(n, 1.3, "negative", generator=seeded(seed))
    inverse = np.linalg.solve(np.eye(n) - A.numpy(), b[0].numpy())
    assert inverse.min() > 0


@pytest.mark.parametrize(("damping", "rescued"), [(1.0, False), (0.9, False), (0.8, True)])
def test_damping_is_seen_to_rescue_where_entries_are_negative(damping, rescued):
    panel = convergence_panel()
    panel.set(kind="negative", kappa=1.3, damping=damping, step=150)
    said = {name: words.get_text() for name, words in canvas.moving(panel.figure.axes[0]).items()
            if name.startswith("name")}
    assert "not converged" in said["name 0"], "undamped it jumps to and fro"
    # 2/(1 + κ) = 0.87 is the largest damping that converges.
    assert ("not converged" not in said["name 1"]) == rescued


@pytest.mark.parametrize("kind", ["positive", "signed", "negative"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("kappa", [0.9, 1.5])
def test_every_setting_of_the_convergence_panel_draws(kind, activation, kappa):
    figure = convergence_panel(n=6, kind=kind, activation=activation, kappa=kappa).figure
    A = random_matrix(6, kappa, kind, generator=seeded()).numpy()
    parts = canvas.moving(figure.axes[1])
    rings = parts["rings"].get_ydata()
    found = canvas.moving(figure.axes[0])["rings"].get_text()
    if (kind, activation, kappa) == ("positive", "relu", 1.5):
        assert found == "no equilibrium found" and np.isnan(rings).all()
        return
    generator = seeded()
    torch.randn(6, 6, generator=generator, dtype=torch.float64, device="cpu")  # A's own draws
    b = even_injection(6, generator=generator)[0].numpy()
    phi = {"relu": lambda s: np.maximum(s, 0), "tanh": np.tanh,
           "sigmoid": lambda s: 1 / (1 + np.exp(-s))}[activation]
    assert np.abs(phi(A @ rings + b) - rings).max() < 1e-9


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("n", [1, 3, 20])
def test_starts_lie_on_both_sides_and_find_both_equilibria(n, seed):
    starts = several_starts(n, 5, generator=seeded(seed), reach=2.0)
    assert starts.shape == (5, n) and starts.abs().max() <= 2
    assert (starts[0] >= 0).all() and torch.equal(starts[1], -starts[0])
    A = random_matrix(n, 1.2, "positive", generator=seeded(seed))
    solution = solve_quietly(A, torch.full_like(starts, 0.001), "tanh", Picard(1e-6), X0=starts)
    assert spread(solution) > 1


def test_one_start_is_enough():
    assert several_starts(3, 1, generator=seeded()).shape == (1, 3)
