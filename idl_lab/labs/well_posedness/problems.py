"""Several starts of one iteration, and how far apart they end."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solution import Solution
from idl_lab.well_posedness import inf_norm


def several_starts(n: int, count: int, *, generator: torch.Generator, reach: float = 1.0) -> Tensor:
    """Starts (count, n), float64, uniform on [−reach, reach] but for the signs of the first two.

    The first is positive and the second its mirror image, so that an iteration with positive
    entries which has an equilibrium on either side of zero is seen to have both.

    Parameters
    ----------
    n, count : int
        Components of a start, and how many starts.
    generator : torch.Generator
    reach : float
    """
    validation.integer("n", n)
    validation.integer("count", count)
    validation.real("reach", reach, at_least=0.0)
    starts = reach * (2 * torch.rand(count, n, generator=generator, dtype=torch.float64,
                                     device="cpu") - 1)
    starts[0].abs_()
    starts[1:2] = -starts[0]
    return starts


def spread(solution: Solution) -> float:
    """Largest distance ‖x − x′‖∞ between the ends of a batch of starts; 0 where they agree.

    Parameters
    ----------
    solution : Solution
        Of several starts.
    """
    ends = solution.value
    return float(inf_norm((ends.amax(dim=0) - ends.amin(dim=0))[:, None]))
