"""Small seeded problems that labs, panels and the gallery share."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Anderson, Solver
from idl_lab.model import ImplicitModel
from idl_lab.solution import ConvergenceWarning, Solution
from idl_lab.training import accuracy
from idl_lab.well_posedness import inf_norm

KINDS = ("positive", "signed")


def random_matrix(n: int, norm: float, kind: str = "signed", *,
                  generator: torch.Generator) -> Tensor:
    """A random A (n, n), float64, with ‖A‖∞ = ``norm``.

    Parameters
    ----------
    n : int
    norm : float
        ‖A‖∞, at least 0; may exceed 1.
    kind : {"positive", "signed"}
        "positive": entries > 0 and equal row sums, so λ_PF(|A|) = ‖A‖∞ and nothing cancels.
        "signed": normal entries, one factor for the whole matrix, so rows differ and
        λ_PF(|A|) < ‖A‖∞.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (n, n)
    """
    validation.integer("n", n)
    validation.real("norm", norm, at_least=0.0)
    validation.choice("kind", kind, KINDS)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64, device="cpu")
    if kind == "positive":
        A = A.abs()
        return A * (norm / A.sum(dim=1, keepdim=True))
    return A * (norm / inf_norm(A))


def solve_quietly(A: Tensor, injection: Tensor, phi: str, solver: Solver, X0: Tensor | None = None
                  ) -> Solution:
    """An equilibrium with its states kept, where failing to converge is part of the lesson."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return equilibrium(A, injection, phi, X0=X0, solver=solver, keep_states=True)


def several_starts(n: int, count: int, *, generator: torch.Generator, reach: float = 1.0) -> Tensor:
    """``count`` random starts (count, n), float64, uniform on [−reach, reach]."""
    validation.integer("n", n)
    validation.integer("count", count)
    validation.real("reach", reach, at_least=0.0)
    return reach * (2 * torch.rand(count, n, generator=generator, dtype=torch.float64,
                                   device="cpu") - 1)


def spread(solution: Solution) -> float:
    """Largest distance ‖x − x′‖∞ between the ends of a batch of starts; 0 where they agree."""
    ends = solution.value
    return float(inf_norm((ends.amax(dim=0) - ends.amin(dim=0))[:, None]))


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
