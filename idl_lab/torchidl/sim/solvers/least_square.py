"""torchidl's least squares."""

from __future__ import annotations

from dataclasses import dataclass

from idl_lab.sim import solvers
from idl_lab.sim.problem import Problem
from idl_lab.torchidl.sim.solvers.matching import Matching


@dataclass
class LeastSquareSolver(Matching):
    """torchidl's least squares of minimum norm, which know neither λ nor κ.

    Parameters
    ----------
    regen_states : bool
        Fit C and D to the equilibria of the A and B that were found, not to the teacher's states.
    tol : float
        Entries of at most this size are set to zero.

    Raises
    ------
    TypeError, ValueError
        For a negative tol.
    """

    regen_states: bool = False
    tol: float = 1e-6

    def _ball(self, kappa: float) -> float | None:
        return None

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        return solvers.LeastSquareSolver(device=str(problem.gram.device))
