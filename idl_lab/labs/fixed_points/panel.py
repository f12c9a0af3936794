"""The convergence panel: methods side by side, one step at a time."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure

from idl_lab.fixed_point import Anderson, Newton, Picard
from idl_lab.labs.fixed_points.plots import draw_convergence
from idl_lab.labs.fixed_points.problems import even_injection
from idl_lab.labs.kit.panel import Panel, dropdown, player, slider
from idl_lab.labs.kit.problems import KINDS, random_matrix, solve_quietly

TOL, STEPS, MAX_STEPS = 1e-6, 150, 600  # at κ = 0.95 half steps need 548


def convergence_panel(n: int = 12, kappa: float = 0.9, kind: str = "positive",
                      activation: str = "relu", seed: int = 0) -> Panel:
    """Play, pause or scrub the iteration; watch state and residual move, methods side by side.

    Parameters
    ----------
    n : int
        Size of the state.
    kappa : float
        Where the slider for ‖A‖∞ starts, in [0, 1.5].
    kind : {"positive", "signed", "negative"}
        Signs of A's entries, as for `random_matrix`.
    activation : {"relu", "tanh", "sigmoid"}
    seed : int

    Returns
    -------
    Panel
        Controls: step, kappa, damping, kind, activation.
    """
    @functools.lru_cache(maxsize=32)  # scrubbing solves nothing anew, nor does going back
    def solve(kappa: float, damping: float, kind: str, activation: str
              ) -> tuple[dict, torch.Tensor | None]:
        generator = torch.Generator("cpu").manual_seed(seed)
        A = random_matrix(n, kappa, kind, generator=generator)
        b = even_injection(n, generator=generator)
        stop = {"rtol": 0.0, "atol": TOL}  # absolute, as the dashed line
        # Steps of Anderson and Newton are dear, and those that get there take 20 at most: past
        # κ = 1, where there is nothing to be found, the slider would wait half a second for them.
        solvers = {"Picard": Picard(max_steps=MAX_STEPS, **stop),
                   f"damped {damping:.2g}": Picard(damping=damping, max_steps=MAX_STEPS, **stop),
                   "Anderson": Anderson(max_steps=STEPS, **stop)}
        exact = solve_quietly(A, b, activation, Newton(rtol=1e-12, max_steps=20))
        return {name: solve_quietly(A, b, activation, solver)
                for name, solver in solvers.items()}, exact.value[0] if exact.status.ok else None

    def draw(step: int, kappa: float, damping: float, kind: str, activation: str,
             figure: Figure | None) -> Figure:
        solutions, exact = solve(kappa, damping, kind, activation)
        return draw_convergence(solutions, exact, step, TOL, max_steps=STEPS, figure=figure)

    controls = {
        "step": slider(8, 0, STEPS, 1, "step"),
        "kappa": slider(kappa, 0.0, 1.5, 0.01, "κ = ‖A‖∞"),
        "damping": slider(0.5, 0.05, 1.0, 0.05, "damping β"),
        "kind": dropdown(kind, KINDS, "entries"),
        "activation": dropdown(activation, ("relu", "tanh", "sigmoid"), "φ"),
    }
    return Panel(draw, controls, play=("step", player(STEPS)))
