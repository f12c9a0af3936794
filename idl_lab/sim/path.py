"""SIM along a path of λ, each fit from the one before, and a rule to choose by."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from idl_lab import validation
from idl_lab.sim.fitting import Seen, fit
from idl_lab.sim.hooks import Batches
from idl_lab.sim.problem import output_matching, state_matching
from idl_lab.sim.score import Score, score
from idl_lab.sim.solvers import BaseSolver
from idl_lab.sim.states import GramStatistics
from idl_lab.sim.weighing import weighted

if TYPE_CHECKING:
    import pandas as pd

    from idl_lab.sim.sim import SIM


def walk(sim: SIM, solver: BaseSolver, seen: Seen, lambdas: Sequence[float] | int,
         val_loader: Batches | None, within: float | None) -> pd.DataFrame:
    """`SIM.path`: the arguments and the table are described there.

    Parameters
    ----------
    sim : SIM
        Becomes the fit that is chosen.
    solver : BaseSolver
    seen : Seen
        The teacher and its data.
    lambdas, val_loader, within
        As for `SIM.path`.

    Raises
    ------
    TypeError, ValueError
        As `SIM.path`.
    """
    import pandas as pd

    if sim.exact:
        raise ValueError("a path goes along λ, and exact=True uses none.")
    if isinstance(lambdas, int):
        lambdas = powers_of_ten(largest(sim, seen.grams), lambdas)
    lambdas = sorted((validation.real("a λ", lam, above=0.0) for lam in lambdas), reverse=True)
    if not lambdas:
        raise ValueError("a path needs a λ, got none.")
    rows, scores, found, starts = [], [], [], (None, None)
    for lam in lambdas:
        sim.lambda_z = sim.lambda_y = lam
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table says it: status, gap, fidelity
            result, model, starts = fit(sim, solver, seen, starts)
            stats = result.stats
            fidelity = Score("fidelity", result.fidelity, stats["fidelity_error"],
                             stats["fidelity_samples"])
            measured = [] if val_loader is None else [score(model, val_loader)]
        worse = max(result.status, key=lambda name: stats["relative_gap"][name])
        rows.append({s.kind: s.value for s in (*measured, fidelity)} | {
            "nonzeros": sum(stats["nonzeros"].values()), "gap": stats["relative_gap"][worse],
            "status": result.status[worse].name, "seconds": stats["seconds"]})
        scores.append((*measured, fidelity)[0])
        found.append((result, model))
    at = choose(scores, within)
    sim._take(*found[at], seen.teacher)
    sim.lambda_z = sim.lambda_y = lambdas[at]
    table = pd.DataFrame(rows, index=pd.Index(lambdas, name="lambda"))
    table["chosen"] = table.index == lambdas[at]
    return table


def powers_of_ten(below: float, count: int) -> list[float]:
    """Powers of ten, falling from the last one below a number.

    Parameters
    ----------
    below : float
        Such as the λ from which on nothing is left.
    count : int
        How many.
    """
    top = math.floor(math.log10(below)) if below > 0 else 0
    return [10.0 ** (top - k) for k in range(validation.integer("lambdas", count))]


def largest(sim: SIM, grams: GramStatistics) -> float:
    """The λ from which on both problems' weighed entries are all zero, but for the biases.

    Parameters
    ----------
    sim : SIM
        Its options.
    grams : GramStatistics
    """
    tops = []
    for problem in (state_matching(grams, sim.kappa, 1.0, feedback=sim.feedback),
                    output_matching(grams, 1.0)):
        penalty = weighted(problem, sim.weigh, grams.samples).penalty
        pull = problem.cross
        if grams.ones:  # what the biases leave
            pull = pull - pull[:, -1:] * problem.gram[-1] / grams.samples
        if problem.support is not None:
            pull = torch.where(problem.support, pull, 0)
        tops.append(float((pull.abs() / torch.where(penalty > 0, penalty, torch.inf)).amax()))
    return max(tops)


def choose(scores: Sequence[Score], within: float | None = None) -> int:
    """The first, of falling λ, that is as good as the best but for what chance explains.

    Parameters
    ----------
    scores : sequence of Score
        Along falling λ.
    within : float, optional
        By how much it may be worse; None is one standard error of the best.

    References
    ----------
    Breiman, Friedman, Olshen, Stone, Classification and Regression Trees, 1984, section 3.4.3
    (the one-standard-error rule); Hastie, Tibshirani, Friedman, The Elements of Statistical
    Learning, 2nd ed. 2009, section 7.10.
    """
    usable = [k for k, s in enumerate(scores) if math.isfinite(s.value)]
    if not usable:
        return len(scores) - 1
    best = scores[max(usable, key=lambda k: scores[k].value)]
    least = best.value - (best.error if within is None else within)
    return next(k for k in usable if scores[k].value >= least)
