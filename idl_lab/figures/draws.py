"""The seeded draws of the gallery."""

from __future__ import annotations

import torch
from torch import Tensor


def generator() -> torch.Generator:
    """A new generator, seeded with 0."""
    return torch.Generator("cpu").manual_seed(0)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
