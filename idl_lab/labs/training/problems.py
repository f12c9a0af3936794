"""What a trained model's solver settings cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Anderson, Picard, Solver
from idl_lab.fixed_point.solution import Solution
from idl_lab.model import ImplicitModel
from idl_lab.training import accuracy
from idl_lab.well_posedness import inf_norm


def paired_difference(one: Tensor, other: Tensor) -> tuple[float, float]:
    """How much more often one setting is right than another, and the standard error of that.

    The same images are answered in the same runs, so what is compared are pairs: d = −1, 0 or 1
    for each run and image. The error has two parts, other images (the variance over images of d
    averaged over runs) and other runs (the variance over runs of d averaged over images); adding
    them counts what belongs to neither alone twice, on the safe side.

    Parameters
    ----------
    one, other : Tensor of bool, shape (runs, images)
        Whether the image is classified correctly. Of a single run the second part is unknown and
        left out.

    Returns
    -------
    difference, error : float

    Raises
    ------
    ValueError
        Where the shapes differ or there are fewer than two images.

    References
    ----------
    Cameron, Gelbach and Miller 2011, Robust inference with multiway clustering.
    """
    if one.shape != other.shape or one.dim() != 2 or one.shape[1] < 2:
        raise ValueError(f"one and other must have the same shape (runs, images), two images at "
                         f"least, got {tuple(one.shape)} and {tuple(other.shape)}.")
    d = one.double() - other.double()
    runs, images = d.shape
    square = d.mean(dim=0).var() / images
    if runs > 1:
        square = square + d.mean(dim=1).var() / runs
    return float(d.mean()), float(square.sqrt())


@dataclasses.dataclass(frozen=True, eq=False)
class CountedPicard(Picard):
    """`Picard` that writes down how often it evaluates its map.

    Copies made by `dataclasses.replace` write to the same list: so does the adjoint's solver that
    `Implicit()` makes of the forward one.

    Parameters
    ----------
    rtol, atol, max_steps, damping
        As for `Picard`.
    evaluations : list of int
        Of each step between two tests, in the order taken.
    """

    evaluations: list[int] = dataclasses.field(default_factory=list, repr=False)

    # Equal settings share what is made of them, such as the adjoint's solver: two counts would run
    # together, were they equal where their settings are.
    __eq__, __hash__ = object.__eq__, object.__hash__

    def step(self, f: Any, x: Tensor, state: Any, skip: int = 0) -> tuple:
        """As `Picard.step`, counted.

        Parameters
        ----------
        f, x, state, skip
            As for `Picard.step`.
        """
        self.evaluations.append(1 + skip)
        return super().step(f, x, state, skip)


@torch.no_grad()
def tolerance_study(model: ImplicitModel, U: Tensor, labels: Tensor, rtols: Sequence[float]
                    ) -> tuple[pd.DataFrame, Tensor, Tensor]:
    """What a looser tolerance of the state equation does to a trained model's predictions.

    Where ‖f(x) − x‖∞ ≤ rtol ‖x‖∞, x is within rtol ‖x‖∞/(1 − κ) of the equilibrium, κ = ‖A‖∞,
    and a class score within ‖C‖∞ rtol ‖x‖∞/(1 − κ) of its own; a prediction cannot change while
    its margin exceeds twice that.

    Parameters
    ----------
    model : ImplicitModel
        With ‖A‖∞ < 1 and a non-expansive φ.
    U : Tensor, shape (m, p)
    labels : Tensor, shape (m,)
    rtols : sequence of float

    Returns
    -------
    table : pandas.DataFrame
        By tolerance: steps, the largest error of a class score, its bound (of the
        image with the largest ‖x‖∞), accuracy, and how many predictions differ from those at the
        equilibrium.
    scores : Tensor, shape (tolerances, m, q)
    exact : Tensor, shape (m, q)
        Class scores at the equilibrium (to the dtype's rounding).
    """
    kappa = float(inf_norm(model.A))
    validation.real("‖A‖∞ of the model", kappa, below=1.0)
    amplify = float(inf_norm(model.C)) / (1 - kappa)
    b = model.injection(U)

    def predict(solver: Solver) -> tuple[Tensor, Solution]:
        # With its states kept, a solve is tested at every step and ends at the first that will do.
        solution = equilibrium(model.A, b, model.activation, solver=solver, keep_states=True)
        return model.output(solution.value, U), solution

    exact, _ = predict(Anderson(rtol=0.0))
    scores, rows = [], []
    for rtol in rtols:
        Y, solution = predict(dataclasses.replace(model.solver, rtol=rtol, atol=0.0))
        scores.append(Y)
        rows.append({"rtol": rtol, "steps": solution.stats.steps,
                     "error": float((Y - exact).abs().max()),
                     "bound": amplify * rtol * float(solution.stats.size.max()),
                     "accuracy": float(accuracy(Y, labels)),
                     "changed": int((Y.argmax(dim=1) != exact.argmax(dim=1)).sum())})
    return pd.DataFrame(rows).set_index("rtol"), torch.stack(scores), exact
