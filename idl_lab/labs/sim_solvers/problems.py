"""One step of ADMM, as lab 08 writes it down."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.sim.problem import Problem


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
