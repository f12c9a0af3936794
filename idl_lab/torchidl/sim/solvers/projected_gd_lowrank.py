"""torchidl's solver for an A of low rank."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from idl_lab import validation
from idl_lab.sim import solvers
from idl_lab.sim.problem import Problem
from idl_lab.torchidl.sim.solvers.matching import Matching


@dataclass
class ProjectedGDLowRankSolver(Matching):
    """torchidl's A of rank r; C and D by least squares, as there.

    There A = L Rᵀ by projected Adam, with the rows of L and of Rᵀ in balls of radius κ each, so
    that ‖A‖∞ ≤ κ²; here rank(A) ≤ r and ‖A‖∞ ≤ κ are all that is asked, and it ends at a stationary
    point.

    Parameters
    ----------
    rank : int, optional
        r; None, and any rank above n, is n.
    num_epoch : int
        Not used: a solve ends at a stationary point.
    lambda_z : float
        Not used: it weighed the norms of the factors, λ(‖L‖_F + ‖R‖_F) beside the *mean* of the
        squares, and is no weight of ‖w‖₁; the ball bounds A here.
    lr : float
        Not used: there is no step size.
    verbose_epoch : int
        Not used: progress is a bar.
    regen_states : bool
        Fit C and D to the equilibria of the A and B that were found, not to the teacher's states.
    tol : float
        Entries of C and D of at most this size are set to zero, as there.

    Raises
    ------
    TypeError, ValueError
        For a negative tol, and a rank below one.

    Warns
    -----
    UserWarning
        For arguments that are given and not used.
    """

    rank: int | None = None
    num_epoch: int = 10_000
    lambda_z: float = 1e-6
    lr: float = 1e-3
    verbose_epoch: int = 100
    regen_states: bool = False
    tol: float = 1e-6

    unused = {"num_epoch": "a solve ends at a stationary point",
              "lambda_z": "it weighed the norms of factors that do not stand for A here",
              "lr": "there is no step size", "verbose_epoch": "progress is a bar"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rank is None or validation.integer("rank", self.rank)

    def _problem(self, which: str, Phi: Tensor, T: Tensor, ball: int, kappa: float) -> Problem:
        problem = super()._problem(which, Phi, T, ball, kappa)
        return dataclasses.replace(problem, lam=0.0)

    def _thresholded(self, which: str, W: Tensor) -> Tensor:
        return super()._thresholded(which, W) if which == "output" else W

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        device = str(problem.gram.device)
        if not problem.ball:  # the output's, or of states that are all zero
            return solvers.LeastSquareSolver(device=device)
        rank = min(self.rank or problem.ball, problem.ball)
        return solvers.ProjectedGDLowRankSolver(rank=rank, device=device)
