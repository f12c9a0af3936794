"""The exercises of this lab."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Verdict, given, hint, right_answer


def memory_matrix(answer: Callable[..., Tensor]) -> Verdict:
    """Lab 06: ``answer(A, B, C, D, slope)`` is ∂h_t/∂h_{t−1}, B and D the columns of h."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")

    A, B, C, D = 0.2 * draw(4, 4), draw(4, 3), draw(3, 4), draw(3, 3)
    slope = torch.rand(4, generator=generator, dtype=torch.float64, device="cpu")
    got = given(answer, (A, B, C, D, slope), "the matrix", D.shape,
                   "The derivative of three numbers by three is a (3, 3) tensor")
    if isinstance(got, Verdict):
        return got
    eye = torch.eye(4, dtype=A.dtype, device=A.device)

    def through(slope: Tensor, M: Tensor) -> Tensor:
        return C @ torch.linalg.solve(eye - slope[:, None] * M, slope[:, None] * B)

    def same(wanted: Tensor) -> bool:
        return torch.allclose(got.double(), wanted)

    if same(D + through(slope, A)):
        return right_answer("D is the direct way from h to h, the rest the way through the "
                            "equilibrium.")
    if same(through(slope, A)):
        return hint("That is the way through the equilibrium; h also passes through D directly.")
    if same(D + through(torch.ones_like(slope), A)):
        return hint("φ is missing: its slope multiplies the rows of A and of B.")
    if same(D + C @ (slope[:, None] * B)):
        return hint("That is one step from x = 0. At the equilibrium x moves on both sides: "
                     "dx = slope · (A dx + B dh). Solve for dx.")
    if same(D + C @ torch.linalg.solve(eye - slope[:, None] * A, B)):
        return hint("The slope multiplies B too, not only A.")
    return hint("Differentiate x = φ(Ax + Bh): dx = slope · (A dx + B dh), with slope on each "
                 "row. Solve for dx, then dh_t = C dx + D dh.")
