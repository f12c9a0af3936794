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
CONSTANT = 1e-12  # of the mean square: a smaller variance is rounding
RELAXED = 1e-4  # of λ: what is left of it in a refit


def weighted(problem: Problem, how: str, samples: int) -> Problem:
    """The problem with the weights ω_ij of a name; those that are zero stay zero.

    Parameters
    ----------
    problem : Problem
        Of whose columns all or some are weighed.
    how : {"uniform", "standard", "adaptive"}
        1; s_i ω_j, with s_i the size of target i and ω_j of feature j (`sizes`); or that
        divided by |w_ij| ω_j/s_i, the relative size of the entry in least squares.
    samples : int
        m, of the means.

    Returns
    -------
    Problem
        "standard" is the ℓ₁ norm of the W that reads the targets off the features when all are
        measured in their sizes, so that no unit of a layer or of the data changes what λ does.
        So is "adaptive" (Zou 2006), where what least squares find small costs more.

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
        Q, pilot = problem.gram / feature / feature[:, None], torch.zeros_like(problem.cross)
        Q.diagonal().add_(PILOT_RIDGE * float(Q.diagonal().mean()))
        for rows, at in problem.parts():
            pull = (problem.cross[rows][:, at] / feature[at]).mT
            pilot[rows[:, None], at] = torch.linalg.solve(Q[at][:, at], pull).mT
        pilot = pilot / target[:, None]
        scale = scale / pilot.abs().clamp(min=PILOT_LEAST)
    return replace(problem, weights=scale)


def sizes(problem: Problem, samples: int) -> tuple[Tensor, Tensor]:
    """How large each feature (d,) and each target (k,) is: its root mean square.

    An output is measured by its standard deviation, where a bias takes up its mean: a constant
    that is added to it must not make λ dearer. A state's mean counts, since the next layer reads
    it: entries that cancel each other's means would carry the errors of one layer, far larger
    than what they add, into the next.

    Parameters
    ----------
    problem : Problem
        Of outputs, where it has no ball; its last column is of ones, where its weight is zero.
    samples : int
        m.

    Returns
    -------
    feature, target : Tensor
        1 for what is zero, or a constant output, throughout.
    """
    squares = problem.gram.diagonal().clamp(min=0) / samples, problem.norms / samples
    mean = torch.zeros_like(problem.norms)
    if not problem.ball and problem.weights is not None and not problem.weights[..., -1].any():
        mean = problem.cross[:, -1] / samples
    variance = squares[1] - mean ** 2
    variance = torch.where(variance > CONSTANT * squares[1], variance, 0)
    return tuple(torch.where(T > 0, T, 1).sqrt() for T in (squares[0], variance))


def on_support(problem: Problem, W: Tensor) -> Problem:
    """The problem of W's non-zeros alone, next to without λ: least squares inside the ball.

    Parameters
    ----------
    problem : Problem
        Whose answer W is, with λ > 0.
    W : Tensor, shape (k, d)
        Its zeros stay zero, but for those that λ does not weigh, as biases.

    References
    ----------
    Meinshausen, Relaxed lasso, Comput. Statist. Data Anal. 52 (2007).
    """
    support = (W != 0) | (problem.weighed == 0)
    return replace(problem, lam=RELAXED * problem.lam, support=(
        support if problem.support is None else support & problem.support))
