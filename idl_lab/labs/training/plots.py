"""What training depends on: a knob and what it costs, and how exact a solve has to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array


@styled
def draw_sweep(table: pd.DataFrame, knob: str, columns: Mapping[str, str],
               close_up: Collection[str] = ("accuracy",)) -> Figure:
    """Measured columns against a knob: the median over repeated runs, every run a dot.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a run.
    knob : str
        Its column of the knob's values, numbers or words; drawn evenly spaced, in the order in
        which they come.
    columns : mapping of str to str
        Which columns to draw, and the title of each.
    close_up : collection of str
        Columns whose axis does not start at zero: their spread is the point.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a pandas.DataFrame with a row a run, got "
                        f"{type(table).__name__}.")
    if not columns or len(table) == 0:
        raise ValueError(f"there must be something to draw, got {len(table)} runs and "
                         f"{len(columns)} columns.")
    for name in (knob, *columns):
        validation.choice("column", name, table.columns)
    values = list(dict.fromkeys(table[knob]))
    at = table[knob].map(values.index)
    named = all(isinstance(value, str) for value in values)  # between names there is no way
    axes = canvas.row(None, len(columns), 2.4 * len(columns), 2.3, bottom=0.21, top=0.86,
                      left=0.22 / len(columns), right=1 - 0.04 / len(columns), wspace=0.36)
    for ax, colour, (name, heading) in zip(axes, COLOURS, columns.items(), strict=False):
        groups = table[name].groupby(at)
        if not named:
            ax.fill_between(range(len(values)), groups.min(), groups.max(), color=colour,
                            alpha=0.15, linewidth=0)
        ax.plot(at, table[name], "o", color=colour, markersize=3, alpha=0.5)
        ax.plot(groups.median(), " " if named else "-", color=colour, marker="o", markersize=5)
        low, high = table[name].min(), table[name].max()
        margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        ax.set(title=heading, xlabel=knob, xlim=(-0.4, len(values) - 0.6),
               ylim=(low - margin if name in close_up else min(0, low), high + margin))
        ax.set_xticks(range(len(values)), [_short(value) for value in values],
                      fontsize=7 if named else None)
        ax.yaxis.set_major_locator(MaxNLocator(4))
    return axes[0].figure


def _short(value: object) -> str:
    small = isinstance(value, float) and 0 < abs(value) < 0.01
    if small:
        return f"{value:.0e}".replace("e-0", "e-")
    return str(value) if isinstance(value, str) else f"{value:g}"


@styled
def draw_tolerance(table: pd.DataFrame, margins: Tensor, tol: float, scores: Tensor,
                   exact: Tensor, *, figure: Figure | None = None) -> Figure:
    """How exact a solve has to be: error of the scores, margins of the decisions, one image.

    Parameters
    ----------
    table : pandas.DataFrame
        By tolerance (its index): ``error`` and ``bound`` of the class scores, ``steps``,
        ``accuracy`` and ``changed``, from `examples.tolerance_study`.
    margins : Tensor, shape (m,)
        By how much each image's best score beats its second.
    tol : float
        The row of ``table`` that is marked.
    scores, exact : Tensor, shape (q,)
        One image's class scores at this tolerance and at the equilibrium.
    figure : Figure, optional
        From an earlier call.
    """
    if tol not in table.index:
        raise ValueError(f"tol must be one of the table's {list(table.index)}, got {tol}.")
    gaps, given, goal = (array(name, v, 1) for name, v in (
        ("margins", margins), ("scores", scores), ("exact", exact)))
    row = table.loc[tol]
    axes = canvas.row(figure, 3, 9.4, 3.0, left=0.07, right=0.99, bottom=0.15, top=0.76,
                      wspace=0.22)
    tols, error, bound = table.index.to_numpy(), table["error"], table["bound"]
    powers = np.arange(np.floor(np.log10(max(min(error.min(), tols.min()), 1e-12))),
                       np.ceil(np.log10(max(bound.max(), gaps.max()))) + 1)
    span = 10 ** powers[0], 10 ** powers[-1]
    if frame(axes[0], xscale="log", yscale="log", xlim=(tols.min() / 2, tols.max() * 2),
             ylim=span, xlabel="tol", title="Error of the class scores"):
        axes[0].plot(tols, np.maximum(error, span[0]), color=COLOURS[0], label="measured")
        axes[0].plot(tols, bound, "--", color=COLOURS[1], label="bound")
        axes[0].legend(loc="lower right")
    if frame(axes[1], xscale="log", xlim=span, yticks=[], xlabel="margin: best score − second best",
             title="Margins of the decisions"):
        axes[1].hist(gaps, bins=np.geomspace(*span, 60), color=FAINT)
        axes[1].set_ylim(0, 1.25 * axes[1].get_ylim()[1])  # room for words above the lines
    for axis in (axes[0].xaxis, axes[0].yaxis, axes[1].xaxis):
        if not isinstance(axis.get_major_formatter(), FuncFormatter):
            axis.set_major_locator(FixedLocator(10.0 ** np.arange(powers[0], powers[-1] + 1, 2)))
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0e}"))
            axis.set_minor_locator(NullLocator())
    line(axes[0], "at", [tol, tol], span, color=INK, linewidth=0.8)
    line(axes[0], "dots", [tol, tol], [max(row["error"], span[0]), row["bound"]], "o", color=INK)
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
          f"tol {tol:.0e}: steps {int(row['steps'])}, accuracy {row['accuracy']:.3f}; "
          f"{int(row['changed'])} of {len(gaps)} predictions differ from the equilibrium's",
          fontsize=10, weight="bold")
    return axes[0].figure
