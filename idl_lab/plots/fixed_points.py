"""How a fixed-point solve goes: residuals, states, spectrum, row sums, paths."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from idl_lab import canvas, validation
from idl_lab.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.plots.numbers import array, check_solutions
from idl_lab.solution import Solution
from idl_lab.well_posedness import inf_norm, perron_frobenius


@styled
def draw_residuals(solutions: Mapping[str, Solution], step: int | None = None,
                   tol: float | None = None, ax: Axes | None = None, *,
                   max_steps: int | None = None) -> Figure:
    """Residual ‖f(x) − x‖∞ against the step, a curve a method, on a log scale.

    Parameters
    ----------
    solutions : mapping of str to Solution
        The worst sample of each is drawn.
    step : int, optional
        Where the dots are; the end by default.
    tol : float, optional
        Drawn as a dashed line.
    ax : Axes, optional
    max_steps : int, optional
        Right end of the axis; the longest curve by default.
    """
    check_solutions(solutions)
    tol is None or validation.real("tol", tol, above=0.0)
    step is None or validation.integer("step", step, at_least=0)
    ax = canvas.axes(ax)
    curves = {name: array("residuals", s.trace.worst, 1) for name, s in solutions.items()}
    reach = max_steps or max(*(s.stats.steps for s in solutions.values()), 2)
    top = max(np.max(c, where=np.isfinite(c), initial=1) for c in curves.values())
    high = 4 if tol else 1 + int(np.log10(top))
    low = int(np.floor(np.log10(tol))) - 2 if tol else -17
    first = frame(ax, xlim=(0, reach + 0.5), xlabel="step",
                  yscale="log", ylim=(10.0 ** low, 10.0 ** min(high, 30)),
                  title="Residual ‖f(x) − x‖∞")
    if first:
        # Plain numbers: matplotlib's powers of ten are typeset anew at every draw.
        ax.yaxis.set_major_locator(FixedLocator(10.0 ** np.arange(low, high + 1, 2)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0e}"))
        ax.yaxis.set_minor_locator(NullLocator())
        if tol:
            ax.axhline(tol, color=INK, linestyle="--", linewidth=0.8)
            ax.text(0.01 * reach, tol, "tol", va="bottom", fontsize=8)
    for k, (name, residual) in enumerate(curves.items()):
        colour, solution = COLOURS[k % len(COLOURS)], solutions[name]
        seen = np.where((residual > 0) & np.isfinite(residual), residual, np.nan)
        tested = solution.trace.steps  # a lean solve has no residual for the other steps
        steps = np.arange(1, len(seen) + 1) if tested is None else np.array(tested)
        at = len(seen) if step is None else int((steps <= step).sum())
        line(ax, f"rest {k}", steps, seen, color=colour, alpha=0.3)
        line(ax, f"curve {k}", steps[:at], seen[:at], color=colour)
        line(ax, f"dot {k}", steps[at - 1:at] if at else [], seen[at - 1:at] if at else [], "o",
             color=colour, markersize=5)
        how = "" if solution.status.ok else ", " + solution.status.name.lower().replace("_", " ")
        words(ax, f"name {k}", 0.98, 0.97 - 0.075 * k,
              f"{name}: {solution.stats.steps} steps{how}", ha="right", va="top", fontsize=8,
              color=colour)
    return ax.figure


@styled
def draw_state(state: Tensor, equilibrium: Tensor, ax: Axes | None = None, *,
               name: str = "state", colour: str = COLOURS[0]) -> Figure:
    """One state (n,) as dots on stems, the equilibrium (n,) as rings.

    Heights are relative to the equilibrium's largest component, so that the frame stands still.
    """
    x, goal = array("state", state, 1), array("equilibrium", equilibrium, 1)
    if x.size != goal.size:
        raise ValueError(f"state and equilibrium must have the same size, got {x.size} and "
                         f"{goal.size}.")
    ax = canvas.axes(ax, 4.8, 3.0)
    size = max(np.abs(goal).max(), 1e-12)
    low = -1.3 if goal.min() < -0.05 * size else -0.3
    x = np.clip(np.nan_to_num(x / size, nan=9.0), low, 1.3)
    i = np.arange(1, len(goal) + 1)
    if frame(ax, ylim=(low, 1.3), xlim=(0, len(goal) + 1), xlabel="component i", yticks=[]):
        ax.axhline(0, color=FAINT, linewidth=0.8)
    line(ax, "stems", *canvas.stems(i, 0, x), color=colour, linewidth=1)
    line(ax, "dots", i, x, "o", color=colour, markersize=3.5)
    line(ax, "rings", i, goal / size, "o", markersize=7, markerfacecolor="none", color=INK,
         markeredgewidth=0.7)
    title(ax, name)
    return ax.figure


@styled
def draw_convergence(solutions: Mapping[str, Solution], equilibrium: Tensor, step: int,
                     tol: float | None = None, *, max_steps: int = 60,
                     figure: Figure | None = None) -> Figure:
    """Methods side by side at one step: residual curves, and each method's state.

    Parameters
    ----------
    solutions : mapping of str to Solution
        Of one sample, with their states kept; a method that has finished stays where it ended.
    equilibrium : Tensor, shape (n,)
        The exact state, drawn as rings.
    step : int
    tol : float, optional
    max_steps : int
        Right end of the residuals' axis.
    figure : Figure, optional
        From an earlier call with as many methods.
    """
    check_solutions(solutions, states=True)
    axes = canvas.row(figure, 1 + len(solutions), 3.6 + 2.1 * len(solutions), 3.0,
                      [1.9] + [1.0] * len(solutions), left=0.07, wspace=0.12)
    draw_residuals(solutions, step, tol, ax=axes[0], max_steps=max_steps)
    for ax, colour, (name, solution) in zip(axes[1:], COLOURS, solutions.items(), strict=False):
        states = solution.trace.states.reshape(-1, equilibrium.numel())
        at = min(step, len(states) - 1)
        draw_state(states[at], equilibrium, ax, name=f"{name}, step {at}", colour=colour)
    return axes[0].figure


@styled
def draw_spectrum(A: Tensor, ax: Axes | None = None) -> Figure:
    """Eigenvalues of A (n, n), with λ_PF(|A|) and ‖A‖∞ as circles that hold them all."""
    values = np.linalg.eigvals(array("A", validation.square("A", A), 2))
    ax = canvas.axes(ax, 3.4, 3.4)
    pf, norm = perron_frobenius(A).value, float(inf_norm(A.detach()))
    reach = 1.7 if norm <= 1.6 else 1.15 * norm
    angle = np.linspace(0, 2 * np.pi, 121)
    circle = np.cos(angle), np.sin(angle)
    if frame(ax, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="real part",
             title="Eigenvalues of A"):
        ax.plot(*circle, color=INK, linewidth=0.9)
    line(ax, "norm", norm * circle[0], norm * circle[1], "--", color=COLOURS[1], linewidth=1)
    line(ax, "pf", pf * circle[0], pf * circle[1], color=COLOURS[2], linewidth=1)
    line(ax, "values", values.real, values.imag, ".", color=COLOURS[0])
    words(ax, "norm name", 0.01, 0.02, f"‖A‖∞ {norm:.2f}", color=COLOURS[1], fontsize=8)
    words(ax, "pf name", 0.99, 0.02, f"λ_PF {pf:.2f}", color=COLOURS[2], fontsize=8, ha="right")
    return ax.figure


@styled
def draw_row_sums(A: Tensor, kappa: float | None = None, ax: Axes | None = None) -> Figure:
    """Absolute row sums of A (n, n); the largest is ‖A‖∞, κ a dashed line."""
    sums = np.abs(array("A", validation.tensor("A", A, "n p"), 2)).sum(axis=1)
    ax = canvas.axes(ax, 3.4, 3.4)
    top = 1.7 if sums.max() <= 1.6 else 1.15 * float(sums.max())
    if frame(ax, ylim=(0, top), xlim=(0, 1), xticks=[], xlabel="rows", title="Row sums of |A|"):
        ax.axhline(1, color=INK, linewidth=0.9)
    at, width = (np.arange(len(sums)) + 0.5) / len(sums), 110 / len(sums)
    for name, colour, here in (("in", COLOURS[0], sums < 1), ("out", COLOURS[1], sums >= 1)):
        line(ax, name, *canvas.stems(at[here], 0, sums[here]), color=colour, linewidth=width,
             solid_capstyle="butt")
    if kappa is not None:
        line(ax, "kappa", [0, 1], [kappa, kappa], "--", color=INK, linewidth=0.9)
        words(ax, "kappa name", 0.99, 0.98, f"κ = {kappa:.2f}", fontsize=8, ha="right", va="top")
    return ax.figure


@styled
def draw_paths(states: Tensor, ax: Axes | None = None) -> Figure:
    """The first two components of the state (steps + 1, starts, n), a path a start.

    Starts are rings, ends dots; where all dots fall together, one equilibrium was found.
    """
    points = array("states", states, 3)[:, :, :2]
    ax = canvas.axes(ax, 3.4, 3.4)
    if points.shape[2] == 1:
        points = np.concatenate([points, np.zeros_like(points)], axis=2)
    start = max(np.abs(points[0]).max(where=np.isfinite(points[0]), initial=0), 0.5)
    ends = np.nan_to_num(np.abs(points[-1]), nan=np.inf)
    # Far ends are let go: a diverging path leaves the picture.
    reach = 2.0 ** np.ceil(np.log2(1.1 * max(start, ends[ends < 64 * start].max(initial=0))))
    points = np.clip(np.nan_to_num(points / reach, nan=9.0), -9, 9)
    if frame(ax, xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], xlabel="x₁", ylabel="x₂"):
        ax.axhline(0, color=FAINT, linewidth=0.6)
        ax.axvline(0, color=FAINT, linewidth=0.6)
    for k in range(points.shape[1]):
        colour, path = COLOURS[k % len(COLOURS)], points[:, k]
        line(ax, f"path {k}", *path.T, color=colour, linewidth=1, alpha=0.7)
        line(ax, f"start {k}", *path[:1].T, "o", color=colour, markerfacecolor="none")
        line(ax, f"end {k}", *path[-1:].T, "o", color=colour, markersize=6)
    title(ax, f"Paths of x₁, x₂ (±{reach:g})")
    return ax.figure


@styled
def draw_norm_bound(A: Tensor, solution: Solution, kappa: float, tol: float | None = None,
                    verdict: str = "", *, max_steps: int | None = None,
                    figure: Figure | None = None) -> Figure:
    """Spectrum, row sums, residual and paths of one A, solved from several starts.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    solution : Solution
        From a batch of starts with their states kept: ``trace.states`` (steps + 1, starts, n).
    kappa : float
        The bound that A was scaled to.
    tol : float, optional
    verdict : str
        One line above the pictures.
    max_steps : int, optional
        Right end of the residual's axis.
    figure : Figure, optional
        From an earlier call with as many starts.
    """
    check_solutions({"solution": solution}, states=True)
    axes = canvas.row(figure, 4, 10.4, 3.2, [1, 1, 1.25, 1], left=0.045, bottom=0.15, top=0.77,
                      wspace=0.3)
    draw_spectrum(A, axes[0])
    draw_row_sums(A, kappa, axes[1])
    draw_residuals({"Picard": solution}, tol=tol, ax=axes[2], max_steps=max_steps)
    draw_paths(solution.trace.states, axes[3])
    words(axes[0], "verdict", -0.17, 1.27, verdict, fontsize=10, weight="bold")
    return axes[0].figure
