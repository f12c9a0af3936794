"""torchidl's rows through cvxpy, with its variants of the problem."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from torch import Tensor

from idl_lab import validation
from idl_lab.sim import solvers
from idl_lab.sim.matching import INEXACT
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import SolveResult
from idl_lab.torchidl.sim.solvers.matching import Matching


@dataclass
class CVXSolver(Matching):
    """torchidl's rows through cvxpy: λ stands before ‖w‖₁ there as it does here.

    MOSEK where it is licensed, else Clarabel, as there. `idl_lab.torchidl.ADMMSolver` finds the
    same optimum sooner.

    Parameters
    ----------
    num_row : int
        Not used: every row has a program and a ball of its own. (With more than one, the reference
        held the absolute sum of so many rows together to κ.)
    batch_size : int
        Not used: rows are handed to the processes as they come free.
    num_processes : int
        Processes at most; there are no more than the machine has cores.
    lambda_y, lambda_z : float
        λ of output and of state matching.
    l1_ratio : float
        r in [0, 1], with ``elastic_net``: λr‖w‖₁ + ½λ(1 − r)‖w‖² in place of λ‖w‖₁.
    elastic_net : bool
    regularized : bool
        False asks for Φw = t, with the smallest ‖w‖₁: `Problem.exact`. Where the ball holds no such
        w, the answer is the nearest one, with a warning; the reference ended in an error.
    well_pose : bool
        False leaves A out of the ball, and the model may have no state, or several.
    regen_states : bool
        Fit C and D to the equilibria of the A and B that were found, not to the teacher's states.
    tol : float
        Entries of at most this size are set to zero.
    verbose : bool
        Not used: progress is a bar.

    Raises
    ------
    TypeError, ValueError
        For a negative λ or tol, an l1_ratio outside [0, 1], and an elastic net where
        ``regularized`` is False: exact matching weighs no squares.

    Warns
    -----
    UserWarning
        For arguments that are given and not used.
    """

    num_row: int = 1
    batch_size: int = 32
    num_processes: int = 32
    lambda_y: float = 1e-6
    lambda_z: float = 1e-6
    l1_ratio: float = 0.5
    elastic_net: bool = False
    regularized: bool = True
    well_pose: bool = True
    regen_states: bool = False
    tol: float = 1e-6
    verbose: bool = False

    unused = {"num_row": "each row has a program and a ball of its own",
              "batch_size": "rows are handed out as processes come free",
              "verbose": "progress is a bar"}

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.integer("num_processes", self.num_processes)
        validation.real("l1_ratio", self.l1_ratio, at_least=0.0, at_most=1.0)
        if self.elastic_net and not self.regularized:
            raise ValueError("regularized=False matches exactly and weighs no squares, which "
                             "elastic_net=True asks for: give one of them.")

    def _ball(self, kappa: float) -> float | None:
        return kappa if self.well_pose else None

    def _problem(self, which: str, Phi: Tensor, T: Tensor, ball: int, kappa: float) -> Problem:
        problem = super()._problem(which, Phi, T, ball, kappa)
        if not self.regularized:
            return problem.exact()
        if not self.elastic_net:
            return problem
        return dataclasses.replace(problem, lam=problem.lam * self.l1_ratio,
                                   ridge=problem.lam * (1 - self.l1_ratio))

    def _short_of(self, problem: Problem, found: SolveResult) -> str:
        if self.regularized or not (seen := problem.norms > 0).any():
            return super()._short_of(problem, found)
        missed = float((2 * problem.fit(found.W) / problem.norms)[seen].amax()) ** 0.5
        return f"misses a target by {missed:.1e} of its size." if missed > INEXACT else ""

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        return solvers.CVXSolver(n_jobs=min(self.num_processes, os.cpu_count() or 1))

    def _given(self, M: np.ndarray) -> scipy.sparse.csr_matrix:
        return scipy.sparse.csr_matrix(M)
