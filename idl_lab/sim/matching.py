"""One of SIM's two problems, solved as asked: weighed, exactly, refitted."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import BaseSolver, SolveResult, SolveStatus
from idl_lab.sim.states import GramStatistics
from idl_lab.sim.weighing import on_support, weighted

if TYPE_CHECKING:
    from idl_lab.sim.sim import SIM

INEXACT = 1e-4  # of the size of a target: a larger miss is no exact matching


def matched(name: str, sim: SIM, solver: BaseSolver, problem: Problem, grams: GramStatistics,
            start: Tensor | None = None) -> tuple[SolveResult, Tensor]:
    """A solved problem.

    Parameters
    ----------
    name : {"state", "output"}
        Of the problem.
    sim : SIM
        Its options.
    solver : BaseSolver
    problem : Problem
        Of these statistics, with SIM's λ.
    grams : GramStatistics
    start : Tensor, shape (k, d), optional
        The answer of a neighbouring λ.

    Returns
    -------
    found : SolveResult
        With ``refit`` its W is that of least squares on the support; status and figures are
        those of the choice of the support.
    W : Tensor, shape (k, d)
        Before a refit.

    Warns
    -----
    ConvergenceWarning
        If the solve ended before its gap was small.
    UserWarning
        If an exact matching is none.
    """
    problem = weighted(problem, sim.weigh, grams.samples)
    found = _solve(solver, problem.exact() if sim.exact else problem, start)
    # No warning of a solver that leaves κ out, whose gap is that of another problem, nor after a
    # cancel, of which the user knows.
    if solver.honours_kappa and found.status in (SolveStatus.MAX_STEPS, SolveStatus.SECONDS,
                                                  SolveStatus.ENDED):
        warnings.warn(f"{name} matching stopped early: {found.status.value}. The relative gap of "
                      f"the worst row is {found.stats.worst_gap:.1e}; give {solver.name} more "
                      f"max_steps or seconds, or a larger tol.", ConvergenceWarning, stacklevel=4)
    if sim.exact:
        _tell_misses(name, solver, problem, found.W, grams)
    chosen = found.W
    if sim.refit and not sim.exact and bool((problem.penalty > 0).any()):
        found = replace(found, W=_solve(solver, on_support(problem, chosen), chosen).W)
    return found, chosen


def _solve(solver: BaseSolver, problem: Problem, start: Tensor | None) -> SolveResult:
    takes = start is not None and "start" in inspect.signature(solver.solve).parameters
    return solver.solve(problem, start=start) if takes else solver.solve(problem)


def _tell_misses(name: str, solver: BaseSolver, problem: Problem, W: Tensor,
                 grams: GramStatistics) -> None:
    """Warn of the rows that an exact matching misses, by the layers that they are of."""
    missed = (2 * problem.fit(W) / torch.where(problem.norms > 0, problem.norms, 1)).sqrt().cpu()
    if not (missed > INEXACT).any():
        return
    rows = [("the output", grams.q)] if name == "output" else [
        (block.name, block.size) for block in grams.blocks]
    parts = zip(rows, missed.split([size for _, size in rows]), strict=True)
    told = [f"{int((part > INEXACT).sum())} of {size} rows of {row} by up to "
            f"{float(part.max()):.1e}" for (row, size), part in parts if (part > INEXACT).any()]
    inside = f" with ‖A‖∞ ≤ κ = {float(problem.radius.max()):g}" if problem.ball else ""
    warnings.warn(f"{name} matching was to be exact, and what {solver.name} found{inside} misses "
                  f"{'; '.join(told)} of the size of the target: nothing may match, or the solver "
                  f"ended before it did.", UserWarning, stacklevel=4)
