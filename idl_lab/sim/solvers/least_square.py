"""Least squares of minimum norm, which knows neither the ℓ₁ weight nor the ball."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from idl_lab.sim.duality import pseudo_inverse
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers.base import BaseSolver


@dataclass(frozen=True, kw_only=True)
class LeastSquareSolver(BaseSolver):
    """W = cQ⁺: the least squares solution of minimum norm, in columns of unit length.

    It ignores κ: ‖A‖∞ may come out at any size, and then the status says IGNORES_KAPPA and the
    model made of it may be ill-posed. It ignores λ too, so that the gap in its result is how far
    it is from the optimum with λ. The problem's support it keeps.

    Parameters
    ----------
    tol, max_steps, check_every, seconds, device, progress
        As for `BaseSolver`.
    """

    check_every: int = 1
    honours_kappa: ClassVar[bool] = False

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """The one solution.

        Parameters
        ----------
        problem : Problem
            In float64, on the solver's device.
        """
        W = problem.zeros()
        for rows, at in problem.parts():
            W[rows[:, None], at] = problem.cross[rows][:, at] @ pseudo_inverse(problem.Q[at][:, at])
        yield W
