"""The exercise of lab 15."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise


def _inputs(draws: torch.Generator) -> tuple[Tensor]:
    """A κ between 0.3 and 0.98."""
    return (0.3 + 0.68 * torch.rand((), generator=draws, dtype=torch.float64, device="cpu"),)


def _root(s: Tensor) -> Tensor:
    """The root below 1 of r + 1/r = s."""
    return s / 2 - ((s / 2) ** 2 - 1).sqrt()


decay = Exercise(
    inputs=_inputs,
    right=lambda kappa: _root(3 / kappa - 1),
    what="the factor r",
    slips={
        "That root is above 1: it grows along the chain. The other one fades.":
            lambda kappa: 1 / _root(3 / kappa - 1),
        "κ bounds what a step may do to the whole state; a hop loses more, since a node passes on "
        "to both sides.":
            lambda kappa: kappa * 1.0,
        "κ/3 is what a node gets of its neighbour in one step. At the equilibrium it also hears "
        "itself and the node behind it.":
            lambda kappa: kappa / 3,
        "You left out the node itself: Â has a loop at every node, and three entries of 1/3 a row.":
            lambda kappa: _root(2 / kappa),
        "Take the loop to the other side: rⁱ(1 − κ/3) = κ(rⁱ⁻¹ + rⁱ⁺¹)/3, so r + 1/r = 3/κ − 1.":
            lambda kappa: _root(3 / kappa),
    },
    hints=[
        "Put x_i = rⁱ into x_i = κ(x_{i−1} + x_i + x_{i+1})/3, divide by rⁱ, and solve the "
        "quadratic for the root below 1."],
    praise="A label fades by this factor a hop, whatever its class.")
