"""The transport panel: a label travels along a chain, one node a step."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure

from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.graphs.plots import draw_travel
from idl_lab.labs.graphs.problems import arrived, transport
from idl_lab.labs.kit.panel import Panel, player, slider

STEPS, LONGEST = 200, 60


def transport_panel(kappa: float = 0.9, length: int = 30, digits: float = -3.0) -> Panel:
    """Set κ, the chain and the tolerance; watch the label travel, and the solve stop.

    Parameters
    ----------
    kappa : float
        Where its slider starts, in [0.1, 0.99].
    length : int
        Nodes of the chain, in [5, 60].
    digits : float
        log₁₀ of the solver's rtol, in [−8, −1].

    Returns
    -------
    Panel
        Controls: step, kappa, length, digits.
    """
    @functools.lru_cache(maxsize=8)  # scrubbing solves nothing anew
    def solve(kappa: float, length: int, digits: float) -> tuple[Solution, torch.Tensor]:
        return transport(kappa, length, 10.0 ** digits), arrived(kappa, length)

    def draw(step: int, kappa: float, length: int, digits: float, figure: Figure | None) -> Figure:
        solution, exact = solve(kappa, length, digits)
        return draw_travel(solution, exact, step, 10.0 ** digits, max_steps=STEPS,
                              figure=figure)

    controls = {
        "step": slider(8, 0, STEPS, 1, "step"),
        "kappa": slider(kappa, 0.1, 0.99, 0.01, "κ"),
        "length": slider(length, 5, LONGEST, 1, "nodes"),
        "digits": slider(digits, -8.0, -1.0, 0.5, "log₁₀ rtol"),
    }
    return Panel(draw, controls, play=("step", player(STEPS)))
