"""What every solver of the SIM problem is: settings, one generator of iterates, one result."""

from __future__ import annotations

import abc
import enum
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from idl_lab import validation
from idl_lab.operators import LowRank
from idl_lab.sim.problem import Problem
from idl_lab.sim.states import Statistics
from idl_lab.training import progress_bar


class SolveStatus(enum.Enum):
    """How the solve of a `Problem` ended; the value is the sentence for the reader."""

    SOLVED = "the duality gap is at most tol, relative to the objective"
    MAX_STEPS = "the solver's steps ran out before the duality gap came down to tol"
    ENDED = "the solver had no further step, and the duality gap is still above tol"
    SECONDS = "the time allowed ran out before the duality gap came down to tol"
    STATIONARY = "no small move lowers the objective by more than tol: a stationary point"
    CANCELLED = "cancelled: this is the best feasible point so far"
    IGNORES_KAPPA = "this solver does not keep the bound κ, and the answer breaks it"

    @property
    def ok(self) -> bool:
        """Whether the answer is what the solver promises."""
        return self in (SolveStatus.SOLVED, SolveStatus.STATIONARY)


class Iterate(NamedTuple):
    """What `BaseSolver.iterates` may yield in place of W alone.

    Attributes
    ----------
    W : Tensor, shape (k, d)
    U : Tensor, shape (k, d), optional
        Where `Problem.dual` bounds the optimum from below, in place of W.
    factors : LowRank, optional
        L and R of the columns in the ball, W = [L Rᵀ ...].
    stationarity : float, optional
        By what part of itself the objective can still fall to first order, at most.
    """

    W: Tensor
    U: Tensor | None = None
    factors: LowRank | None = None
    stationarity: float | None = None


@dataclass(frozen=True)
class RowStats:
    """Figures of a solve.

    Attributes
    ----------
    objective, gap : Tensor, shape (k,)
        Of each row: its objective, and how far above the optimum that is at most.
    relative_gap : float
        Sum of the gaps over the sum of the objectives, or of `Problem.scale` where that is larger.
    inf_norm : float
        ‖·‖∞ of the columns in the ball, A; 0 without a ball.
    nonzeros : int
    steps : int
    seconds : float
    solver : str
        Its name and, where others do its work, theirs.
    exchanged : int
        Bytes that went between processes.
    stationarity : float, optional
        Of a solver whose problem is not convex: that of `Iterate`.
    """

    objective: Tensor
    gap: Tensor
    relative_gap: float
    inf_norm: float
    nonzeros: int
    steps: int
    seconds: float
    solver: str
    exchanged: int = 0
    stationarity: float | None = None


@dataclass(frozen=True)
class Rows:
    """The matrix that solves a `Problem`, and how it was found.

    Attributes
    ----------
    W : Tensor, shape (k, d)
        On the problem's device.
    status : SolveStatus
    stats : RowStats
    history : pandas.DataFrame
        A row for each test: step, seconds, objective, gap (sums over the rows of W).
    factors : LowRank, optional
        Of a solver that holds A to a rank: W = [L Rᵀ ...].
    """

    W: Tensor
    status: SolveStatus
    stats: RowStats
    history: pd.DataFrame
    factors: LowRank | None = None

    def __repr__(self) -> str:
        return (f"Rows({self.status.name}: {self.status.value}; W {tuple(self.W.shape)}, objective "
                f"{float(self.stats.objective.sum()):.6g}, relative gap "
                f"{self.stats.relative_gap:.1e}, {self.stats.solver})")


