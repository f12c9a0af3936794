"""The exercise of lab 07."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal


def _sums(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coefficients, and what nine samples of four features leave of themselves."""
    Phi, z, beta = (normal(*shape, generator=draws) for shape in ((9, 4), (9,), (4,)))
    return beta, Phi.mT @ Phi, Phi.mT @ z, z @ z


gram_objective = Exercise(
    inputs=_sums,
    right=lambda beta, gram, cross, norm: 0.5 * beta @ gram @ beta - beta @ cross + 0.5 * norm,
    what="½‖Φβ − z‖², written with gram, cross and norm",
    shape="The misfit of one row is one real number",
    slips={
        "That is ‖Φβ − z‖²: the factor ½ is missing.":
            lambda beta, gram, cross, norm: beta @ gram @ beta - 2 * beta @ cross + norm,
        "The sign of the middle term: (a − b)² = a² − 2ab + b².":
            lambda beta, gram, cross, norm: 0.5 * beta @ gram @ beta + beta @ cross + 0.5 * norm,
        "The middle term of the square counts twice: (a − b)² = a² − 2ab + b².":
            lambda beta, gram, cross, norm: 0.5 * (beta @ gram @ beta - beta @ cross + norm),
        "‖z‖² is missing: a constant, but without it this is not the misfit.":
            lambda beta, gram, cross, norm: 0.5 * beta @ gram @ beta - beta @ cross,
    },
    hints=[
        "Expand ‖Φβ − z‖² = (Φβ − z)ᵀ(Φβ − z) and find ΦᵀΦ, Φᵀz and zᵀz in it."],
    praise="Three products instead of nine samples, or of a million.")
