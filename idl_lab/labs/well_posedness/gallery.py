"""What the norm bound does."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from idl_lab.constraints import Project, Row, Scale
from idl_lab.fixed_point import Picard
from idl_lab.labs.kit.problems import generator, normal, random_matrix, solve_quietly
from idl_lab.labs.well_posedness.plots import (
    draw_balls,
    draw_norm_bound,
    draw_paths,
    draw_row_sums,
    draw_spectrum,
)
from idl_lab.labs.well_posedness.problems import several_starts


def norm_bound() -> Figure:
    """tanh with ‖A‖∞ = 1.2: several equilibria."""
    draws = generator()
    A = random_matrix(20, 1.2, "positive", generator=draws)
    b = 0.02 * normal(1, 20, generator=draws).expand(5, -1)
    solution = solve_quietly(A, b, "tanh", Picard(max_steps=200),
                             X0=several_starts(20, 5, generator=draws))
    return draw_norm_bound(A, solution, 1.2, 1e-6, "tanh, ‖A‖∞ = 1.2: several equilibria",
                                 max_steps=200)


def spectrum() -> Figure:
    """A signed matrix: its eigenvalues stay well inside λ_PF(|A|)."""
    return draw_spectrum(random_matrix(40, 0.95, generator=generator()))


def row_sums() -> Figure:
    """The same matrix's rows."""
    return draw_row_sums(random_matrix(40, 0.95, generator=generator()), 0.95)


def paths() -> Figure:
    """Five starts, one equilibrium."""
    draws = generator()
    A = random_matrix(20, 0.9, generator=draws)
    b = normal(1, 20, generator=draws).expand(5, -1)
    starts = several_starts(20, 5, generator=draws, reach=3)
    return draw_paths(solve_quietly(A, b, "relu", Picard(), X0=starts).trace.states)


def balls() -> Figure:
    """Three ways to bring two rows into the ball."""
    rows = torch.tensor([[1.4, 0.35], [-0.3, -0.5]], dtype=torch.float64, device="cpu")
    return draw_balls(rows, {"scale": Scale(0.7)(rows), "row": Row(0.7)(rows),
                                   "project": Project(0.7)(rows)}, 0.7)


GALLERY = (norm_bound, spectrum, row_sums, paths, balls)
