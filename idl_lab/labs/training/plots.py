"""What training depends on: a knob and what it costs, and how exact a solve has to be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array


@styled
def draw_sweep(table: pd.DataFrame, knob: str, columns: Mapping[str, str],
               errors: Mapping[str, str] | None = None) -> Figure:
    """Measured columns against a knob: the mean over repeated runs, every run a dot.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a run.
    knob : str
        Its column of the knob's values, numbers or words; drawn evenly spaced, in the order in
        which they come.
    columns : mapping of str to str
        Which columns to draw, and the title of each. Every axis includes zero.
    errors : mapping of str to str, optional
        The column that has the standard error of a drawn column's mean: bars of one error.
        {"gain": "error"} by default, where there are such columns.

    Raises
    ------
    TypeError, ValueError
        If it is no such table, or there is nothing to draw.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a pandas.DataFrame with a row a run, got "
                        f"{type(table).__name__}.")
    if not columns or len(table) == 0:
        raise ValueError(f"there must be something to draw, got {len(table)} runs and "
                         f"{len(columns)} columns.")
    errors = {"gain": "error"} if errors is None else errors
    errors = {name: error for name, error in errors.items() if name in columns}
    for name in (knob, *columns, *errors.values()):
        validation.choice("column", name, table.columns)
    values = list(dict.fromkeys(table[knob]))
    at = table[knob].map(values.index)
    named = all(isinstance(value, str) for value in values)  # between names there is no way
    axes = canvas.row(None, len(columns), 2.8 * len(columns), 2.5, bottom=0.2, top=0.87,
                      left=0.24 / len(columns), right=1 - 0.04 / len(columns), wspace=0.36)
    for ax, colour, (name, heading) in zip(axes, COLOURS, columns.items(), strict=False):
        means = table[name].groupby(at).mean()
        ax.plot(at, table[name], "o", color=colour, markersize=3, alpha=0.5)
        ax.plot(means, " " if named else "-", color=colour, marker="o", markersize=5)
        ends = [0, table[name].min(), table[name].max()]
        if name in errors:
            bars = table[errors[name]].groupby(at).mean()
            ax.errorbar(means.index, means, bars, fmt="none", ecolor=INK, elinewidth=1, capsize=3)
            ends += [(means - bars).min(), (means + bars).max()]
        low, high = min(ends), max(ends)
        margin = 0.12 * (high - low) or 1.0
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set(title=heading, xlabel=knob, xlim=(-0.4, len(values) - 0.6),
               ylim=(low - margin if low < 0 else 0, high + margin))
        ax.set_xticks(range(len(values)), [_short(value) for value in values])
        ax.yaxis.set_major_locator(MaxNLocator(4))
    return axes[0].figure


def _short(value: object) -> str:
    small = isinstance(value, float) and 0 < abs(value) < 0.01
    if small:
        return f"{value:.0e}".replace("e-0", "e-")
    return str(value) if isinstance(value, str) else f"{value:g}"


@styled
def draw_tolerance(table: pd.DataFrame, margins: Tensor, rtol: float, scores: Tensor,
                   exact: Tensor, *, figure: Figure | None = None) -> Figure:
    """How exact a solve has to be: error of the scores, margins of the decisions, one image.

    Parameters
    ----------
    table : pandas.DataFrame
        By tolerance (its index): ``error`` and ``bound`` of the class scores, ``steps``,
        ``accuracy`` and ``changed``, from `tolerance_study`.
    margins : Tensor, shape (m,)
        By how much each image's best score beats its second.
    rtol : float
        The row of ``table`` that is marked.
    scores, exact : Tensor, shape (q,)
        One image's class scores at this tolerance and at the equilibrium.
    figure : Figure, optional
        From an earlier call.

    Raises
    ------
    ValueError
        If ``rtol`` is not in the table.
    """
    if rtol not in table.index:
        raise ValueError(f"rtol must be one of the table's {list(table.index)}, got {rtol}.")
    gaps, given, goal = (array(name, v, 1) for name, v in (
        ("margins", margins), ("scores", scores), ("exact", exact)))
    row = table.loc[rtol]
    axes = canvas.row(figure, 3, 8.4, 3.0, left=0.065, right=0.99, bottom=0.15, top=0.76,
                      wspace=0.22)
    rtols, error, bound = table.index.to_numpy(), table["error"], table["bound"]
    powers = np.arange(np.floor(np.log10(max(min(error.min(), rtols.min()), 1e-12))),
                       np.ceil(np.log10(max(bound.max(), gaps.max()))) + 1)
    span = 10 ** powers[0], 10 ** powers[-1]
    if frame(axes[0], xscale="log", yscale="log", xlim=(rtols.min() / 2, rtols.max() * 2),
             ylim=span, xlabel="rtol", title="Error of the class scores"):
        axes[0].plot(rtols, np.maximum(error, span[0]), color=COLOURS[0], label="measured")
        axes[0].plot(rtols, bound, "--", color=COLOURS[1], label="bound")
        axes[0].legend(loc="upper left")
    if frame(axes[1], xscale="log", xlim=span, yticks=[], xlabel="margin: best score − second best",
             title="Margins of the decisions"):
        axes[1].hist(gaps, bins=np.geomspace(*span, 60), color=FAINT)
        axes[1].set_ylim(0, 1.25 * axes[1].get_ylim()[1])  # room for words above the lines
    # Up to the bound only: above it stands the legend.
    line(axes[0], "at", [rtol, rtol], [span[0], row["bound"]], color=INK, linewidth=0.8)
    line(axes[0], "dots", [rtol, rtol], [max(row["error"], span[0]), row["bound"]], "o", color=INK)
    height = 0, axes[1].get_ylim()[1] / 1.25
    for k, name in enumerate(("error", "bound")):
        edge = max(2 * row[name], span[0])
        line(axes[1], name, [edge, edge], height, "-" if k == 0 else "--", color=COLOURS[k])
        words(axes[1], f"{name} name", 0.02, 0.98 - 0.08 * k,
              f"{int((gaps > 2 * row[name]).sum())} of {len(gaps)} exceed 2 × {name}",
              color=COLOURS[k], fontsize=8, va="top")
    classes, size = np.arange(len(goal)), max(np.abs(goal).max(), 1e-12)
    if frame(axes[2], xticks=tuple(classes), yticks=[], xlabel="class", ylim=(-1.4, 1.4),
             xlim=(-0.7, len(classes) - 0.3)):
        axes[2].axhline(0, color=INK, linewidth=0.8)
    bars = np.clip(given / size, -1.35, 1.35)
    line(axes[2], "scores", *canvas.stems(classes, 0, bars), color=COLOURS[5], linewidth=12,
         solid_capstyle="butt")
    line(axes[2], "exact", classes, goal / size, "o", color=INK, markerfacecolor="none",
         markersize=7)
    title(axes[2], f"One image: says {given.argmax()}, exactly {goal.argmax()}")
    words(axes[0], "verdict", -0.17, 1.22,
          f"rtol {rtol:.0e}: steps {int(row['steps'])}, accuracy {row['accuracy']:.3f}; "
          f"{int(row['changed'])} of {len(gaps)} predictions differ from the equilibrium's",
          fontsize=10, weight="bold")
    return axes[0].figure
