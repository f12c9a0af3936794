"""What a SIM problem asks of the numbers that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idl_lab import validation

if TYPE_CHECKING:
    from idl_lab.sim.problem import Problem


def check(problem: Problem) -> None:
    """Refuse what is no problem.

    Parameters
    ----------
    problem : Problem

    Raises
    ------
    TypeError, ValueError
        As `Problem`.
    """
    gram, cross, ball = problem.gram, problem.cross, problem.ball
    validation.square("gram", gram)
    validation.tensor("cross", cross, "k d", like=gram, d=len(gram))
    validation.tensor("norms", problem.norms, "k", like=gram, k=len(cross))
    for name in ("lam", "kappa"):
        if isinstance(value := getattr(problem, name), Tensor):
            validation.tensor(name, value, "k", like=gram, k=len(cross))
            if (value < 0).any():
                raise ValueError(f"{name} must be >= 0, got a smallest entry of "
                                 f"{float(value.amin()):g}.")
    if isinstance(problem.lam, Tensor) and (problem.lam > 0).any() and (problem.lam == 0).any():
        raise ValueError("lam must be positive in all rows or zero in all, got both.")
    validation.integer("ball", ball, at_least=0)
    if ball > len(gram):
        raise ValueError(f"ball must be at most d={len(gram)}, the number of columns, got {ball}.")
    if ball and problem.kappa is None:
        raise ValueError(f"ball={ball} columns need a radius kappa, got None.")
    if problem.weights is not None:
        _check_weights(problem.weights, gram, len(cross))
    if problem.support is not None:
        _check_support(problem, problem.support)
    asymmetry = (gram - gram.mT).abs().amax()
    if asymmetry > 1e-6 * gram.abs().amax() or (gram.diagonal() < 0).any():
        raise ValueError(f"gram must be ΦᵀΦ, symmetric with a non-negative diagonal, got an "
                         f"asymmetry of {float(asymmetry):.3g}.")


def _check_weights(weights: Tensor, gram: Tensor, k: int) -> None:
    validation.tensor("weights", weights, "d" if weights.dim() == 1 else "k d", like=gram, k=k,
                      d=len(gram))
    none = weights.reshape(-1, len(gram)) == 0
    if (weights < 0).any() or (none.any(dim=0) != none.all(dim=0)).any():
        raise ValueError("weights must be >= 0, and zero in all rows of a column or in none.")


def _check_support(problem: Problem, support: Tensor) -> None:
    if support.dtype != torch.bool or support.shape != problem.cross.shape:
        raise ValueError(f"support must be a mask of W, bool of shape {problem.shape}, got "
                         f"{support.dtype} of shape {tuple(support.shape)}.")
    some = support.any(dim=0) & ~support.all(dim=0) & (problem.weighed == 0).all(dim=0)
    if some[problem.ball:].any():
        raise ValueError("support: a column that neither λ nor the ball holds must be in the "
                         "support of every row, or of none.")
