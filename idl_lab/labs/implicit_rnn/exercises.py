"""The exercise of lab 06."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal


def _inputs(draws: torch.Generator) -> tuple[Tensor, ...]:
    """A, B, C, D of a model with 4 states and 3 hidden numbers, and the slopes of its states."""
    A, B, C, D = (normal(*shape, generator=draws) for shape in ((4, 4), (4, 3), (3, 4), (3, 3)))
    return 0.2 * A, B, C, D, torch.rand(4, generator=draws, dtype=A.dtype, device=A.device)


def _moved(A: Tensor, R: Tensor, slopes: Tensor) -> Tensor:
    """(I − ΔA)⁻¹ R."""
    eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
    return torch.linalg.solve(eye - slopes[:, None] * A, R)


memory_matrix = Exercise(
    inputs=_inputs,
    right=lambda A, B, C, D, slopes: D + C @ _moved(A, slopes[:, None] * B, slopes),
    what="the matrix",
    shape="The derivative of three numbers by three is a (3, 3) tensor",
    slips={
        "That is the way through the equilibrium; h also passes through D directly.":
            lambda A, B, C, D, slopes: C @ _moved(A, slopes[:, None] * B, slopes),
        "φ is missing: its slope multiplies the rows of A and of B.":
            lambda A, B, C, D, slopes: D + C @ _moved(A, B, torch.ones_like(slopes)),
        "That is one step from x = 0. At the equilibrium x moves on both sides: dx = Δ(A dx + "
        "B dh). Solve for dx.":
            lambda A, B, C, D, slopes: D + C @ (slopes[:, None] * B),
        "The slope multiplies B too, not only A.":
            lambda A, B, C, D, slopes: D + C @ _moved(A, B, slopes),
    },
    hints=[
        "Differentiate x = φ(Ax + Bh): dx = Δ(A dx + B dh), with a slope on each row. Solve for "
        "dx, then dh_t = C dx + D dh."],
    praise="D is the direct way from h to h, the rest the way through the equilibrium.")
