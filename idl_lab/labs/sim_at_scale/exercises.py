"""The exercises of this lab."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Verdict, given, hint, right_answer


def merged_scatter(answer: Callable[..., Tensor]) -> Verdict:
    """Lab 09: ``answer(m1, mean1, S1, m2, mean2, S2)`` is the scatter matrix of both shards."""
    generator = torch.Generator("cpu").manual_seed(0)

    def shard(m: int, shift: float) -> tuple[int, Tensor, Tensor]:
        Phi = shift + torch.randn(m, 3, generator=generator, dtype=torch.float64, device="cpu")
        return m, Phi.mean(dim=0), (Phi - Phi.mean(dim=0)).mT @ (Phi - Phi.mean(dim=0))

    (m1, mean1, S1), (m2, mean2, S2) = shard(5, 0.0), shard(20, 3.0)
    gap = mean1 - mean2
    between, weight = torch.outer(gap, gap), m1 * m2 / (m1 + m2)
    got = given(answer, (m1, mean1, S1, m2, mean2, S2), "the scatter matrix", S1.shape,
                   "The scatter matrix of three features is a (3, 3) tensor")
    if isinstance(got, Verdict):
        return got

    def same(wanted: Tensor) -> bool:
        return torch.allclose(got.double(), wanted, rtol=1e-9)

    if same(S1 + S2 + weight * between):
        return right_answer("A number, a vector and a matrix a shard are enough, whatever its "
                            "size.")
    if same(S1 + S2):
        return hint("That is the scatter around each shard's own mean. Around the common mean "
                     "there is more, unless the two means agree.")
    if same(S1 + S2 + between):
        return hint("The outer product of the means' difference is the right matrix; its weight "
                     "depends on m1 and m2.")
    if same(S1 + S2 + weight * (gap @ gap)):
        return hint("The difference of the means gives a (3, 3) matrix, torch.outer, not one "
                     "number.")
    if same((S1 + S2 + weight * between) / (m1 + m2)):
        return hint("That is the covariance; the scatter matrix is not divided by m1 + m2.")
    if same(S1 + S2 + m1 * torch.outer(mean1, mean1) + m2 * torch.outer(mean2, mean2)):
        return hint("That is the raw sum of φφᵀ over both shards; take (m1 + m2) times the outer "
                     "product of the common mean away from it.")
    return hint("Go by way of the raw sums: Σφφᵀ = S + m·mean·meanᵀ in each shard. Add them, and "
                 "take the common mean out again.")
