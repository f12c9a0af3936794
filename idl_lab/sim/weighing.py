"""What λ means: the ℓ₁ weight of each entry, and least squares on the entries that it left."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from idl_lab.sim.problem import Problem

WEIGHTS = ("standard", "uniform", "adaptive")
# Of an adaptive weight's pilot: the ridge that it is found with, as a share of the mean eigenvalue
# in columns of one size, and the smallest relative entry, so that no weight is infinite.
PILOT_RIDGE, PILOT_LEAST = 1e-6, 1e-4
RELAXED = 1e-4  # of λ: what is left of it in a refit


def weighted(problem: Problem, how: str, samples: int) -> Problem:
    """The problem with the weights ω_ij of a name; those that are zero stay zero.

    Parameters
    ----------
    problem : Problem
        Of whose columns all or some are weighed.
    how : {"uniform", "standard", "adaptive"}
        1; s_i ω_j, with s_i the root mean square of target i and ω_j of feature j; or that
        divided by |w_ij| ω_j/s_i, the relative size of the entry in least squares.
    samples : int
        m, of the means.

    Returns
    -------
    Problem
        "standard" is the ℓ₁ norm of the W that reads the targets off the features when all are
        measured in their root mean squares, so that no unit of a layer or of the data changes
        what λ does. So is "adaptive" (Zou 2006), where what least squares find small costs more.

    References
    ----------
    Zou, The adaptive lasso and its oracle properties, J. Amer. Statist. Assoc. 101 (2006).
    """
    if how == "uniform":
        return problem
    weights = torch.ones_like(problem.gram[0]) if problem.weights is None else problem.weights
    feature, target = sizes(problem, samples)
    scale = weights * target[:, None] * feature
    if how == "adaptive":
        Q = problem.gram / feature / feature[:, None]
        Q.diagonal().add_(PILOT_RIDGE * float(Q.diagonal().mean()))
        pilot = torch.linalg.solve(Q, (problem.cross / feature).mT).mT / target[:, None]
        scale = scale / pilot.abs().clamp(min=PILOT_LEAST)
    return replace(problem, weights=scale)


def sizes(problem: Problem, samples: int) -> tuple[Tensor, Tensor]:
    """Root mean square of each feature (d,) and target (k,); 1 for what is zero throughout.

    Parameters
    ----------
    problem : Problem
    samples : int
        m.
    """
    squares = problem.gram.diagonal().clamp(min=0), problem.norms
    feature, target = ((square / samples).sqrt() for square in squares)
    return torch.where(feature > 0, feature, 1), torch.where(target > 0, target, 1)


def on_support(problem: Problem, W: Tensor) -> Problem:
    """The problem of W's non-zeros alone, next to without λ: least squares inside the ball.

    Parameters
    ----------
    problem : Problem
        Whose answer W is, with λ > 0.
    W : Tensor, shape (k, d)
        Its zeros in weighed columns stay zero.

    References
    ----------
    Meinshausen, Relaxed lasso, Comput. Statist. Data Anal. 52 (2007).
    """
    # No |φᵀr| of a residual that is no larger than its target exceeds ‖φ‖‖t‖: under that price an
    # entry is zero.
    price = (problem.gram.diagonal().clamp(min=0) * problem.norms[:, None]).sqrt()
    penalty = torch.where(W == 0, 2 * price, RELAXED * problem.penalty)
    floor = problem.penalty[problem.penalty > 0]
    penalty = penalty.clamp(min=RELAXED * float(floor.min()) if len(floor) else 0.0)
    return replace(problem, lam=1.0, weights=torch.where(problem.penalty > 0, penalty, 0))