@dataclass(frozen=True, kw_only=True)
class BaseSolver(abc.ABC):
    """Settings of a solver; a solver of your own is one generator, `iterates`.

    Parameters
    ----------
    lambda_z, lambda_y : float
        ℓ₁ weights λ of state and output matching, which SIM hands to the `Problem`.
    exact : bool
        Match exactly instead, with the smallest ℓ₁ norm: `Problem.exact`; no λ is used then.
    ridge : float
        Weight of the squares beside them, for an elastic net.
    tol : float
        Relative duality gap at which to stop.
    max_steps : int
        Iterates to draw at most.
    check_every : int
        Iterates from one test of the gap to the next.
    seconds : float
        Time after which to stop at the next iterate.
    device : str
        Where to compute, in float64: "auto" is cuda, else cpu.
    progress : bool
        Show a bar, in a notebook or on a terminal; a log file gets none.
    """

    lambda_z: float = 1e-2
    lambda_y: float = 1e-2
    exact: bool = False
    ridge: float = 0.0
    tol: float = 1e-6
    max_steps: int = 5000
    check_every: int = 10
    seconds: float = math.inf
    device: str = "auto"
    progress: bool = True

    # Whether the answer keeps Σ_j |a_j| ≤ κ; a solver that cannot says so here.
    honours_kappa: ClassVar[bool] = True
    # Whether each row may come from another iterate, projected. Where rows belong together the
    # whole W is taken or left, and is feasible as it comes.
    separable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        # Whatever number was given, a plain one is kept: NumPy's own cannot be saved as data.
        for name in ("lambda_z", "lambda_y", "ridge"):
            object.__setattr__(self, name, validation.real(name, getattr(self, name), at_least=0.0))
        object.__setattr__(self, "tol", validation.real("tol", self.tol, above=0.0))
        validation.integer("max_steps", self.max_steps)
        validation.integer("check_every", self.check_every)
        if self.exact and self.ridge:
            raise ValueError(f"exact matching weighs no squares, got ridge={self.ridge:g}: give 0.")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be > 0, got {self.seconds}.")
        validation.resolve_device(self.device)

    @abc.abstractmethod
    def iterates(self, problem: Problem) -> Iterator[Tensor | tuple[Tensor, Tensor] | Iterate]:
        """Better and better W (k, d), as long as they are drawn; they need not be feasible.

        A pair (W, U) asks for the lower bound `Problem.dual` at U in place of W; an `Iterate`
        can say more.
        """

    @property
    def name(self) -> str:
        """How the result calls the solver."""
        return type(self).__name__

    def gathered(self, stats: Statistics) -> Statistics:
        """The statistics of all data, where other processes hold parts; these, here."""
        return stats

    @torch.no_grad()
    def solve(self, problem: Problem,
              watch: Callable[[dict[str, float]], bool | None] | None = None) -> Rows:
        """Draw iterates until the duality gap is small; keep the best feasible point of each row.

        KeyboardInterrupt ends the solve, not the program: the result says CANCELLED.

        Parameters
        ----------
        problem : Problem
            In float64.
        watch : callable, optional
            Called with each new row of `Rows.history`, as a dict. Where it returns true the solve
            ends there, as CANCELLED: what an interrupt does, from any thread.

        Returns
        -------
        Rows
        """
        check(problem)
        best = _Best(problem.to(self._device), self.honours_kappa, watch, self.separable)
        status, step, start = SolveStatus.ENDED, 0, time.perf_counter()
        with _bar(self.name, self.tol, self.progress) as bar:
            try:
                W = None
                for step, W in enumerate(self.iterates(best.problem), start=1):
                    late = time.perf_counter() - start > self.seconds
                    if late or step % self.check_every == 0 or step == self.max_steps:
                        best.see(W, step, start, bar)
                        W = None  # seen
                    if best.relative_gap <= self.tol or late or step == self.max_steps:
                        status = SolveStatus.SECONDS if late else SolveStatus.MAX_STEPS
                        break
                if W is not None:  # the generator ended between two tests
                    best.see(W, step, start, bar)
            except KeyboardInterrupt:
                status = SolveStatus.CANCELLED
        if best.relative_gap <= self.tol and status is not SolveStatus.CANCELLED:
            status = SolveStatus.SOLVED
        elif status is SolveStatus.ENDED and best.stationarity <= self.tol:
            status = SolveStatus.STATIONARY
        return best.result(status, step, start, self.name, problem.gram.device)

    @property
    def _device(self) -> torch.device:
        device = validation.resolve_device(self.device)
        return torch.device("cpu") if device.type == "mps" else device  # which has no float64


