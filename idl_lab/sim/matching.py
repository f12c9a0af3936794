"""One of SIM's two problems, solved as asked: weighed, exactly, refitted."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.sim.problem import RESOLVED, Problem
from idl_lab.sim.solvers import BaseSolver, SolveResult, SolveStatus
from idl_lab.sim.states import GramStatistics
from idl_lab.sim.weighing import on_support, weighted
from idl_lab.well_posedness import inf_norm

if TYPE_CHECKING:
    from idl_lab.sim.sim import SIM

ROUNDED_UP = 1e-9  # of a row's sum over its radius: more is a broken promise, and not rounding
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
        warnings.warn(f"{name} matching stopped early: {found.status.value}. The relative gap "
                      f"is {found.stats.relative_gap:.1e}; give {solver.name} more max_steps "
                      f"or seconds, or a larger tol.", ConvergenceWarning, stacklevel=4)
    if sim.exact:
        _tell_misses(name, solver, problem, found.W, grams)
    chosen = found.W
    if sim.refit and not sim.exact and bool((problem.penalty > 0).any()):
        found = replace(found, W=_solve(solver, on_support(problem, chosen), chosen).W)
    return found, chosen


def _solve(solver: BaseSolver, problem: Problem, start: Tensor | None) -> SolveResult:
    """The problem's answer, found with every target measured in its own size.

    A solver stops at a gap that is summed over the rows: in one unit for all, a row whose target
    is a small number would be left as it stands.
    """
    one = problem.norms.new_ones(len(problem.norms))
    # Where rows belong together, as under a rank, another weight of each is another problem.
    size = torch.where(problem.norms > 0, problem.norms, 1).sqrt() if solver.separable else one
    asked = replace(problem, cross=problem.cross / size[:, None], norms=problem.norms / size ** 2,
                    lam=problem.lam / size, kappa=problem.radius / size if problem.ball else None)
    guess = {}
    if start is not None and "start" in inspect.signature(solver.solve).parameters:
        guess["start"] = start / size[:, None]
    found = solver.solve(asked, **guess)
    W, stats = size[:, None] * found.W, found.stats
    if solver.honours_kappa and solver.separable:  # a last digit that the product rounded up
        inside = problem.violation(W) < ROUNDED_UP
        W = torch.where(inside[:, None], problem.project(W), W)
    return replace(found, W=W, stats=replace(
        stats, objective=stats.objective * size ** 2, gap=stats.gap * size ** 2,
        inf_norm=float(inf_norm(W[:, :problem.ball]))))


def worst_gap(found: SolveResult, norms: Tensor) -> float:
    """The largest gap of a row, relative to its objective.

    Parameters
    ----------
    found : SolveResult
    norms : Tensor, shape (k,)
        ‖t‖² of each target, of which a millionth counts where an objective is next to nothing.
    """
    gap, objective = found.stats.gap.cpu(), found.stats.objective.cpu()
    size = torch.maximum(objective, RESOLVED * 0.5 * norms.cpu())
    return float(torch.where(size > 0, gap / torch.where(size > 0, size, 1), 0).amax())


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
