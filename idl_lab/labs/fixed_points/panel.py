"""The convergence panel: methods side by side, one step at a time."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure

from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.fixed_points.plots import draw_convergence
from idl_lab.labs.kit.panel import Panel, dropdown, player, slider
from idl_lab.labs.kit.problems import random_matrix, solve_quietly

TOL, STEPS = 1e-6, 150


def convergence_panel(n: int = 12, kappa: float = 0.9, activation: str = "relu", seed: int = 0
                      ) -> Panel:
    """Play, pause or scrub the iteration; watch state and residual move, methods side by side.

    Parameters
    ----------
    n : int
        Size of the state.
    kappa : float
        Where the slider for ‖A‖∞ starts.
    activation : {"relu", "tanh", "sigmoid"}
    seed : int

    Returns
    -------
    Panel
        Controls: step, kappa, damping, activation.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    unit = random_matrix(n, 1.0, "positive", generator=generator)
    # Positive, so that ReLU switches nothing off and κ itself is the rate.
    injection = torch.randn(1, n, generator=generator, dtype=unit.dtype, device=unit.device).abs()

    @functools.lru_cache(maxsize=4)  # scrubbing solves nothing anew
    def solve(kappa: float, damping: float, activation: str) -> tuple[dict, torch.Tensor]:
        A = kappa * unit
        solvers = {"Picard": Picard(TOL), f"damped {damping:.2g}": Picard(TOL, damping=damping),
                   "Anderson": Anderson(TOL)}
        exact = equilibrium(A, injection, activation, solver=Anderson(tol=1e-12)).value[0]
        return {name: solve_quietly(A, injection, activation, solver)
                for name, solver in solvers.items()}, exact

    def draw(step: int, kappa: float, damping: float, activation: str, figure: Figure | None
             ) -> Figure:
        solutions, exact = solve(kappa, damping, activation)
        return draw_convergence(solutions, exact, step, TOL, max_steps=STEPS, figure=figure)

    controls = {
        "step": slider(8, 0, STEPS, 1, "step"),
        "kappa": slider(kappa, 0.0, 0.99, 0.01, "κ = ‖A‖∞"),
        "damping": slider(0.5, 0.1, 1.0, 0.05, "damping β"),
        "activation": dropdown(activation, ("relu", "tanh", "sigmoid"), "φ"),
    }
    return Panel(draw, controls, play=("step", player(STEPS)))