def check(problem: Problem) -> None:
    """Refuse what is no `Problem` in float64."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}.")
    if problem.gram.dtype != torch.float64:
        raise TypeError(f"a Problem is solved in float64, got {problem.gram.dtype}: its "
                        f"duality gap needs the digits.")


class _Best:
    """The best feasible point and the best lower bound of each row so far."""

    def __init__(self, problem: Problem, feasible: bool,
                 watch: Callable[[dict[str, float]], bool | None] | None = None,
                 separable: bool = True) -> None:
        self.problem, self.feasible, self.watch = problem, feasible, watch
        self.separable = separable
        self.kept: Iterate | None = None  # where W is one iterate's
        self.W = problem.zeros()
        self.objective = problem.objective(self.W)
        # Of a problem without values nothing is better than W = 0; else 0 is a first bound.
        self.lower = torch.zeros_like(self.objective)
        self.history: list[dict[str, float]] = []
        self.seen = False

    @property
    def stationarity(self) -> float:
        found = self.kept and self.kept.stationarity
        return math.inf if found is None else found

    @property
    def gap(self) -> Tensor:
        return (self.objective - self.lower).clamp(min=0)

    @property
    def relative_gap(self) -> float:
        if not self.seen:
            return math.inf
        size = torch.maximum(self.objective, self.problem.scale).sum()
        return float(self.gap.sum() / size) if size > 0 else 0.0

    def see(self, iterate: Tensor | tuple[Tensor, Tensor] | Iterate, step: int, start: float,
            bar: tqdm) -> None:
        found = Iterate(*iterate) if isinstance(iterate, tuple) else Iterate(iterate)
        W, U = found.W, found.U
        if self.feasible and self.separable:
            W = self.problem.project(W)
        objective = self.problem.objective(W)
        # Of two with the same objective up to rounding the later one is nearer to the optimum.
        slack = 16 * torch.finfo(W.dtype).eps * self.problem.norms
        better = (objective <= self.objective + slack) | (not self.feasible)
        if not self.separable:
            better = (objective.sum() <= (self.objective + slack).sum()).expand_as(objective)
            self.kept = found if better.any() else self.kept
        self.W = torch.where(better[:, None], W, self.W)
        if self.feasible:
            least = torch.minimum(objective, self.objective)
            objective = least if self.separable else torch.where(better, objective, self.objective)
        self.objective = objective
        self.lower = torch.maximum(self.lower, self.problem.dual(W if U is None else U))
        self.seen = True
        self.history.append({"step": step, "seconds": time.perf_counter() - start,
                             "objective": float(self.objective.sum()),
                             "gap": float(self.gap.sum())})
        show(bar, self.history[-1]["objective"], self.relative_gap)
        if self.watch is not None and self.watch(dict(self.history[-1])):
            raise KeyboardInterrupt

    def result(self, status: SolveStatus, step: int, start: float, name: str,
               device: torch.device) -> Rows:
        problem, ball = self.problem, self.problem.ball
        norm = float(self.W[:, :ball].abs().sum(dim=1).amax()) if self.W[:, :ball].numel() else 0.0
        if not self.feasible and (problem.violation(self.W) > 0).any():
            status = SolveStatus.IGNORES_KAPPA
        stats = RowStats(self.objective.to(device), self.gap.to(device), self.relative_gap, norm,
                         int(torch.count_nonzero(self.W)), step, time.perf_counter() - start, name,
                         stationarity=self.kept and self.kept.stationarity)
        history = pd.DataFrame(self.history, columns=["step", "seconds", "objective", "gap"])
        factors = self.kept and self.kept.factors
        if factors is not None:
            factors = LowRank(factors.L.to(device), factors.R.to(device))
        return Rows(self.W.to(device), status, stats, history, factors)


def _bar(name: str, tol: float, progress: bool) -> tqdm:
    """A bar of the decimal digits of the relative gap."""
    return progress_bar(total=round(-math.log10(min(tol, 0.1)), 2), desc=name, progress=progress,
                        bar_format="{desc}: {bar} {postfix} [{elapsed}]")


def show(bar: tqdm, objective: float, relative_gap: float) -> None:
    """Move the bar to the digits that are reached.

    Parameters
    ----------
    bar : tqdm
    objective, relative_gap : float
        Of all rows.
    """
    bar.set_postfix(objective=f"{objective:.6g}", gap=f"{relative_gap:.1e}")
    done = -math.log10(max(relative_gap, 1e-300))
    bar.update(min(max(round(done, 2), bar.n), bar.total) - bar.n)
