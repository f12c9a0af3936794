"""The exercise of lab 01."""

from __future__ import annotations

import torch

from idl_lab.labs.kit.exercise import Exercise


def _slope(draws: torch.Generator) -> tuple[float]:
    return (-4 * float(torch.rand((), generator=draws, dtype=torch.float64, device="cpu")),)


fastest_damping = Exercise(
    inputs=_slope,
    right=lambda slope: 1 / (1 - slope),
    what="β, computed from the slope",
    shape="β is one number in (0, 1]",
    slips={
        "That is right for the slope −1.5 alone: compute β from the slope that is given.":
            lambda slope: 0.4,
        "That is the β at which the iteration begins to fail: the factor 1 − β + β·slope is −1. "
        "The fastest is where the factor is as small as it can be.":
            lambda slope: 2 / (1 - slope),
        "The sign of the slope: 1 − β + β·slope = 1 − β(1 − slope), and the slope is negative.":
            lambda slope: 1 / (1 + slope),
        "That would be right if a step were β·f(x); the old point stays with the weight 1 − β.":
            lambda slope: -1 / slope,
    },
    hints=[
        "One step multiplies the error by 1 − β + β·slope. Which β makes that vanish?"],
    praise="The factor 1 − β + β·slope vanishes: as long as ReLU switches nothing off, one step "
           "is enough.")
