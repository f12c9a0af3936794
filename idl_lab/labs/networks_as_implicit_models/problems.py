"""Small explicit networks to be read off."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.networks import redraw

NETWORKS = ("dense", "conv", "residual")


class _Residual(nn.Module):
    """h ↦ h + φ(Wh + b): what is added is a state, h itself is a sum of states."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width, device="cpu"), nn.ReLU())

    def forward(self, h: Tensor) -> Tensor:
        return h + self.inner(h)


def small_network(kind: str, layers: int, *, generator: torch.Generator) -> nn.Module:
    """A ReLU network of images (1, 8, 8) and ten classes, drawn at random.

    Parameters
    ----------
    kind : {"dense", "conv", "residual"}
        Hidden layers of 24 units; of two channels of 4 × 4 pixels; of 24 units, each added to
        what came before it.
    layers : int
        Hidden layers.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    torch.nn.Module
        Weights and biases are U(−1/√fan_in, 1/√fan_in), as torch draws them.
    """
    validation.choice("kind", kind, NETWORKS)
    validation.integer("layers", layers)
    cpu = {"device": "cpu"}
    if kind == "conv":
        parts = [nn.Conv2d(1, 2, 3, stride=2, padding=1, **cpu), nn.ReLU()]
        for _ in range(layers - 1):
            parts += [nn.Conv2d(2, 2, 3, padding=1, **cpu), nn.ReLU()]
        parts += [nn.Flatten(), nn.Linear(32, 10, **cpu)]
    else:
        parts = [nn.Flatten(), nn.Linear(64, 24, **cpu), nn.ReLU()]
        for _ in range(layers - 1):
            parts += ([_Residual(24)] if kind == "residual"
                      else [nn.Linear(24, 24, **cpu), nn.ReLU()])
        parts.append(nn.Linear(24, 10, **cpu))
    return redraw(nn.Sequential(*parts), generator)
