"""What a trained model's solver settings cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Anderson, Solver
from idl_lab.model import ImplicitModel
from idl_lab.training import accuracy
from idl_lab.well_posedness import inf_norm


@torch.no_grad()
def tolerance_study(model: ImplicitModel, U: Tensor, labels: Tensor, tols: Sequence[float]
                    ) -> tuple[pd.DataFrame, Tensor, Tensor]:
    """What a looser tolerance of the state equation does to a trained model's predictions.

    Where ‖f(x) − x‖∞ ≤ tol, the returned f(x) is within κ tol/(1 − κ) of the equilibrium,
    κ = ‖A‖∞, and a class score within ‖C‖∞ κ tol/(1 − κ) of its own; a prediction cannot change
    while its margin exceeds twice that.

    Parameters
    ----------
    model : ImplicitModel
        With ‖A‖∞ < 1 and a non-expansive φ.
    U : Tensor, shape (m, p)
    labels : Tensor, shape (m,)
    tols : sequence of float

    Returns
    -------
    table : pandas.DataFrame
        By tolerance: steps, the largest error of a class score, its bound, accuracy, and how many
        predictions differ from those at the equilibrium.
    scores : Tensor, shape (tolerances, m, q)
    exact : Tensor, shape (m, q)
        Class scores at the equilibrium (to the dtype's rounding).
    """
    kappa = float(inf_norm(model.A))
    validation.real("‖A‖∞ of the model", kappa, below=1.0)
    amplify = float(inf_norm(model.C)) * kappa / (1 - kappa)
    b = model.injection(U)

    def predict(solver: Solver) -> tuple[Tensor, int]:
        # With its states kept, a solve is tested at every step and ends at the first that will do.
        solution = equilibrium(model.A, b, model.activation, solver=solver, keep_states=True)
        return model.output(solution.value, U), solution.stats.steps

    exact, _ = predict(Anderson(tol=0.0))
    scores, rows = [], []
    for tol in tols:
        Y, steps = predict(dataclasses.replace(model.solver, tol=tol))
        scores.append(Y)
        rows.append({"tol": tol, "steps": steps, "error": float((Y - exact).abs().max()),
                     "bound": amplify * tol, "accuracy": float(accuracy(Y, labels)),
                     "changed": int((Y.argmax(dim=1) != exact.argmax(dim=1)).sum())})
    return pd.DataFrame(rows).set_index("tol"), torch.stack(scores), exact
