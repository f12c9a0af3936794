"""The best that a solve has found so far, its history, and the bar that shows it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idl_lab import extras
from idl_lab.bar import progress_bar
from idl_lab.operators import LowRank
from idl_lab.sim.duality import ROUNDINGS
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers.result import Iterate, SolveResult, SolveStats, SolveStatus

if TYPE_CHECKING:
    from tqdm import tqdm


class Incumbent:
    """The best feasible point and the best lower bound of each row so far.

    Parameters
    ----------
    problem : Problem
        On the device of the iterates.
    feasible : bool
        Whether iterates are projected, so that a better one is also inside the ball; else the
        last one is the answer.
    watch : callable, optional
        As for `BaseSolver.solve`.
    separable : bool
        As for `BaseSolver`.
    """

    def __init__(self, problem: Problem, feasible: bool,
                 watch: Callable[[dict[str, float]], bool | None] | None = None,
                 separable: bool = True) -> None:
        self.problem, self.feasible, self.watch = problem, feasible, watch
        self.separable = separable
        self.kept: Iterate | None = None  # the iterate that W is, where rows belong together
        self.W = problem.zeros()
        self.objective = problem.objective(self.W)
        # No objective is negative, so 0 is a bound before any other is known.
        self.lower = torch.zeros_like(self.objective)
        self.history: list[dict[str, float]] = []
        self.seen = False

    @property
    def stationarity(self) -> float:
        """Of the point that is kept, as its `Iterate` says; infinite where it does not."""
        found = self.kept and self.kept.stationarity
        return math.inf if found is None else found

    @property
    def gap(self) -> Tensor:
        """How far each row's objective is above its optimum at most, (k,)."""
        return (self.objective - self.lower).clamp(min=0)

    @property
    def relative_gap(self) -> float:
        """As in `SolveStats`; infinite before the first iterate."""
        if not self.seen:
            return math.inf
        size = torch.maximum(self.objective, self.problem.scale).sum()
        return float(self.gap.sum() / size) if size > 0 else 0.0

    @property
    def worst_gap(self) -> float:
        """As in `SolveStats`; infinite before the first iterate."""
        if not self.seen:
            return math.inf
        size = torch.maximum(self.objective, self.problem.scale)
        return float(torch.where(size > 0, self.gap / torch.where(size > 0, size, 1), 0).amax())

    @property
    def solved_to(self) -> float:
        """The gap that tol is for: of the worst row, where each has its own certificate."""
        return self.worst_gap if self.separable else self.relative_gap

    def see(self, iterate: Tensor | tuple[Tensor, Tensor] | Iterate, step: int, start: float,
            bar: tqdm) -> None:
        """Keep what is better in an iterate; note the history's next row, and show it.

        Parameters
        ----------
        iterate : Tensor, pair of Tensor, or Iterate
            As `BaseSolver.iterates` yields it.
        step : int
            How many iterates were drawn.
        start : float
            `time.perf_counter` when the solve began.
        bar : tqdm
            Of `gap_bar`.

        Raises
        ------
        KeyboardInterrupt
            If ``watch`` asks for the end of the solve.
        """
        found = Iterate(*iterate) if isinstance(iterate, tuple) else Iterate(iterate)
        W, U = found.W, found.U
        if self.feasible and self.separable:
            W = self.problem.project(W)
        objective = self.problem.objective(W)
        # Near the optimum objectives differ by rounding only. There the later iterate is the better
        # one, and a strict comparison would keep an early one whose zeros are not yet found.
        slack = ROUNDINGS * torch.finfo(W.dtype).eps * self.problem.norms
        better = (objective <= self.objective + slack) | (not self.feasible)
        if not self.separable:
            better = (objective.sum() <= (self.objective + slack).sum()).expand_as(objective)
            self.kept = found if better.any() else self.kept
        self.W = torch.where(better[:, None], W, self.W)
        if self.feasible:
            least = torch.minimum(objective, self.objective)
            objective = least if self.separable else torch.where(better, objective, self.objective)
        self.objective = objective
        lower = self.problem.dual(W if U is None else U) if found.lower is None else found.lower
        self.lower = torch.maximum(self.lower, lower)
        self.seen = True
        self.history.append({"step": step, "seconds": time.perf_counter() - start,
                             "objective": float(self.objective.sum()),
                             "gap": float(self.gap.sum())})
        update_bar(bar, self.history[-1]["objective"], self.solved_to)
        if self.watch is not None and self.watch(dict(self.history[-1])):
            raise KeyboardInterrupt

    def result(self, status: SolveStatus, step: int, start: float, name: str,
               device: torch.device) -> SolveResult:
        """What a solve gives back.

        Parameters
        ----------
        status : SolveStatus
            How it ended; a bound that is left out and broken overrules it.
        step : int
            How many iterates were drawn.
        start : float
            `time.perf_counter` when the solve began.
        name : str
            Of the solver.
        device : torch.device
            Where the matrices go.
        """
        problem, ball = self.problem, self.problem.ball
        norm = float(self.W[:, :ball].abs().sum(dim=1).amax()) if self.W[:, :ball].numel() else 0.0
        if not self.feasible and (problem.violation(self.W) > 0).any():
            status = SolveStatus.IGNORES_KAPPA
        stats = SolveStats(self.objective.to(device), self.gap.to(device), self.relative_gap, norm,
                         int(torch.count_nonzero(self.W)), step, time.perf_counter() - start, name,
                         stationarity=self.kept and self.kept.stationarity,
                         worst_gap=self.worst_gap)
        history = extras.need("pandas", "sim").DataFrame(
            self.history, columns=["step", "seconds", "objective", "gap"])
        factors = self.kept and self.kept.factors
        if factors is not None:
            factors = LowRank(factors.L.to(device), factors.R.to(device))
        return SolveResult(self.W.to(device), status, stats, history, factors)


def gap_bar(name: str, tol: float, progress: bool) -> tqdm:
    """A bar of the decimal digits of the relative gap.

    Parameters
    ----------
    name : str
        What stands before the bar.
    tol : float
        The gap at which it is full.
    progress : bool
        False shows nothing.
    """
    return progress_bar(total=round(-math.log10(min(tol, 0.1)), 2), desc=name, progress=progress,
                        bar_format="{desc}: {bar} {postfix} [{elapsed}]")


def update_bar(bar: tqdm, objective: float, relative_gap: float) -> None:
    """Move the bar to the digits that are reached.

    Parameters
    ----------
    bar : tqdm
        Of `gap_bar`.
    objective, relative_gap : float
        The sum over the rows, and what `Incumbent.solved_to` says.
    """
    bar.set_postfix(objective=f"{objective:.6g}", gap=f"{relative_gap:.1e}")
    done = -math.log10(max(relative_gap, 1e-300))  # a gap of 0 has no logarithm
    bar.update(min(max(round(done, 2), bar.n), bar.total) - bar.n)
