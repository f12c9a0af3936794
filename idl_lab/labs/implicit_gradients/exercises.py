"""The exercises of this lab."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Verdict, given, hint, right_answer


def adjoint_vector(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """Lab 04: ``answer(A, d, g)`` is v = (I − (DA)ᵀ)⁻¹ g with D = diag(d), one sample."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64, device="cpu")

    A, d, g = draw(4, 4) / 4, draw(4), draw(4)
    eye, D = torch.eye(4, dtype=A.dtype, device=A.device), torch.diag(d)
    got = given(answer, (A, d, g), "v", g.shape,
                   "v is a tensor of shape (4,)")
    if isinstance(got, Verdict):
        return got

    def is_solution(M: Tensor) -> bool:
        return torch.allclose(got.double(), torch.linalg.solve(M, g), rtol=1e-5)

    if is_solution(eye - (D @ A).T):
        return right_answer("One linear solve, whatever way the equilibrium was found.")
    slips = {
        "The transpose is missing: (DA)ᵀ = AᵀD passes the gradient backwards.": eye - D @ A,
        "D is forgotten: the slopes φ′ scale the rows of A, d[:, None] * A.": eye - A.T,
        "D and the transpose are missing: the matrix is I − (DA)ᵀ.": eye - A,
        "D is on the wrong side: it scales the rows of A, d[:, None] * A.": eye - (A @ D).T,
        "The sign is wrong: v = g + (DA)ᵀ v, so (I − (DA)ᵀ) v = g.": eye + (D @ A).T,
    }
    for sentence, M in slips.items():
        if is_solution(M):
            return hint(sentence)
    if torch.allclose(got.double(), d * torch.linalg.solve(eye - (D @ A).T, g)):
        return hint("That is Dv, the gradient of b; v itself is wanted.")
    return hint("Form DA = d[:, None] * A, transpose it, and solve (I − (DA)ᵀ) v = g with "
                 "torch.linalg.solve.")
