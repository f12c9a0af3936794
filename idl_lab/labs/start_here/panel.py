"""The digit panel: a trained implicit model at work, one image and one step at a time."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit.panel import Panel, player, slider
from idl_lab.labs.start_here.plots import draw_digit
from idl_lab.model import ImplicitModel


def digit_panel(model: ImplicitModel, U: Tensor, labels: Tensor, steps: int = 12) -> Panel:
    """Choose an image and play the fixed-point iteration on it.

    Parameters
    ----------
    model : ImplicitModel
        With p = 64 inputs.
    U : Tensor, shape (m, 64)
        Images of 8 × 8 pixels in [0, 1].
    labels : Tensor, shape (m,)
    steps : int
        Right end of the step slider.

    Returns
    -------
    Panel
        Controls: image, step.

    Raises
    ------
    ValueError
        If there is no image, or not a label for each.
    """
    validation.tensor("U", U, "m p", p=64)
    if not 0 < len(U) == len(labels):
        raise ValueError(f"U and labels must hold as many images, at least one, got {len(U)} and "
                         f"{len(labels)}.")
    U = U.to(model.C.device)

    @torch.no_grad()
    def draw(image: int, step: int, figure: Figure | None) -> Figure:
        u = U[image:image + 1]
        states = model.equilibrium(u, keep_states=True).trace.states[:steps + 1, 0]
        # A solve that took fewer steps stays where it ended.
        states = torch.cat([states, states[-1:].expand(steps + 1 - len(states), -1)])
        outputs = model.output(states, u.expand(len(states), -1))
        return draw_digit(u.reshape(8, 8), states, outputs, step, int(labels[image]),
                          figure=figure)

    controls = {"image": slider(0, 0, len(U) - 1, 1, "image"),
                "step": slider(steps, 0, steps, 1, "step")}
    return Panel(draw, controls, play=("step", player(steps)))
