"""The gradient panel: three gradients of one loss, after k steps."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure

from idl_lab import validation
from idl_lab.labs.implicit_gradients.plots import draw_gradients
from idl_lab.labs.implicit_gradients.problems import (
    LISTENERS,
    exact_gradient,
    gradient_problem,
    gradients_after,
    relative_error,
)
from idl_lab.labs.kit.panel import Panel, dropdown, slider

GRID = (1, 2, 4, 8, 16, 40)


def gradient_panel(n: int = 12, kappa: float = 0.7, activation: str = "relu", seed: int = 0
                   ) -> Panel:
    """Turn κ and the number of steps k; watch error, direction and memory of each gradient.

    The solve and the adjoint solve both stop after k steps.

    Parameters
    ----------
    n : int
        Size of the state, at least 2.
    kappa : float
        Where the slider for ‖A‖∞ starts, in [0, 0.95].
    activation : {"relu", "tanh", "sigmoid"}
    seed : int

    Returns
    -------
    Panel
        Controls: kappa, steps, activation, listens.
    """
    validation.integer("n", n, at_least=2)

    @functools.lru_cache(maxsize=8)  # moving k measures nothing anew but k itself
    def curves(kappa: float, activation: str, listens: str) -> tuple:
        problem = gradient_problem(n, kappa, listens, activation,
                                   generator=torch.Generator("cpu").manual_seed(seed))
        exact = exact_gradient(*problem, activation).injection
        seen = gradients_after(GRID, *problem, activation)
        errors = {name: [relative_error(g.injection, exact) for g in row]
                  for name, row in seen.items()}
        return problem, exact, errors, {name: [g.saved for g in row] for name, row in seen.items()}

    def draw(kappa: float, steps: int, activation: str, listens: str, figure: Figure | None
             ) -> Figure:
        problem, exact, errors, saved = curves(kappa, activation, listens)
        here = {name: row[0].injection
                for name, row in gradients_after([steps], *problem, activation).items()}
        return draw_gradients(GRID, errors, exact, here, saved, steps, figure=figure)

    controls = {
        "kappa": slider(kappa, 0.0, 0.95, 0.01, "κ = ‖A‖∞"),
        "steps": slider(8, 1, GRID[-1], 1, "steps k"),
        "activation": dropdown(activation, ("relu", "tanh", "sigmoid"), "φ"),
        "listens": dropdown("all", LISTENERS, "listens to"),
    }
    return Panel(draw, controls)
