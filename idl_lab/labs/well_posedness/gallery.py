"""What the norm bound does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from matplotlib.figure import Figure

from idl_lab.constraints import Project, Row, Scale
from idl_lab.fixed_point import Picard
from idl_lab.labs.kit.problems import generator, normal, random_matrix, solve_quietly
from idl_lab.labs.well_posedness.panel import norm_bound_panel
from idl_lab.labs.well_posedness.plots import (
    draw_balls,
    draw_paths,
    draw_row_sums,
    draw_spectrum,
    draw_weighted_norm,
)
from idl_lab.labs.well_posedness.problems import several_starts


def norm_bound() -> Figure:
    """tanh with ‖A‖∞ = 1.2: several equilibria."""
    return norm_bound_panel(kappa=1.2).figure


def norm_bound_film() -> Iterator[Figure]:
    """The norm-bound panel while κ is dragged from 0.5 to 1.3."""
    panel = norm_bound_panel()
    for kappa in np.linspace(0.5, 1.3, 41):
        panel.set(kappa=round(float(kappa), 2))
        yield panel.figure


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


def weighted_norm() -> Figure:
    """One matrix in all units of its second state."""
    return draw_weighted_norm(torch.tensor([[0.2, 1.4], [0.1, 0.4]], dtype=torch.float64,
                                           device="cpu"))


GALLERY = (norm_bound, spectrum, row_sums, paths, balls, weighted_norm)
FILMS = (norm_bound_film,)
