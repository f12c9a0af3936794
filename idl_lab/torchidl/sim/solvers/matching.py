"""torchidl's five solvers: which problem each of them states, and which method answers it here.

With Φ = [X U] all but one state, for each row w = [a b] of [A B] or [C D] and its target t,

    ½‖Φw − t‖² + λ‖w‖₁,  and ‖a‖₁ ≤ κ for rows of [A B],

which is this project's `Problem` in the teacher's own units and without biases. What the method
was there (epochs, penalties, batches of rows) is not taken over: a solve ends at a duality gap.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.constraints import shrink_rows
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.sim import solvers
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import SolveResult, SolveStatus
from idl_lab.torchidl.sim.solvers.solver import BaseSolver
from idl_lab.torchidl.sim.utils import fixpoint_iteration, wide

CONFIG = ("activation_fn", "device", "atol", "kappa")
ENDS = "a solve ends at a duality gap"
TOGETHER = "all rows are solved together"


class Matching(BaseSolver):
    """The two matchings, one after the other; a subclass says which problems and which method.

    Attributes
    ----------
    results : dict
        The `SolveResult` of "state" and of "output" matching: status, figures, history.
    """

    # Arguments without an effect here, and why.
    unused: ClassVar[dict[str, str]] = {}

    lambda_z: float = 0.0
    lambda_y: float = 0.0
    regen_states: bool
    tol: float

    def __post_init__(self) -> None:
        self.results: dict[str, SolveResult] = {}
        for name in ("lambda_z", "lambda_y", "tol"):
            validation.real(name, getattr(self, name), at_least=0.0)
        given = [f.name for f in dataclasses.fields(self)
                 if f.name in self.unused and getattr(self, f.name) != f.default]
        if given:
            reasons = "; ".join(dict.fromkeys(self.unused[name] for name in given))
            warnings.warn(f"{type(self).__name__} makes no use of {', '.join(given)}: {reasons}.",
                          UserWarning, stacklevel=3)

    def solve(self, X: np.ndarray, U: np.ndarray, Z: np.ndarray, Y: np.ndarray,
              model_config: dict[str, Any], plot_loss: bool = False
              ) -> tuple[Any, Any, Any, Any]:
        """A, B, C, D in Z's dtype, with ‖A‖∞ ≤ κ after rounding to it where κ is kept.

        Parameters
        ----------
        X, U, Z, Y, model_config
            As for `BaseSolver.solve`.
        plot_loss : bool
            Not used: ``results["state"].history`` is a table to plot.

        Raises
        ------
        ValueError
            For states that do not fit, and a configuration with a key missing.

        Warns
        -----
        ConvergenceWarning
            If a solve ended before its gap was small.
        """
        if plot_loss:
            warnings.warn("plot_loss draws nothing here: results['state'].history is a table, and "
                          ".plot('step', 'objective') draws it.", UserWarning, stacklevel=2)
        if missing := sorted({*CONFIG} - {*model_config}):
            raise ValueError(f"model_config must have {', '.join(CONFIG)}, got none of "
                             f"{', '.join(missing)}.")
        kappa = validation.kappa(model_config["kappa"])
        dtype, device = torch.as_tensor(Z).dtype, model_config["device"]
        X, U, Z, Y = (wide(M, device).mT for M in (X, U, Z, Y))
        n = X.shape[1]
        AB = self._matched("state", torch.cat([X, U], dim=1), Z, n, kappa)
        A, B = AB.to(dtype).split([n, U.shape[1]], dim=1)
        A = A if self._ball(kappa) is None else shrink_rows(A, kappa)
        if self.regen_states:
            # With a residual of atol (1 − κ) it is the states that are within atol.
            X = fixpoint_iteration(A, B, U.mT, model_config["activation_fn"], device,
                                   atol=model_config["atol"] * (1 - kappa)).mT
        CD = self._matched("output", torch.cat([X, U], dim=1), Y, n, kappa)
        C, D = CD.to(dtype).split([n, U.shape[1]], dim=1)
        return tuple(self._given(M.cpu().numpy()) for M in (A, B, C, D))

    def _matched(self, which: str, Phi: Tensor, T: Tensor, n: int, kappa: float) -> Tensor:
        # A feature that is zero in every sample, such as a pixel of the margin, has weight zero;
        # left in, it would make every factorisation larger.
        seen = (Phi != 0).any(dim=0)
        problem = self._problem(which, Phi[:, seen], T, int(seen[:n].sum()), kappa)
        found = self.results[which] = self._method(problem).solve(problem)
        if found.status in (SolveStatus.MAX_STEPS, SolveStatus.ENDED, SolveStatus.SECONDS):
            warnings.warn(f"{which} matching stopped early: {found.status.value}. The relative "
                          f"gap is {found.stats.relative_gap:.1e}.", ConvergenceWarning,
                          stacklevel=4)
        W = T.new_zeros(T.shape[1], Phi.shape[1])
        W[:, seen] = found.W
        return self._thresholded(which, W)

    def _problem(self, which: str, Phi: Tensor, T: Tensor, ball: int, kappa: float) -> Problem:
        lam = self.lambda_z if which == "state" else self.lambda_y
        bound = self._ball(kappa) if which == "state" else None
        return Problem(Phi.mT @ Phi, T.mT @ Phi, T.square().sum(dim=0), lam=lam, kappa=bound,
                       ball=0 if bound is None else ball)

    def _ball(self, kappa: float) -> float | None:
        return kappa

    def _thresholded(self, which: str, W: Tensor) -> Tensor:
        return torch.where(W.abs() <= self.tol, 0, W)

    def _given(self, M: np.ndarray) -> Any:
        return M

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        raise NotImplementedError


@dataclass
class ADMMSolver(Matching):
    """torchidl's ADMM: λ stands before ‖w‖₁ there as it does here.

    Its output matching took a step of the subgradient in place of a threshold, so that C and D had
    no zeros; here they have those of the optimum.

    Parameters
    ----------
    num_epoch_ab, num_epoch_cd : int
        Not used: a solve ends at a duality gap.
    lambda_y, lambda_z : float
        λ of output and of state matching.
    rho_ab, rho_cd : float
        Not used: each row balances its penalty ρ by itself.
    batch_feature_size : int
        Not used: all rows are solved together.
    regen_states : bool
        Fit C and D to the equilibria of the A and B that were found, not to the teacher's states.
    tol : float
        Entries of at most this size are set to zero.

    Raises
    ------
    TypeError, ValueError
        For a negative λ or tol.

    Warns
    -----
    UserWarning
        For arguments that are given and not used.
    """

    num_epoch_ab: int = 1000
    num_epoch_cd: int = 100
    lambda_y: float = 1e-6
    lambda_z: float = 1e-6
    rho_ab: float = 10.0
    rho_cd: float = 10.0
    batch_feature_size: int = 100
    regen_states: bool = False
    tol: float = 1e-6

    unused = {"num_epoch_ab": ENDS, "num_epoch_cd": ENDS, "rho_ab": "ρ balances itself",
              "rho_cd": "ρ balances itself", "batch_feature_size": TOGETHER}

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        return solvers.ADMMSolver(device=str(problem.gram.device))


@dataclass
class _OnGPUs:
    gpu_ids: Sequence[int | torch.device]


@dataclass
class ADMMMultiGPUSolver(ADMMSolver, _OnGPUs):  # in this order gpu_ids is the first argument
    """torchidl's ADMM for several GPUs, here on the first of them.

    One GPU solves all rows together. For several, and for more data than one process has,
    `idl_lab.sim.solvers.ADMMMultiGPUSolver` runs under torchrun. (This class could not solve
    anything there: its methods were called as functions.)

    Parameters
    ----------
    gpu_ids : sequence of int or torch.device
        The solve is on the first.
    num_epoch_ab, num_epoch_cd, lambda_y, lambda_z, rho_ab, rho_cd, batch_feature_size
        As for `ADMMSolver`.
    regen_states, tol
        As for `ADMMSolver`.

    Raises
    ------
    TypeError, ValueError
        As `ADMMSolver`; without a GPU, or for one that is not there.

    Warns
    -----
    UserWarning
        For arguments that are given and not used, such as a second GPU.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gpu_ids:
            raise ValueError("gpu_ids must name a GPU, such as [0], got none.")
        self.devices = [validation.resolve_device(f"cuda:{gpu}" if isinstance(gpu, int) else gpu)
                        for gpu in self.gpu_ids]
        if len(self.devices) > 1:
            warnings.warn(f"ADMMMultiGPUSolver solves all rows on {self.devices[0]}: for several "
                          f"GPUs there is idl_lab.sim.solvers.ADMMMultiGPUSolver under torchrun.",
                          UserWarning, stacklevel=3)

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        return solvers.ADMMSolver(device=str(self.devices[0]))


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

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        return solvers.CVXSolver(n_jobs=min(self.num_processes, os.cpu_count() or 1))

    def _given(self, M: np.ndarray) -> scipy.sparse.csr_matrix:
        return scipy.sparse.csr_matrix(M)


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
