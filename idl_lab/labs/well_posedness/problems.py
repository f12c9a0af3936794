"""Several starts of one iteration, and how far apart they end."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solution import Solution
from idl_lab.well_posedness import inf_norm


def several_starts(n: int, count: int, *, generator: torch.Generator, reach: float = 1.0) -> Tensor:
    """``count`` random starts (count, n), float64, uniform on [−reach, reach]."""
    validation.integer("n", n)
    validation.integer("count", count)
    validation.real("reach", reach, at_least=0.0)
    return reach * (2 * torch.rand(count, n, generator=generator, dtype=torch.float64,
                                   device="cpu") - 1)


def spread(solution: Solution) -> float:
    """Largest distance ‖x − x′‖∞ between the ends of a batch of starts; 0 where they agree."""
    ends = solution.value
    return float(inf_norm((ends.amax(dim=0) - ends.amin(dim=0))[:, None]))
