"""An injection that keeps every state of a ReLU at work."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab import validation


def even_injection(n: int, *, generator: torch.Generator) -> Tensor:
    """A random injection b (1, n), float64, uniform on [0.75, 1.25].

    So nearly even that ReLU switches no state off where the entries of A have one sign and
    ‖A‖∞ ≤ 1.5: the iteration is a linear one near its end, and κ itself is its rate.

    Parameters
    ----------
    n : int
    generator : torch.Generator
    """
    validation.integer("n", n)
    return 0.75 + 0.5 * torch.rand(1, n, generator=generator, dtype=torch.float64, device="cpu")
