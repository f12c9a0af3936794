"""Pictures of chains: accuracy against length, a label that fades, and one on its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array, check_solutions

_LEAST = 1e-16  # below this a label is not drawn


@styled
def draw_lengths(table: pd.DataFrame, chance: float, ax: Axes | None = None) -> Figure:
    """Accuracy at the last node against the chain's length: a line a model, a dot a run.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a run, with the columns model, length and accuracy.
    chance : float
        The accuracy of guessing, a dashed line.
    ax : Axes, optional

    Raises
    ------
    TypeError, ValueError
        If it is no such table, or has no row.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a pandas.DataFrame with a row a run, got "
                        f"{type(table).__name__}.")
    for name in ("model", "length", "accuracy"):
        validation.choice("column", name, table.columns)
    if len(table) == 0:
        raise ValueError("table must have at least one row, got none.")
    ax = canvas.axes(ax, 7.4, 3.2)
    lengths = sorted(set(table["length"]))
    models = list(dict.fromkeys(table["model"]))
    for k, model in enumerate(models):
        rows = table[table["model"] == model]
        shift = 0.05 * (k - (len(models) - 1) / 2)  # so that no model hides another
        at = rows["length"].map(lengths.index) + shift
        means = rows["accuracy"].groupby(at).mean()
        colour = COLOURS[k % len(COLOURS)]
        ax.plot(at, rows["accuracy"], "o", color=colour, markersize=3, alpha=0.5)
        ax.plot(means, "-", color=colour, marker="o", markersize=5, label=model)
    ax.axhline(chance, color=INK, linestyle="--", linewidth=0.8, label="guessing")
    ax.set(xlabel="nodes of the chain", ylabel="accuracy at the last node", ylim=(0, 1.05),
           xlim=(-0.3, len(lengths) - 0.7))
    ax.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    ax.set_position((0.085, 0.15, 0.62, 0.8))
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return ax.figure


@styled
def draw_fading(states: Mapping[str, Tensor], rates: Mapping[str, float], ax: Axes | None = None
                ) -> Figure:
    """The equilibrium along a chain on a logarithmic axis, and the line rⁱ of each rate.

    Parameters
    ----------
    states : mapping of str to Tensor, shape (length,)
        Positive, by name.
    rates : mapping of str to float
        r of the same names.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the names differ, or there is none.
    """
    if not states or set(states) != set(rates):
        raise ValueError(f"states and rates must have the same names, at least one, got "
                         f"{list(states)} and {list(rates)}.")
    ax = canvas.axes(ax, 5.6, 3.2)
    for colour, (name, state) in zip(COLOURS, states.items(), strict=False):
        x = array(name, state, 1)
        at = np.arange(len(x))
        ax.plot(at + 1, x, color=colour, label=f"{name}: r = {rates[name]:.3f}")
        ax.plot(at + 1, x[0] * rates[name] ** at, ":", color=INK, linewidth=1)
    frame(ax, yscale="log", ylim=(_LEAST, 100), xlabel="node", ylabel="state x",
          title="What arrives of a label (dotted: the line of slope r)")
    ax.legend(loc="lower left")
    return ax.figure


@styled
def draw_reach(accuracies: Mapping[str, Tensor], steps: Sequence[int], chance: float,
               ax: Axes | None = None) -> Figure:
    """Accuracy along a chain, a line a model, with a bar where the solver's steps end.

    A solve of s steps returns the point after s − 1 of them: the last one only tests it.

    Parameters
    ----------
    accuracies : mapping of str to Tensor, shape (length,)
        Of each node, by model.
    steps : sequence of int
        Of each model's solve.
    chance : float
        A dashed line.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If there is not a number of steps for each model.
    """
    if not accuracies or len(accuracies) != len(steps):
        raise ValueError(f"accuracies and steps must be as many, at least one, got "
                         f"{len(accuracies)} and {len(steps)}.")
    ax = canvas.axes(ax, 7.4, 3.0)
    top = 0
    for colour, (name, share), count in zip(COLOURS, accuracies.items(), steps, strict=False):
        right = array(name, share, 1)
        top = max(top, len(right))
        ax.plot(np.arange(1, len(right) + 1), right, color=colour, label=f"{name}: {count} steps",
                drawstyle="steps-mid")
        if count <= len(right):
            ax.plot([count - 0.5] * 2, [0, 0.08], color=colour, linewidth=3)
    ax.axhline(chance, color=INK, linestyle="--", linewidth=0.8, label="guessing")
    ax.set(xlabel="node (bars at the bottom: where the steps end)", ylabel="accuracy",
           ylim=(0, 1.05), xlim=(0.5, top + 0.5))
    ax.set_position((0.085, 0.17, 0.6, 0.78))
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return ax.figure


@styled
def draw_travel(solution: Solution, exact: Tensor, step: int, rtol: float, *,
                   max_steps: int = 200, figure: Figure | None = None) -> Figure:
    """A label on its way along a chain at one step, and the residual that will stop the solve.

    Parameters
    ----------
    solution : Solution
        Of one sample, a state a node, with its states kept.
    exact : Tensor, shape (length,)
        The equilibrium.
    step : int
        A later one than the last shows the last.
    rtol : float
        At which the solve stops.
    max_steps : int
        Right end of the residuals' axis.
    figure : Figure, optional
        From an earlier call.
    """
    check_solutions({"solution": solution}, states=True)
    goal = array("exact", exact, 1)
    validation.integer("step", step, at_least=0)
    last, length = solution.stats.steps - 1, len(goal)  # the last evaluation only tests
    at = min(step, last)
    states = array("states", solution.trace.states.reshape(-1, length), 2)
    x = states[at]
    axes = canvas.row(figure, 2, 8.2, 3.3, [1.25, 1], left=0.08, bottom=0.15, top=0.88, right=0.985,
                      wspace=0.22)
    nodes = np.arange(1, length + 1)
    frame(axes[0], yscale="log", ylim=(_LEAST, 20), xlim=(0, length + 1), xlabel="node",
          ylabel="state")
    line(axes[0], "exact", nodes, goal, color=FAINT, linewidth=4, label="equilibrium")
    heard = np.where(x > 0, x, np.nan)
    line(axes[0], "state", nodes, heard, "o-", color=COLOURS[0], markersize=3.5, label="state")
    axes[0].get_legend() or axes[0].legend(loc="lower left")
    title(axes[0], f"step {at}: " + (f"the first {min(at, length)} of {length} nodes have heard"
                                     if at else f"none of {length} nodes has heard"))

    residual, size = array("residuals", solution.trace.worst, 1), np.abs(states).max(axis=1)
    residual = residual / np.maximum(size[:len(residual)], 1e-300)  # the start is zero
    count = np.arange(1, len(residual) + 1)
    frame(axes[1], yscale="log", ylim=(1e-9, 20), xlim=(0, max_steps), xlabel="step",
          ylabel="residual / largest state")
    shown = np.where(residual > 0, np.minimum(residual, 10), np.nan)
    line(axes[1], "rest", count, shown, color=COLOURS[1], alpha=0.35)
    line(axes[1], "so far", count[:at], shown[:at], color=COLOURS[1])
    line(axes[1], "rtol", [0, max_steps], [rtol, rtol], "--", color=INK, linewidth=0.8)
    line(axes[1], "arrival", [length, length], [1e-9, 20], ":", color=COLOURS[2])
    words(axes[1], "key", 0.985, 0.9, "dashed: rtol; dotted: the label arrives", ha="right",
          fontsize=8)
    title(axes[1], f"stops at step {last}: " + (
        "before it arrives" if last < length else "the last node has heard"))
    return axes[0].figure
