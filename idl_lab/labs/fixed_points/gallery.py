"""Solves, norms and bounds."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.fixed_points.plots import draw_convergence, draw_model, draw_state
from idl_lab.labs.kit.plots import draw_residuals
from idl_lab.labs.kit.problems import generator, normal, random_matrix, solve_quietly


def _methods() -> tuple[dict, Tensor]:
    draws = generator()
    A = random_matrix(12, 0.9, "positive", generator=draws)
    b = normal(1, 12, generator=draws).abs()
    stop = {"rtol": 0.0, "atol": 1e-6}  # absolute, as the dashed line
    solvers = {"Picard": Picard(**stop), "damped 0.5": Picard(damping=0.5, **stop),
               "Anderson": Anderson(**stop)}
    solutions = {name: solve_quietly(A, b, "relu", solver) for name, solver in solvers.items()}
    return solutions, equilibrium(A, b, solver=Anderson(rtol=1e-12)).value[0]


def residuals() -> Figure:
    """Three methods on one problem."""
    return draw_residuals(_methods()[0], tol=1e-6)


def convergence() -> Figure:
    """The same, at step 8, with their states."""
    solutions, exact = _methods()
    return draw_convergence(solutions, exact, 8, tol=1e-6)


def state() -> Figure:
    """Picard's state after five steps."""
    solutions, exact = _methods()
    return draw_state(solutions["Picard"].trace.states[5, 0], exact, name="Picard, step 5")


def network(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, B, C, D) of a bias-free network 8-12-10-4: x = (x₂, x₁), the last layer first.

    Parameters
    ----------
    generator : torch.Generator
        Draws the weights.
    """
    W0, W1, W2 = (normal(*shape, generator=generator) for shape in ((12, 8), (10, 12), (4, 10)))
    A = torch.zeros(22, 22, dtype=W0.dtype, device=W0.device)
    B = torch.zeros(22, 8, dtype=W0.dtype, device=W0.device)
    C = torch.zeros(4, 22, dtype=W0.dtype, device=W0.device)
    A[:10, 10:], B[10:], C[:, :10] = W1, W0, W2
    return A, B, C, torch.zeros(4, 8, dtype=W0.dtype, device=W0.device)


def model() -> Figure:
    """A feed-forward network as an implicit model, beside a dense one."""
    draws = generator()
    dense = [normal(*s, generator=draws) for s in ((22, 22), (22, 8), (4, 22), (4, 8))]
    return draw_model({"a network of two hidden layers": network(draws),
                             "an implicit model": tuple(dense)}, blocks=(10, 12))


GALLERY = (residuals, convergence, state, model)
