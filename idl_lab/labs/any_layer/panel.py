"""The stability panel: a block whose weights grow."""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.any_layer.plots import draw_stability
from idl_lab.labs.any_layer.problems import Block, quietly, radii
from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.layer import EquilibriumLayer

STEPS, TOL, GAINS = 60, 1e-5, (0.0, 4.0, 0.05)
_TO = {"rtol": 0.0, "atol": TOL}
NORMS = ("GroupNorm", "none")


def stability_panel(block: Block, u: Tensor, gain: float = 1.0) -> Panel:
    """Multiply a block's kernels by s; watch the iterates converge, oscillate or diverge.

    Parameters
    ----------
    block : Block
        Such as a trained one; it is not changed.
    u : Tensor, shape (1, channels, h, w)
        One image's injection.
    gain : float
        Where the slider for s starts, in [0, 4].

    Returns
    -------
    Panel
        Controls: gain, norm.
    """
    u = validation.tensor("u", u, "m channels h w", m=1).to(block.K1.weight.device)
    low, high, step = GAINS
    grid = np.linspace(low, high, 21)

    def scaled(gain: float, norm: str) -> Block:
        f = copy.deepcopy(block)
        f.norm = f.norm if norm == NORMS[0] else torch.nn.Identity()
        with torch.no_grad():
            f.K1.weight.mul_(gain)
            f.K2.weight.mul_(gain)
        return f

    @functools.lru_cache(maxsize=200)
    def radius(gain: float, norm: str) -> float:
        f = scaled(gain, norm)
        found = quietly(EquilibriumLayer(f, solver=Anderson(max_steps=2 * STEPS, **_TO)), u)
        return float(radii(f, found.value, u)) if found.status.ok else math.nan

    @functools.lru_cache(maxsize=2)
    def curve(norm: str) -> list[float]:
        return [radius(float(s), norm) for s in grid]

    def draw(gain: float, norm: str, figure: Figure | None) -> Figure:
        f = scaled(gain, norm)
        solutions = {name: quietly(EquilibriumLayer(f, solver=solver), u, keep_states=True)
                     for name, solver in {"Picard": Picard(max_steps=STEPS, **_TO),
                                          "Anderson": Anderson(max_steps=STEPS, **_TO)}.items()}
        found = solutions["Anderson"]  # more steps would end there too
        here = float(radii(f, found.value, u)) if found.status.ok else radius(gain, norm)
        return draw_stability(solutions, components, grid, curve(norm), gain, here, TOL, STEPS,
                              figure=figure)

    # Those that the plain block moves most: a dead component shows nothing.
    start = quietly(EquilibriumLayer(block, solver=Picard(max_steps=STEPS, **_TO)), u)
    components = start.value.flatten().topk(4).indices.tolist()
    return Panel(draw, {"gain": slider(gain, low, high, step, "weights × s"),
                        "norm": dropdown(NORMS[0], NORMS, "norm")})
