"""The norm-bound panel: what happens to the equilibrium as ‖A‖∞ passes 1."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import ACTIVATIONS
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.labs.kit.problems import KINDS, random_matrix, solve_quietly
from idl_lab.labs.well_posedness.plots import draw_norm_bound
from idl_lab.labs.well_posedness.problems import several_starts, spread
from idl_lab.well_posedness import Condition, certificate

TOL, STEPS, STARTS = 1e-6, 200, 5


def norm_bound_panel(n: int = 20, kappa: float = 0.9, activation: str = "tanh",
                     kind: str = "positive", seed: int = 0) -> Panel:
    """Drag ‖A‖∞ = κ from 0 past 1; watch spectrum, row sums, residual and the state's paths.

    Parameters
    ----------
    n : int
        Size of the state, where its slider starts.
    kappa : float
        Where the slider for ‖A‖∞ starts, in [0, 1.5].
    activation : str
        Name of a built-in activation.
    kind : {"positive", "signed", "negative"}
        Signs of A's entries, as for `random_matrix`.
    seed : int

    Returns
    -------
    Panel
        Controls: kappa, n, activation, kind.
    """
    validation.integer("n", n, at_least=2)

    def draw(kappa: float, n: int, activation: str, kind: str, figure: Figure | None) -> Figure:
        generator = torch.Generator("cpu").manual_seed(seed)
        A = random_matrix(n, kappa, kind, generator=generator)
        injection = 0.02 * torch.randn(1, n, generator=generator, dtype=A.dtype, device=A.device)
        starts = several_starts(n, STARTS, generator=generator)
        solution = solve_quietly(A, injection.expand(STARTS, n), activation,
                                 Picard(rtol=0.0, atol=TOL, max_steps=STEPS), X0=starts)
        return draw_norm_bound(A, solution, kappa, TOL, verdict(A, solution, activation),
                               max_steps=STEPS, figure=figure)

    controls = {
        "kappa": slider(kappa, 0.0, 1.5, 0.01, "κ = ‖A‖∞"),
        "n": slider(n, 2, max(60, n), 1, "n"),
        "activation": dropdown(activation, tuple(ACTIVATIONS), "φ"),
        "kind": dropdown(kind, KINDS, "entries"),
    }
    return Panel(draw, controls)


def verdict(A: Tensor, solution: Solution, activation: str) -> str:
    """What theory promises and what a batch of starts shows, in one line.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    solution : Solution
        Of several starts.
    activation : str
    """
    promise = {
        Condition.NORM: "Guaranteed: one equilibrium (norm)",
        Condition.PERRON: "Guaranteed: one equilibrium (λ_PF)",
        Condition.MONOTONE: "Guaranteed: one equilibrium (monotone)",
        Condition.NONE: "No guarantee",
    }[certificate(A, activation).condition]
    starts, steps = len(solution.value), solution.stats.steps
    residual = solution.trace.worst
    if not residual[-1] <= 10 * residual[0]:  # NaN too
        seen = "the iteration diverges"
    elif not solution.status.ok:  # a cycle's residual may be a little above the first, no more
        seen = f"still moving after {steps} steps"
    elif spread(solution) < 1e-3:
        seen = f"{starts} starts agree after {steps} steps"
    else:
        seen = f"{starts} starts end in different places: several equilibria"
    return f"{promise}. Seen: {seen}."
