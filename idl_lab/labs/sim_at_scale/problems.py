"""A teacher that needs its layers, and the inputs on which it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.labs.kit.problems import normal


def random_teacher(sizes: Sequence[int] = (20, 40, 30, 20, 5), seed: int = 0) -> nn.Sequential:
    """Linear layers without biases, with weights N(0, 2/p), and ReLU between them; on the CPU.

    Parameters
    ----------
    sizes : sequence of int
        Of the inputs, the hidden layers and the outputs.
    seed : int

    Raises
    ------
    ValueError
        Without a hidden layer.
    """
    if len(sizes) < 3:
        raise ValueError(f"sizes must name inputs, at least one hidden layer, and outputs, got "
                         f"{sizes!r}.")
    draws = torch.Generator("cpu").manual_seed(validation.integer("seed", seed, at_least=0))
    parts: list[nn.Module] = []
    for p, q in zip(sizes, sizes[1:], strict=False):
        layer = nn.Linear(p, q, bias=False, device="cpu")
        layer.weight.data = (2 / p) ** 0.5 * normal(q, p, generator=draws).float()
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def gaussian(samples: int, p: int, seed: int) -> Tensor:
    """Inputs N(0, I), float32 on the CPU.

    Parameters
    ----------
    samples, p : int
        Of how many features.
    seed : int
    """
    validation.integer("samples", samples)
    validation.integer("p", p)
    draws = torch.Generator("cpu").manual_seed(validation.integer("seed", seed, at_least=0))
    return normal(samples, p, generator=draws).float()
