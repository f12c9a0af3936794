"""The exercise of lab 04."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise


def _inputs(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    A, slopes, g = (torch.rand(*shape, generator=draws, dtype=torch.float64, device="cpu")
                    for shape in ((4, 4), (4,), (4,)))
    return A / 4, slopes, g


def _solves(matrix: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The function that solves (I − ``matrix(A, Δ)``) w = g."""
    def solve(A: Tensor, slopes: Tensor, g: Tensor) -> Tensor:
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        return torch.linalg.solve(eye - matrix(A, torch.diag(slopes)), g)
    return solve


_right = _solves(lambda A, Delta: (Delta @ A).T)

adjoint_vector = Exercise(
    inputs=_inputs,
    right=_right,
    what="w",
    shape="w is a tensor of shape (4,)",
    slips={
        "The transpose is missing: (ΔA)ᵀ = AᵀΔ passes the gradient backwards.":
            _solves(lambda A, Delta: Delta @ A),
        "Δ is forgotten: the slopes φ′ scale the rows of A, slopes[:, None] * A.":
            _solves(lambda A, Delta: A.T),
        "Δ and the transpose are missing: the matrix is I − (ΔA)ᵀ.":
            _solves(lambda A, Delta: A),
        "Δ is on the wrong side: it scales the rows of A, slopes[:, None] * A.":
            _solves(lambda A, Delta: (A @ Delta).T),
        "The sign is wrong: w = g + (ΔA)ᵀ w, so (I − (ΔA)ᵀ) w = g.":
            _solves(lambda A, Delta: -(Delta @ A).T),
        "That is Δw, the gradient of b; w itself is wanted.":
            lambda A, slopes, g: slopes * _right(A, slopes, g),
    },
    hints=[
        "Form ΔA = slopes[:, None] * A, transpose it, and solve (I − (ΔA)ᵀ) w = g with "
        "torch.linalg.solve."],
    praise="One linear solve, whatever way the equilibrium was found.")
