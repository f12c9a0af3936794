"""The comparison with other packages: times of a training step, and memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, styled

_OURS = "idl_lab"


@styled
def draw_bench(tables: Mapping[str, pd.DataFrame], targets: Mapping[str, float],
               memory: pd.DataFrame) -> Figure:
    """Milliseconds of a training step, a picture a size, and peak memory against the steps.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        By size, with a row a contestant and columns ``ms`` and ``of torchidl``.
    targets : mapping of str to float
        The share of torchidl's time that was to be reached, a dashed line.
    memory : DataFrame
        Megabytes, rows the fixed-point steps, columns the adjoints.
    """
    if not tables:
        raise ValueError("tables must hold at least one size, got none.")
    axes = canvas.row(None, len(tables) + 1, 3.3 * (len(tables) + 1), 2.9,
                      left=0.02, right=0.985, top=0.86, wspace=0.14)
    for ax, (name, table) in zip(axes, tables.items(), strict=False):
        ms, at = table["ms"].to_numpy(), np.arange(len(table))
        colours = [COLOURS[0] if row.startswith(_OURS) else FAINT for row in table.index]
        ax.barh(at, ms, color=colours, height=0.86)
        if "torchidl" in table.index:
            goal = targets[name] * table.loc["torchidl", "ms"]
            ax.axvline(goal, color=INK, linestyle="--", linewidth=0.9)
            ax.text(goal, len(table) - 0.42, " to reach", fontsize=8, va="center")
        for k, (row, value) in enumerate(table["ms"].items()):
            ax.text(0.012 * ms.max(), k, f"{row}: {value:.3g} ms", va="center", fontsize=8,
                    bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1})
        ax.set(yticks=[], ylim=(len(table) - 0.2, -0.6), xlabel="ms a training step", title=name)
    ax = axes[-1]
    for colour, (name, column) in zip(COLOURS, memory.items(), strict=False):
        ax.plot(memory.index, np.maximum(column, 0.1), "o-", color=colour, label=name)
    ax.set(xscale="log", yscale="log", xlabel="fixed-point steps",
           title="Peak memory, forward + backward (MB)")
    ax.xaxis.set_major_locator(FixedLocator(list(memory.index)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(ScalarFormatter())
    ax.legend(loc="upper left")
    return ax.figure
