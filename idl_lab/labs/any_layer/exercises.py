"""The exercise of lab 14."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise


def _inputs(draws: torch.Generator) -> tuple[Tensor, Tensor, int, float]:
    J, g = (torch.rand(*shape, generator=draws, dtype=torch.float64, device="cpu")
            for shape in ((4, 4), (4,)))
    steps = int(torch.randint(3, 7, (), generator=draws, device="cpu"))
    return J / 4, g, steps, 0.3 + 0.1 * steps


def _sum(J: Tensor, g: Tensor, steps: int, beta: float, factor: float) -> Tensor:
    """factor · Σ over i < steps of ((1 − β) I + β Jᵀ)ⁱ g."""
    term = w = g
    for _ in range(steps - 1):
        term = (1 - beta) * term + beta * J.mT @ term
        w = w + term
    return factor * w


def _slip(change: Callable[..., tuple]) -> Callable[..., Tensor]:
    return lambda J, g, steps, beta: _sum(*change(J, g, steps, beta))


phantom = Exercise(
    inputs=_inputs,
    right=_slip(lambda J, g, k, beta: (J, g, k, beta, beta)),
    what="the phantom gradient",
    shape="it is a tensor of shape (4,), as g",
    slips={
        "The transpose is missing: a gradient goes backwards, through Jᵀ.":
            _slip(lambda J, g, k, beta: (J.mT, g, k, beta, beta)),
        "Each step adds β · (what came back to it): the factor β before the sum is missing.":
            _slip(lambda J, g, k, beta: (J, g, k, beta, 1.0)),
        "That is the Neumann series, β = 1: each step is damped, (1 − β) w + β Jᵀ w.":
            _slip(lambda J, g, k, beta: (J, g, k, 1.0, 1.0)),
        "One term too many: k steps give the powers 0 … k − 1.":
            _slip(lambda J, g, k, beta: (J, g, k + 1, beta, beta)),
        "One term is missing: k steps give the powers 0 … k − 1.":
            _slip(lambda J, g, k, beta: (J, g, k - 1, beta, beta)),
        "That is the exact w = (I − Jᵀ)⁻¹ g; the k-step sum is wanted.":
            lambda J, g, k, beta: torch.linalg.solve(
                torch.eye(len(J), dtype=J.dtype, device=J.device) - J.mT, g),
    },
    hints=[
        "Go back through z ← (1 − β) z + β (J z + u) k times: start with a term g and a sum 0; "
        "each step adds β · term to the sum, then term ← (1 − β) term + β Jᵀ term."],
    praise="With k → ∞ it is the exact gradient, whatever β is.")
