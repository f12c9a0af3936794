"""Solves, norms and bounds."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import plots
from idl_lab.constraints import Project, Row, Scale
from idl_lab.equilibrium import equilibrium
from idl_lab.examples import (
    random_matrix,
    several_starts,
    solve_quietly,
)
from idl_lab.figures.draws import generator, normal
from idl_lab.fixed_point import Anderson, Picard


def _methods() -> tuple[dict, Tensor]:
    draws = generator()
    A = random_matrix(12, 0.9, "positive", generator=draws)
    b = normal(1, 12, generator=draws).abs()
    solvers = {"Picard": Picard(), "damped 0.5": Picard(damping=0.5), "Anderson": Anderson()}
    solutions = {name: solve_quietly(A, b, "relu", solver) for name, solver in solvers.items()}
    return solutions, equilibrium(A, b, solver=Anderson(tol=1e-12)).value[0]


def residuals() -> Figure:
    """Three methods on one problem."""
    return plots.draw_residuals(_methods()[0], tol=1e-6)


def convergence() -> Figure:
    """The same, at step 8, with their states."""
    solutions, exact = _methods()
    return plots.draw_convergence(solutions, exact, 8, tol=1e-6)


def state() -> Figure:
    """Picard's state after five steps."""
    solutions, exact = _methods()
    return plots.draw_state(solutions["Picard"].trace.states[5, 0], exact, name="Picard, step 5")


def norm_bound() -> Figure:
    """tanh with ‖A‖∞ = 1.2: several equilibria."""
    draws = generator()
    A = random_matrix(20, 1.2, "positive", generator=draws)
    b = 0.02 * normal(1, 20, generator=draws).expand(5, -1)
    solution = solve_quietly(A, b, "tanh", Picard(max_steps=200),
                             X0=several_starts(20, 5, generator=draws))
    return plots.draw_norm_bound(A, solution, 1.2, 1e-6, "tanh, ‖A‖∞ = 1.2: several equilibria",
                                 max_steps=200)


def spectrum() -> Figure:
    """A signed matrix: its eigenvalues stay well inside λ_PF(|A|)."""
    return plots.draw_spectrum(random_matrix(40, 0.95, generator=generator()))


def row_sums() -> Figure:
    """The same matrix's rows."""
    return plots.draw_row_sums(random_matrix(40, 0.95, generator=generator()), 0.95)


def paths() -> Figure:
    """Five starts, one equilibrium."""
    draws = generator()
    A = random_matrix(20, 0.9, generator=draws)
    b = normal(1, 20, generator=draws).expand(5, -1)
    starts = several_starts(20, 5, generator=draws, reach=3)
    return plots.draw_paths(solve_quietly(A, b, "relu", Picard(), X0=starts).trace.states)


def balls() -> Figure:
    """Three ways to bring two rows into the ball."""
    rows = torch.tensor([[1.4, 0.35], [-0.3, -0.5]], dtype=torch.float64, device="cpu")
    return plots.draw_balls(rows, {"scale": Scale(0.7)(rows), "row": Row(0.7)(rows),
                                   "project": Project(0.7)(rows)}, 0.7)


GALLERY = (residuals, convergence, state, norm_bound, spectrum, row_sums, paths, balls)
