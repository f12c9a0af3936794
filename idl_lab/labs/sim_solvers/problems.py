"""A step of ADMM and a solver with momentum, as lab 08 writes them down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import BaseSolver


def admm_step(problem: Problem, zeta: Tensor, mu: Tensor, rho: float) -> Tensor:
    """β, ζ and μ after one step of ADMM, for all rows at once.

    Parameters
    ----------
    problem : Problem
        Of k rows and d columns.
    zeta, mu : Tensor, shape (k, d)
        The second copy of the rows, and the account of the difference.
    rho : float
        ρ > 0.

    Returns
    -------
    Tensor, shape (3, k, d)

    References
    ----------
    Boyd et al. 2011, Distributed Optimization and Statistical Learning via the Alternating
    Direction Method of Multipliers, section 6.4.
    """
    eye = torch.eye(len(problem.Q), dtype=mu.dtype, device=mu.device)
    beta = torch.linalg.solve(problem.Q + rho * eye, problem.cross + rho * (zeta - mu), left=False)
    zeta = problem.prox(beta + mu, 1 / rho)
    return torch.stack([beta, zeta, mu + beta - zeta])


@dataclass(frozen=True, kw_only=True)
class Momentum(BaseSolver):
    """FISTA (Beck and Teboulle 2009), and without its momentum the plain proximal gradient."""

    momentum: ClassVar[float] = 1.0

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Each step from a point beyond the last one, in the direction of the last move."""
        step, t = 1 / problem.spectrum[0].amax(), 1.0
        W = ahead = problem.zeros()
        while True:
            before, W = W, problem.prox(ahead - step * problem.gradient(ahead), step)
            last, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
            ahead = W + self.momentum * (last - 1) / t * (W - before)
            yield W
