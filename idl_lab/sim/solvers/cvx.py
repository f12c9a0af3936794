"""The oracle: each row as a quadratic program for an interior point, with a bound of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from idl_lab import extras, validation
from idl_lab.sim.problem import RESOLVED, Problem
from idl_lab.sim.solvers.base import BaseSolver
from idl_lab.sim.solvers.result import Iterate

# Near what float64 gives, so that the duality gap decides and not the solver's idea of enough.
CLOSE = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
# Tried in turn until the gap of a row is small: on correlated features the regularisation that
# Clarabel adds, 1e-8, is more than a small λ is worth; on singular ones hardly any is too little.
OPTIONS = {"CLARABEL": [{**CLOSE, "static_regularization_constant": r} for r in (1e-12, 1e-9)],
           "OSQP": [{"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iter": 50_000}],
           "SCS": [{"eps": 1e-10, "max_iters": 50_000}]}
HANDFUL = 8  # rows from one iterate to the next in one process: often enough to be cancelled
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, kw_only=True)
class CVXSolver(BaseSolver):
    """A row at a time through cvxpy, as a quadratic program; it shares no step with ADMM.

    With Q = FᵀF, y = F⁻ᵀc and a unit s_j for each entry, w = s ∘ x, a row is

        min ½‖r‖² + Σ_j λ_j s_j |x_j|   s.t.  r = F (s ∘ x) − y,  Σ_{j < ball} s_j |x_j| ≤ κ

    s_j is the most that the target, λ or the ball lets w_j be, so that a solver whose tolerances
    are for numbers near one meets such numbers whatever the units of the data are. The
    multiplier of r bounds the optimum from below, by Fenchel. An entry that a proximal step at
    the solution would make zero is set to zero; one that is next to the edge may stay.

    Parameters
    ----------
    tol, max_steps, check_every, seconds, device, progress
        As for `BaseSolver`; an iterate is a handful of rows solved, on the CPU.
    solver : str
        Any that cvxpy has and that solves quadratic programs.
    n_jobs : int
        Processes of joblib; -1 for one a core. They take seconds to start, so one is the default.

    Raises
    ------
    TypeError, ValueError
        As `BaseSolver`; for a solver that is not known or not installed, and any device but the
        CPU.
    cvxpy.SolverError
        From `solve`, where the solver finds no answer to any row.

    References
    ----------
    Goulart and Chen, Clarabel: An interior-point solver for conic programs with quadratic
    objectives, arXiv 2405.12762, 2024.
    """

    check_every: int = 1
    device: str = "cpu"
    solver: str = "CLARABEL"
    n_jobs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int) or self.n_jobs == 0:
            raise ValueError(f"n_jobs must be a whole number other than 0 (-1: all cores), got "
                             f"{self.n_jobs!r}.")
        if self.device not in ("auto", "cpu"):
            raise ValueError(f"device must be 'cpu', where cvxpy's solvers are, got "
                             f"{self.device!r}.")
        # Imported where it is used: cvxpy takes seconds, which other solvers would wait for.
        validation.choice("solver", self.solver,
                          extras.need("cvxpy", "sim").installed_solvers())

    @property
    def name(self) -> str:
        """With the solver that does the work."""
        return f"CVXSolver ({self.solver})"

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu")

    def iterates(self, problem: Problem) -> Iterator[Iterate]:
        """W and its bounds after each handful of rows, zero in those that it has not come to.

        Parameters
        ----------
        problem : Problem
            In float64, on the CPU.

        Raises
        ------
        cvxpy.SolverError
            At the end, if there is no answer to any row.
        """
        joblib = extras.need("joblib", "sim")
        program, k = _Program(problem, self.solver, self.tol), len(problem.cross)
        rows = list(zip(*(T.numpy() for T in (
            problem.cross, problem.norms, problem.penalty, problem.radius)), strict=True))
        jobs = joblib.effective_n_jobs(self.n_jobs)
        size = HANDFUL if jobs == 1 else -(-k // jobs)
        parts = [slice(first, first + size) for first in range(0, k, size)]
        W, lower, wrong = problem.zeros(), torch.zeros_like(problem.norms), []
        # max_nbytes=None: joblib would write large arrays to memory-mapped files, which an
        # interrupt leaves behind.
        for part, found in zip(parts, joblib.Parallel(
                self.n_jobs, return_as="generator", max_nbytes=None)(
                joblib.delayed(program.solved)(rows[part]) for part in parts), strict=True):
            W, lower = W.clone(), lower.clone()
            for i, answer in enumerate(found, part.start):
                if isinstance(answer, Exception):
                    wrong.append(answer)
                else:
                    W[i], lower[i] = torch.from_numpy(answer[0]), float(answer[1])
            yield Iterate(W, lower=lower)
        if len(wrong) == k:
            raise wrong[0]


class _Program:
    """The quadratic program of a row, compiled once in each process; columns have unit length."""

    def __init__(self, problem: Problem, solver: str, tol: float) -> None:
        Q = problem.Q.numpy()
        length = np.sqrt(Q.diagonal().clip(min=0))
        self.unit = np.where(length > 0, 1 / np.where(length > 0, length, 1), 1)
        self.Q = self.unit[:, None] * Q * self.unit
        values, vectors = np.linalg.eigh(self.Q)
        keep = values > len(Q) * EPS * values.max()  # the others are rounding
        root = np.sqrt(values[keep])
        self.factor, self.lift = (vectors[:, keep] * root).T, vectors[:, keep] / root
        self.solver, self.tol, self.ball, self.compiled = solver, tol, problem.ball, None
        self.held = np.ones(len(Q), dtype=bool)  # by λ or by the ball
        self.held[problem.free.numpy()] = False
        free = ~self.held
        self.free_inverse = np.linalg.pinv(self.Q[free][:, free], hermitian=True)

    def solved(self, rows: list[tuple]) -> list[tuple[np.ndarray, float] | Exception]:
        """Solution and lower bound of each row, or what cvxpy said where it found none.

        Parameters
        ----------
        rows : list of tuple
            c, ‖t‖², the weights λ_j and the radius κ of each.
        """
        self.compiled = self.compiled or self._compile()
        return [self._row(*row) for row in rows]

    def _row(self, c: np.ndarray, norm: float, weights: np.ndarray, kappa: float
             ) -> tuple[np.ndarray, float] | Exception:
        cp, b, held = extras.need("cvxpy", "sim"), self.ball, self.held
        if not c.any():
            return np.zeros_like(c), 0.5 * norm
        # The target has length one from here on.
        size = np.sqrt(norm)
        c, weights, radius = c * self.unit / size, weights * self.unit / size, kappa / size
        weights = np.where(held, weights, 0)
        scale = 1 / np.maximum(1, 2 * weights)  # λ|w| ≤ ½‖t‖² at the optimum
        scale[:b] = np.minimum(scale[:b], radius / self.unit[:b])
        program, x, residual, at, price, pull, data = self.compiled
        at.value, price.value, data.value = scale, (weights * scale)[held], self.lift.T @ c
        pull.value = scale[:b] * self.unit[:b] / radius if radius > 0 else np.ones(b)
        best, gap, failure = None, np.inf, cp.SolverError(f"{self.solver} has no answer.")
        for options in OPTIONS.get(self.solver, [{}]):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # "inaccurate": the gap says how much
                    program.solve(solver=self.solver, **options)
            except cp.SolverError as error:
                failure = error
                continue
            if x.value is None or not np.isfinite(x.value).all():
                continue
            bound, theta = self._bound(residual.dual_value, data.value, c, weights, radius)
            v = scale * x.value
            limit = weights + theta * np.where(np.arange(len(c)) < b, self.unit, 0)
            v[held & (np.abs(v + c - self.Q @ v) <= limit)] = 0
            value = 0.5 * (v @ self.Q @ v + 1) - c @ v + weights @ np.abs(v)
            if best is None or value - bound < gap:
                best, gap = (v * size * self.unit, max(bound, 0.0) * norm), value - bound
            if gap <= self.tol * max(value, 0.5 * RESOLVED):
                break
        return failure if best is None else best

    def _compile(self) -> tuple:
        cp, (r, d), b = extras.need("cvxpy", "sim"), self.factor.shape, self.ball
        x, span, misfit = cp.Variable(d), cp.Variable(int(self.held.sum())), cp.Variable(r)
        at, data = cp.Parameter(d, nonneg=True), cp.Parameter(r)
        price, pull = cp.Parameter(span.size, nonneg=True), cp.Parameter(b, nonneg=True)
        residual = misfit == self.factor @ cp.multiply(at, x) - data
        limits = [residual, x[self.held] <= span, -x[self.held] <= span]
        if b:
            limits.append(pull @ span[:b] <= 1)
        cost = 0.5 * cp.sum_squares(misfit) + price @ span
        return cp.Problem(cp.Minimize(cost), limits), x, residual, at, price, pull, data

    def _bound(self, dual: np.ndarray, y: np.ndarray, c: np.ndarray, weights: np.ndarray,
               radius: float) -> tuple[float, float]:
        """−½‖ν‖² − νᵀt − h*(−Φᵀν) at ν = θ(Φu − t), and the multiplier of the ball."""
        # The multiplier as a residual Φu − t, so that all that follows is exact in Q.
        free, u = ~self.held, self.lift @ (y - dual)
        s = c - self.Q @ u
        u[free] += self.free_inverse @ s[free]
        s = c - self.Q @ u
        s[free] = 0
        rounding = EPS * (16 + np.abs(u).sum() ** 2)
        square, slope = u @ self.Q @ u - 2 * c @ u + 1 + rounding, 1 - c @ u - rounding
        outside = np.flatnonzero(self.held[self.ball:]) + self.ball
        over = np.max(np.abs(s[outside]) / weights[outside], initial=1.0)
        excess = (np.abs(s) / over - weights)[:self.ball] / self.unit[:self.ball]
        theta = np.max(excess, initial=0.0)
        return slope / over - 0.5 * square / over**2 - radius * theta, theta
