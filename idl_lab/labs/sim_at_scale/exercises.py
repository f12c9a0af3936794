"""The exercise of lab 09."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal


def _shards(draws: torch.Generator) -> tuple[int, Tensor, Tensor, int, Tensor, Tensor]:
    """Number, mean and scatter matrix of 5 samples, and of 20 whose features have another mean."""
    found: list[int | Tensor] = []
    for m, shift in ((5, 0.0), (20, 3.0)):
        Phi = shift + normal(m, 3, generator=draws)
        mean = Phi.mean(dim=0)
        found += [m, mean, (Phi - mean).mT @ (Phi - mean)]
    return tuple(found)


def _between(mean1: Tensor, mean2: Tensor) -> Tensor:
    return torch.outer(mean1 - mean2, mean1 - mean2)


def _merged(m1: int, mean1: Tensor, S1: Tensor, m2: int, mean2: Tensor, S2: Tensor) -> Tensor:
    return S1 + S2 + m1 * m2 / (m1 + m2) * _between(mean1, mean2)


merged_scatter = Exercise(
    inputs=_shards,
    right=_merged,
    what="the scatter matrix",
    shape="The scatter matrix of three features is a (3, 3) tensor",
    slips={
        "That is the scatter around each shard's own mean. Around the common mean there is more, "
        "unless the two means agree.":
            lambda m1, mean1, S1, m2, mean2, S2: S1 + S2,
        "The outer product of the means' difference is the right matrix; its weight depends on m1 "
        "and m2.":
            lambda m1, mean1, S1, m2, mean2, S2: S1 + S2 + _between(mean1, mean2),
        "The difference of the means gives a (3, 3) matrix, torch.outer, not one number.":
            lambda m1, mean1, S1, m2, mean2, S2: S1 + S2 + m1 * m2 / (m1 + m2) * (
                mean1 - mean2).square().sum(),
        "That is the covariance; the scatter matrix is not divided by m1 + m2.":
            lambda m1, mean1, S1, m2, mean2, S2: _merged(m1, mean1, S1, m2, mean2, S2) / (m1 + m2),
        "That is the raw sum ΦᵀΦ over both shards; take (m1 + m2) times the outer product of the "
        "common mean away from it.":
            lambda m1, mean1, S1, m2, mean2, S2: S1 + S2 + m1 * torch.outer(
                mean1, mean1) + m2 * torch.outer(mean2, mean2),
    },
    hints=[
        "Go by way of the raw sums: ΦᵀΦ = S + m·mean·meanᵀ in each shard. Add them, and take the "
        "common mean out again."],
    praise="A number, a vector and a matrix a shard are enough, whatever its size.")
