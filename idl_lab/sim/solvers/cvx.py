"""The oracle: each row as a quadratic program for the solvers that cvxpy knows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from idl_lab import extras, validation
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers.active_set import finish
from idl_lab.sim.solvers.base import BaseSolver

# In the order in which they are tried; their own tolerances are near what float64 gives, so that
# the duality gap decides and not the solver's idea of enough.
CHOICES = {"MOSEK": {},
           "CLARABEL": {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-10},
           "OSQP": {"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iter": 50_000},
           "SCS": {"eps": 1e-10, "max_iters": 50_000}}

HANDFUL = 8  # rows from one iterate to the next in one process: often enough to be cancelled
POLISHING = 40  # steps of the active-set method before a bound is taken
SMALLEST = 1e-150  # for the size of a target that is zero; its square is still a number
# Interior points end beside a zero, not on it. Entries below these parts of the largest are set to
# zero, the largest of the three that costs the objective no more than COST of itself.
SPECKS, COST = (1e-5, 1e-6, 1e-7), 1e-9


@dataclass(frozen=True, kw_only=True)
class CVXSolver(BaseSolver):
    """A row at a time through cvxpy, as a quadratic program whose size is that of the Gram matrix.

    The program is compiled once in each process: c = Φᵀt is its parameter (DPP). A row whose
    duality gap is not small then is solved again in the form ½‖Fw − y‖², FᵀF = Q, which keeps
    twice the digits and leaves out directions that the data does not resolve. The result names
    the solvers that were used.

    Parameters
    ----------
    tol, max_steps, check_every, seconds, device, progress
        As for `BaseSolver`; an iterate is a handful of rows solved, on the CPU.
    solver : str
        "auto" is MOSEK where it is installed and licensed, else Clarabel; OSQP and SCS follow
        where they fail.
    n_jobs : int
        Processes of joblib; -1 for one a core. They take seconds to start, so one is the default.

    Raises
    ------
    TypeError, ValueError
        As `BaseSolver`; for a solver that is not known or not installed, and any device but the
        CPU.

    References
    ----------
    A. Agrawal et al., Differentiable Convex Optimization Layers, NeurIPS 2019, for DPP.
    """

    check_every: int = 1
    device: str = "cpu"
    solver: str = "auto"
    n_jobs: int = 1
    _used: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.choice("solver", self.solver, ["auto", *CHOICES])
        if isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int) or self.n_jobs == 0:
            raise ValueError(f"n_jobs must be a whole number other than 0 (-1: all cores), got "
                             f"{self.n_jobs!r}.")
        if self.device not in ("auto", "cpu"):
            raise ValueError(f"device must be 'cpu', where cvxpy's solvers are, got "
                             f"{self.device!r}.")
        if self.solver not in ("auto", *_installed()):
            raise ValueError(f"solver={self.solver!r} is not installed; there is "
                             f"{', '.join(_installed())}.")

    @property
    def name(self) -> str:
        """With the solvers that did the work, and on how many rows where there were several."""
        rows = self._used.items()
        said = [name if len(rows) == 1 else f"{name}: {count} rows" for name, count in rows]
        return f"CVXSolver ({', '.join(said)})" if said else "CVXSolver"

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu")

    def iterates(self, problem: Problem) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        """W after each handful of rows, zero in those that it has not come to; then W with U.

        An interior point's gradient has ten digits, too few for a bound where λ is small. So the
        lower bound is taken at U, which is W after some steps of the active-set method.

        Parameters
        ----------
        problem : Problem
            In float64, on the CPU.
        """
        self._used.clear()
        names = _installed()
        if self.solver != "auto":
            names = [self.solver, *(n for n in names if n != self.solver)]
        programs, W, found = _Programs(problem), problem.zeros(), torch.zeros_like(problem.norms)
        for name, factored in [(name, form) for name in names for form in (False, True)]:
            U = _polished(problem, W, self.tol)
            gap = (problem.objective(W) - problem.dual(U)).clamp(min=0)
            enough = self.tol * torch.maximum(problem.objective(W), problem.scale)
            if (gap <= enough).all():
                break
            # The first solver gets every row above the gap, in both forms. Another one stands in
            # for it where it found no answer at all, and is not asked to better one.
            todo = ((gap > enough) & ((found == 0) | (name == names[0]))).nonzero()[:, 0]
            for rows, values in self._solved(programs, problem, todo, name, factored):
                part = problem.rows(rows)
                good = part.objective(values) <= part.objective(W[rows])  # False for NaN
                found[rows] += good
                W = W.index_copy(0, rows, torch.where(good[:, None], values, W[rows]))
                self._used[name] = self._used.get(name, 0) + int(good.sum())
                yield W
        yield W, _polished(problem, W, self.tol)

    def _solved(self, programs: _Programs, problem: Problem, todo: Tensor, name: str,
                factored: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Handfuls of rows and their solutions, NaN where there is none."""
        joblib = extras.need("joblib", "sim")
        jobs = min(joblib.effective_n_jobs(self.n_jobs), len(todo))
        if not jobs:
            return
        parts = todo.split(HANDFUL if jobs == 1 else max(-(-len(todo) // jobs // 2), 1))
        # max_nbytes=None: joblib would write large arrays to memory-mapped files, which an
        # interrupt leaves behind.
        yield from zip(parts, joblib.Parallel(jobs, return_as="generator", max_nbytes=None)(
            joblib.delayed(_solve)(programs, problem.rows(part), name, factored)
            for part in parts), strict=True)


# Imported where it is used: cvxpy takes seconds, and other solvers and their workers would wait.
def _installed() -> list[str]:
    cp = extras.need("cvxpy", "sim")
    there = cp.installed_solvers()
    return [name for name in CHOICES if name in there]


class _Programs:
    """The compiled programs of one process; only the data travels to another."""

    def __init__(self, problem: Problem) -> None:
        diagonal = problem.Q.diagonal()
        unit = torch.where(diagonal > 0, 1 / torch.where(diagonal > 0, diagonal, 1).sqrt(), 1)
        Q = unit[:, None] * problem.Q * unit
        values, vectors = torch.linalg.eigh(Q)
        keep = values > len(Q) * torch.finfo(Q.dtype).eps * values.amax()
        root = values[keep].sqrt()
        self.unit = unit.numpy()  # the columns get unit length, whatever their units were
        self.Q, self.factor = Q.numpy(), (vectors[:, keep] * root).mT.numpy()
        self.lift = (vectors[:, keep] / root).mT.numpy()  # F⁻ᵀ: from c to y
        self.weighed, self.ball = bool((problem.penalty > 0).any()), problem.ball
        self.compiled: dict[bool, tuple] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "compiled": {}}

    def __call__(self, row: Problem, name: str, factored: bool) -> np.ndarray | None:
        """The solution of one row, or None where the solver has none.

        Parameters
        ----------
        row : Problem
            Of one row.
        name : str
            The solver's, as cvxpy spells it.
        factored : bool
            ½‖Fv − y‖² in place of ½vᵀQv − cᵀv.
        """
        from cvxpy import SolverError

        if factored not in self.compiled:
            self.compiled[factored] = self._compile(factored)
        program, v, data, price, room = self.compiled[factored]
        # v is counted in units of ‖t‖: the solvers' tolerances are absolute, for numbers near 1.
        size, cross = max(float(row.norms) ** 0.5, SMALLEST), row.cross[0].numpy()
        data.value = (self.lift @ (cross * self.unit) if factored else cross * self.unit) / size
        price.value, room.value = row.penalty[0].numpy() / size, float(row.radius) / size
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "inaccurate": the duality gap says how much
                program.solve(solver=name, **CHOICES[name])
        except (SolverError, ValueError):  # no licence, or no progress: the next solver may do it
            return None
        if v.value is None or not np.isfinite(v.value).all():
            return None
        return v.value * size * self.unit

    def _compile(self, factored: bool) -> tuple:
        cp = extras.need("cvxpy", "sim")
        d, free = len(self.unit), self.ball == 0 and not self.weighed
        v, size = cp.Variable(d), cp.Variable(d)
        data = cp.Parameter(len(self.factor) if factored else d)
        price, room = cp.Parameter(d, nonneg=True), cp.Parameter(nonneg=True)
        u = cp.multiply(self.unit, v)
        limits = [] if free else [u <= size, -u <= size]
        if factored:
            residual = cp.Variable(len(self.factor))
            limits.append(residual == self.factor @ v - data)
            fit = 0.5 * cp.sum_squares(residual)
        else:
            fit = 0.5 * cp.quad_form(v, cp.psd_wrap(self.Q)) - data @ v
        if self.weighed:
            fit = fit + price @ size
        if self.ball:
            limits.append(cp.sum(size[:self.ball]) <= room)
        return cp.Problem(cp.Minimize(fit), limits), v, data, price, room


def _solve(programs: _Programs, problem: Problem, name: str, factored: bool) -> Tensor:
    """The rows of a problem, feasible; NaN where the solver fails."""
    W = torch.full_like(problem.cross, torch.nan)
    for i in range(len(W)):
        row = problem.rows(slice(i, i + 1))
        found = programs(row, name, factored)
        if found is not None:
            W[i] = _rounded(row, row.project(torch.from_numpy(found)[None]))[0]
    return W


def _rounded(row: Problem, W: Tensor) -> Tensor:
    """W without the specks that interior points leave where a zero belongs."""
    size = W.abs() * row.Q.diagonal().clamp(min=0).sqrt()
    limit = row.objective(W) * (1 + COST)
    for speck in SPECKS:
        sparse = torch.where(size > speck * size.amax(), W, 0)
        if row.objective(sparse) <= limit:
            return sparse
    return W


def _polished(problem: Problem, W: Tensor, tol: float) -> Tensor:
    """W after some steps of the active-set method, to a tenth of what the gap may be."""
    for _, U in zip(range(POLISHING), finish(problem, W, 0.1 * tol), strict=False):
        W = U
    return W
