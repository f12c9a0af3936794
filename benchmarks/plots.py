"""What `make bench` measured: training steps and memory, SIM's growth, SIM beside pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, styled
from idl_lab.labs.sparsity.plots import draw_sparsity

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


@styled
def draw_growth(growth: Mapping[str, Mapping]) -> Figure:
    """Processor seconds of a solve against each size, with the fitted power.

    Parameters
    ----------
    growth : mapping of str to mapping
        By what varies: ``sizes``, ``seconds`` and ``exponent``.
    """
    axes = canvas.row(None, len(growth), 2.6 * len(growth) + 0.6, 2.8, left=0.09, right=0.98,
                      bottom=0.17, wspace=0.12)
    top = max(max(of["seconds"]) for of in growth.values())
    low = min(min(of["seconds"]) for of in growth.values())
    for ax, (name, of) in zip(axes, growth.items(), strict=True):
        x, y = np.array(of["sizes"], dtype=float), np.array(of["seconds"])
        middle = np.exp(np.log(y).mean()) * (x / np.exp(np.log(x).mean())) ** of["exponent"]
        ax.plot(x, middle, "--", color=INK, linewidth=0.9,
                label=f"power {of['exponent']:.2g}".replace("-", "−"))
        ax.plot(x, y, "o", color=COLOURS[0])
        ax.set(xscale="log", yscale="log", xlabel=name, ylim=(low / 2, top * 2))
        _plain(ax.xaxis, FixedLocator(of["sizes"]))
        _plain(ax.yaxis, LogLocator(subs=(1, 2, 5)))
        if ax is not axes[0]:
            ax.set_yticklabels([])
        ax.legend(loc="upper left")
    axes[0].set_ylabel("seconds of one core")
    return axes[0].figure


def draw_pruning(tasks: Mapping[str, Mapping], methods: Sequence[str]) -> Figure:
    """Accuracy and fidelity against the share of weights that are gone, a row a task.

    Parameters
    ----------
    tasks : mapping of str to mapping
        By task, method and sparsity: ``accuracy`` and ``fidelity``, each the median over seeds,
        the lowest and the highest.
    methods : sequence of str
        Which are drawn.
    """
    return draw_sparsity({task: pd.DataFrame([
        {"method": method, "sparsity": float(sparsity), "accuracy": row["accuracy"][k],
         "fidelity": row["fidelity"][k]}
        for method in methods for sparsity, row in of[method].items() for k in range(3)])
        for task, of in tasks.items()})


def _plain(axis: Axis, at: Locator) -> None:
    axis.set_major_locator(at)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
