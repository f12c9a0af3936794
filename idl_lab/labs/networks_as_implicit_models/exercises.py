"""The exercise of lab 03."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal


def _inputs(draws: torch.Generator) -> tuple[Tensor, ...]:
    """A, B and C of a first model with 4 states and of a last one with 3 and as many inputs."""
    return tuple(normal(*shape, generator=draws)
                 for shape in ((4, 4), (4, 2), (3, 4), (3, 3), (3, 3), (5, 3)))


def _blocks(upper_left: Tensor, upper_right: Tensor, lower_left: Tensor, lower_right: Tensor
            ) -> Tensor:
    return torch.cat([torch.cat([upper_left, upper_right], 1),
                      torch.cat([lower_left, lower_right], 1)])


def _zero(C1: Tensor, A2: Tensor) -> Tensor:
    return A2.new_zeros(C1.shape[1], len(A2))


cascade_matrix = Exercise(
    inputs=_inputs,
    right=lambda A1, B1, C1, A2, B2, C2: _blocks(A2, B2 @ C1, _zero(C1, A2), A1),
    what="the matrix",
    shape="A has a row and a column for each of the 3 + 4 states, so its shape is (7, 7) "
          "(torch.cat stacks blocks)",
    slips={
        "The order is turned round: the last model's states come first, x = (x₂, x₁), as in a "
        "network.":
            lambda A1, B1, C1, A2, B2, C2: _blocks(A1, _zero(C1, A2), B2 @ C1, A2),
        "On the diagonal, each state listens to its own model as before: A₂, then A₁.":
            lambda A1, B1, C1, A2, B2, C2: _blocks(0 * A2, B2 @ C1, _zero(C1, A2), 0 * A1),
        "The lower left block must be zero: the first model does not hear the last.":
            lambda A1, B1, C1, A2, B2, C2: _blocks(A2, B2 @ C1, (B2 @ C1).T, A1),
        "The upper right block is missing: the last model hears ŷ₁ = C₁x₁ + D₁u through its B.":
            lambda A1, B1, C1, A2, B2, C2: torch.block_diag(A2, A1),
        "Upper right: the last model's input is C₁x₁ + D₁u, and B₂ multiplies it.":
            lambda A1, B1, C1, A2, B2, C2: _blocks(A2, C1, _zero(C1, A2), A1),
    },
    hints=[
        "Upper band: whom does x₂ listen to? To itself by A₂, and through B₂ to C₁x₁. Lower "
        "band: x₁ listens to itself alone, by A₁."],
    praise="Block triangular, so λ_PF(|A|) is the larger of the two models' own.")
