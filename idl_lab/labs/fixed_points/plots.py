"""A state on its way to the equilibrium, methods side by side; the matrices of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array, check_solutions, draw_residuals, round_up

_FAR = 1e3  # where a state that diverges leaves the picture


@styled
def draw_state(state: Tensor, equilibrium: Tensor | None, ax: Axes | None = None, *,
               name: str = "state", colour: str = COLOURS[0]) -> Figure:
    """One state (n,) as dots on stems, the equilibrium (n,) as rings.

    The axis ends at a round number above the equilibrium, so that it stands still while the state
    moves; where there is no equilibrium to compare with (None), above the state.

    Parameters
    ----------
    state, equilibrium : Tensor, shape (n,)
    ax : Axes, optional
        Where to draw; a new figure by default.
    name : str
        Of the state, in the legend.
    colour : str
        Of its dots.

    Raises
    ------
    ValueError
        If the two differ in size.
    """
    x = array("state", state, 1)
    goal = None if equilibrium is None else array("equilibrium", equilibrium, 1)
    if goal is not None and x.size != goal.size:
        raise ValueError(f"state and equilibrium must have the same size, got {x.size} and "
                         f"{goal.size}.")
    ax = canvas.axes(ax, 4.8, 3.0)
    shown = np.clip(np.nan_to_num(x, nan=_FAR), -_FAR, _FAR) if goal is None else goal
    top = 1.2 * round_up(np.abs(shown).max())
    low = -top if shown.min() < -0.05 * top else 0.0
    # A component outside lies on the edge, where it is seen to be large.
    x = np.clip(np.nan_to_num(x, nan=top), low, top)
    i = np.arange(1, len(x) + 1)
    if frame(ax, ylim=(low, top), xlim=(0, len(x) + 1), xlabel="component i"):
        ax.axhline(0, color=FAINT, linewidth=0.8)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    line(ax, "stems", *canvas.stems(i, 0, x), color=colour, linewidth=1)
    line(ax, "dots", i, x, "o", color=colour, markersize=3.5, clip_on=False)
    line(ax, "rings", i, np.full(len(x), np.nan) if goal is None else goal, "o", markersize=7,
         markerfacecolor="none", color=INK, markeredgewidth=0.7)
    title(ax, name)
    return ax.figure


@styled
def draw_convergence(solutions: Mapping[str, Solution], equilibrium: Tensor | None, step: int,
                     tol: float | None = None, *, max_steps: int = 60,
                     figure: Figure | None = None) -> Figure:
    """Methods side by side at one step: residual curves, and each method's state below.

    Parameters
    ----------
    solutions : mapping of str to Solution
        Of one sample, with their states kept; a method that has finished stays where it ended.
    equilibrium : Tensor, shape (n,), optional
        The exact state, drawn as rings; None where there is none.
    step : int
    tol : float, optional
    max_steps : int
        Right end of the residuals' axis.
    figure : Figure, optional
        From an earlier call with as many methods.
    """
    check_solutions(solutions, states=True)
    count = len(solutions)
    axes = canvas.mosaic(figure, [["residuals"] * count, range(count)], 7.4, 4.6, left=0.075,
                         bottom=0.1, top=0.94, hspace=0.45, wspace=0.22, height_ratios=[1.25, 1])
    draw_residuals(solutions, step, tol, ax=axes[0], max_steps=max_steps)
    for ax, colour, (name, solution) in zip(axes[1:], COLOURS, solutions.items(), strict=False):
        states = solution.trace.states.reshape(len(solution.trace.states), -1)
        at = min(step, len(states) - 1)
        draw_state(states[at], equilibrium, ax, name=f"{name}, step {at}", colour=colour)
    words(axes[0], "rings", 0, 1.06, "no equilibrium found" if equilibrium is None else
          "rings: the equilibrium", fontsize=8)
    return axes[0].figure


@styled
def draw_model(models: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]],
               blocks: Sequence[int] = ()) -> Figure:
    """The matrix [A B; C D] of each model as a picture, zeros white.

    Parameters
    ----------
    models : mapping of str to (A, B, C, D)
        Titles and matrices.
    blocks : sequence of int
        Sizes of the layers that the states belong to, drawn as thin lines in A.

    Raises
    ------
    ValueError
        Without a model.
    """
    if not models:
        raise ValueError("models must hold at least one model (A, B, C, D), got none.")
    axes = canvas.row(None, len(models), 3.6 * len(models), 3.7, left=0.06, right=0.98, bottom=0.04,
                      top=0.8, wspace=0.18)
    for ax, (name, matrices) in zip(axes, models.items(), strict=True):
        A, B, C, D = (array(letter, M, 2) for letter, M in zip("ABCD", matrices, strict=True))
        whole = np.block([[A, B], [C, D]])
        n, (rows, columns) = len(A), whole.shape
        # The square root shows small weights beside large ones.
        shade = np.sign(whole) * np.sqrt(np.abs(whole) / max(np.abs(whole).max(), 1e-12))
        ax.imshow(shade, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
        ax.axhline(n - 0.5, color=INK, linewidth=1.4)
        ax.axvline(n - 0.5, color=INK, linewidth=1.4)
        for edge in np.cumsum(blocks)[:-1]:
            ax.plot([edge - 0.5] * 2, [-0.5, n - 0.5], color=INK, linewidth=0.5)
            ax.plot([-0.5, n - 0.5], [edge - 0.5] * 2, color=INK, linewidth=0.5)
        for text, x, y in (("A", n / 2, n / 2), ("B", (n + columns) / 2, n / 2),
                           ("C", n / 2, (n + rows) / 2), ("D", (n + columns) / 2, (n + rows) / 2)):
            ax.text(x - 0.5, y - 0.5, text, ha="center", va="center", fontsize=13, weight="bold",
                    bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5})
        ax.xaxis.tick_top()
        ax.set_xticks([n / 2 - 0.5, (n + columns) / 2 - 0.5], ["state x", "input u"])
        ax.set_yticks([n / 2 - 0.5, (n + rows) / 2 - 0.5], ["x", "ŷ"])
        ax.tick_params(length=0)
        ax.set_title(name, pad=6)
        ax.spines[:].set_visible(True)
    return axes[0].figure
