"""The comparison with other packages: times of a training step, and memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, styled

_OURS = "idl_lab"


@styled
def draw_bench(tables: Mapping[str, pd.DataFrame], goals: Mapping[str, float],
               memory: pd.DataFrame) -> Figure:
    """Milliseconds of a training step, a picture a size, and peak memory against the steps.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        By size, with a row a contestant and columns ``ms``, its quartiles ``low`` and ``high``,
        and ``of its floor`` where there is one.
    goals : mapping of str to float
        The share of torchidl's time that is to be reached, a dashed line.
    memory : DataFrame
        Megabytes, rows the fixed-point steps, columns the adjoints.
    """
    if not tables:
        raise ValueError("tables must hold at least one size, got none.")
    names = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    axes = canvas.row(None, len(tables) + 1, 2.5 * (len(tables) + 1) + 2.2, 3.1,
                      left=0.185, right=0.96, top=0.89, wspace=0.14)
    for ax, (size, table) in zip(axes, tables.items(), strict=False):
        at = np.array([names.index(name) for name in table.index])
        ours = np.array([name.startswith(_OURS) for name in table.index])
        spread = abs(table[["low", "high"]].to_numpy().T - table["ms"].to_numpy())
        for rows, colour in ((ours, COLOURS[0]), (~ours, INK)):
            ax.errorbar(table["ms"][rows], at[rows], xerr=spread[:, rows], fmt="o", color=colour,
                        markersize=5, linewidth=1.2)
        floor = table["ms"] / table.get("of its floor", np.nan)
        ax.plot(floor, at, "|", color=COLOURS[1], markersize=11, markeredgewidth=2)
        if "torchidl" in table.index:
            ax.axvline(goals[size] * table.loc["torchidl", "ms"], color=INK, linestyle="--",
                       linewidth=0.9)
        ax.set(xscale="log", ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)),
               xlabel="ms a training step", title=size)
        ax.set_yticklabels(names if ax is axes[0] else [])
        ax.grid(axis="y", color=FAINT, linewidth=0.5)
        ax.tick_params(axis="y", length=0)
        _plain(ax.xaxis, LogLocator(subs=(1, 2, 5)))
    last = axes[len(tables) - 1]
    last.plot([], [], "|", color=COLOURS[1], markersize=11, markeredgewidth=2, label="its floor")
    last.plot([], [], "--", color=INK, linewidth=0.9, label="to reach")
    last.legend(loc="lower right", frameon=True, framealpha=1, edgecolor="none")
    ax = axes[-1]
    for colour, (name, column) in zip(COLOURS, memory.items(), strict=False):
        ax.plot(memory.index, column, "o-", color=colour, label=name)
    ax.set(xscale="log", yscale="log", xlabel="fixed-point steps", title="Peak memory (MB)")
    _plain(ax.xaxis, FixedLocator(list(memory.index)))
    _plain(ax.yaxis, LogLocator())
    ax.yaxis.tick_right()
    ax.legend(loc="upper left")
    return ax.figure


def _plain(axis: Axis, at: Locator) -> None:
    axis.set_major_locator(at)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
