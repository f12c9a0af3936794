"""Pictures of sparse models: what they are worth by their zeros and samples, and who reads whom."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.sparsity.problems import Sparse, Task, read_by

LOW, HIGH = -0.05, 1.03  # of a share; what is below is drawn at the edge
NAMES = {"accuracy": "accuracy", "fidelity": "fidelity", "states": "states that are left"}
READS = ("the layer before", "earlier layers and the input", "its own and later layers")
PALETTE = tuple(np.array([int(colour[k:k + 2], 16) for k in (1, 3, 5)]) / 255
                for colour in (COLOURS[0], COLOURS[4], COLOURS[1]))


@styled
def draw_sparsity(tables: Mapping[str, pd.DataFrame],
                  figures: Sequence[str] = ("accuracy", "fidelity")) -> Figure:
    """What methods are worth against the share of weights that are gone: a row a task.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        By task, a row a run: method, sparsity, and the figures. Lines are medians over the runs,
        bars go from the lowest to the highest.
    figures : sequence of str
        Columns: of accuracy, fidelity and states.

    Raises
    ------
    TypeError, ValueError
        If there is no table, or one that lacks a column.
    """
    _check(tables, ("method", "sparsity", *figures))
    layout = [[f"{task}: {figure}" for figure in figures] for task in tables]
    axes = canvas.mosaic(None, layout, 2.4 + 3.1 * len(figures), 2.5 * len(tables) + 0.5,
                         left=0.075, right=0.7 if len(figures) > 1 else 0.6,
                         bottom=0.5 / (2.5 * len(tables) + 0.5),
                         top=1 - 0.3 / (2.5 * len(tables) + 0.5), wspace=0.2, hspace=0.32)
    for ax, (task, figure) in zip(axes, ((task, figure) for task in tables for figure in figures),
                                  strict=True):
        _lines(ax, tables[task], "sparsity", figure)
        ax.set_title(f"{task}: {NAMES[figure]}" if len(tables) > 1 else NAMES[figure])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}%"))
        if task == list(tables)[-1]:
            ax.set_xlabel("share of the weights that are gone")
    axes[len(figures) - 1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return axes[0].figure


@styled
def draw_samples(table: pd.DataFrame, figures: Sequence[str] = ("accuracy", "fidelity")) -> Figure:
    """What methods are worth against the number of samples that they are fitted to.

    Parameters
    ----------
    table : DataFrame
        A row a run: method, samples, and the figures.
    figures : sequence of str
        Columns.

    Raises
    ------
    TypeError, ValueError
        If there is no table, or one that lacks a column.
    """
    _check({"": table}, ("method", "samples", *figures))
    axes = canvas.row(None, len(figures), 8.6, 2.9, left=0.075, right=0.7, bottom=0.17, top=0.9,
                      wspace=0.2)
    for ax, figure in zip(axes, figures, strict=True):
        _lines(ax, table, "samples", figure)
        ax.set(xscale="log", xlabel="samples", title=NAMES[figure])
        least = table[figure].clip(lower=0.0).min()
        ax.set_ylim(np.floor(10 * least - 0.5) / 10 if figure != "states" else 0)
        ax.xaxis.set_major_locator(FixedLocator(sorted(set(table["samples"]))))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return axes[0].figure


def _check(tables: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> None:
    if not tables:
        raise ValueError("tables must hold at least one task, got none.")
    for task, table in tables.items():
        if not isinstance(table, pd.DataFrame) or not len(table):
            raise TypeError(f"{task or 'table'} must be a pandas.DataFrame with a row a run, got "
                            f"{type(table).__name__}.")
        for column in columns:
            validation.choice("column", column, table.columns)


def _lines(ax: Axes, table: pd.DataFrame, x: str, figure: str) -> None:
    """A line a method: medians, and bars from the lowest to the highest."""
    for k, (method, rows) in enumerate(table.groupby("method", sort=False)):
        runs = rows.groupby(x)[figure]
        middle, low, high = (edge.clip(lower=LOW) for edge in (
            runs.median(), runs.min(), runs.max()))
        ours, label = str(method).startswith("SIM"), textwrap.fill(str(method), 24)
        if len(middle) == 1:  # one number for all, such as the teacher's
            ax.axhline(middle.iloc[0], color=INK, linestyle=":", linewidth=1.2, label=label)
            continue
        ax.errorbar(middle.index, middle, (middle - low, high - middle),
                    fmt="o-" if ours else "s--", color=COLOURS[k % len(COLOURS)], markersize=4,
                    linewidth=1.6 if ours else 1.1, elinewidth=0.7, label=label,
                    fillstyle="full" if k < len(COLOURS) else "none")
    if figure in ("accuracy", "fidelity"):
        ax.set_ylim(LOW - 0.01, HIGH)
    else:
        ax.set_ylim(0, 1.08 * table[figure].max())
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.5)


@styled
def draw_student(task: Task, walks: Mapping[str, Mapping[float, Sparse]], method: str,
                 sparsity: float, figure: Figure | None = None) -> Figure:
    """Who reads whom in one sparse model, and where it stands on its curve.

    Parameters
    ----------
    task : Task
    walks : mapping of str to mapping of float to Sparse
        By method and sparsity, the same ones for all methods.
    method : str
    sparsity : float
    figure : Figure, optional
        From an earlier call.

    Raises
    ------
    ValueError
        If there is no such method or sparsity.
    """
    validation.choice("method", method, walks)
    validation.choice("sparsity", f"{sparsity:g}", [f"{at:g}" for at in walks[method]])
    found, n = walks[method][sparsity], task.n
    axes = canvas.row(figure, 2, 8.4, 4.1, [1.45, 1], left=0.07, right=0.985, bottom=0.2,
                      top=0.84, wspace=0.17)
    kinds = read_by(task, found.model).numpy()
    pixels = np.ones((*kinds.shape, 3))
    for k, colour in enumerate(PALETTE):
        pixels[kinds == k + 1] = colour
    ax, rows = axes[0], task.blocks
    if frame(ax, xlabel="… reads state or pixel", ylabel="state or output …"):
        ticks = [((part.start + part.stop) / 2 - 0.5, f"layer {k}")
                 for k, part in enumerate(rows[:-1], 1)]
        ax.set_yticks(*zip(*ticks, ((rows[-1].start + rows[-1].stop) / 2 - 0.5, "output"),
                           strict=True), rotation=90, va="center")
        ax.set_xticks(*zip(*ticks, ((n + kinds.shape[1]) / 2, "input"), strict=True))
        ax.tick_params(length=0)
    canvas.picture(ax, "entries", pixels, aspect="auto", interpolation="nearest")
    for k, part in enumerate(rows[:-1]):  # moving too: what does not move is below the entries
        edge, ends = [part.stop - 0.5] * 2, (-0.5, kinds.shape[1] - 0.5)
        line(ax, f"below {k}", ends, edge, color=FAINT, linewidth=0.7)
        line(ax, f"beside {k}", edge, (-0.5, len(kinds) - 0.5), color=FAINT, linewidth=0.7)
    counts = [int((kinds == k).sum()) for k in (1, 2, 3)]
    title(ax, f"{found.weights} weights, {found.states} of {n} states do something")
    for k, (name, count) in enumerate(zip(READS, counts, strict=True)):
        words(ax, f"key {k}", (0.0, 0.37, 0.9)[k], -0.2, f"■ {name}: {count}", color=COLOURS[
            (0, 4, 1)[k]], fontsize=8.5)
    ax = axes[1]
    x = [100 * at for at in walks[method]]
    frame(ax, xlim=(min(x) - 3, 100), ylim=(LOW, HIGH), xlabel="% of the weights gone")
    for k, (name, walk) in enumerate(walks.items()):
        line(ax, name, x, [max(s.accuracy, LOW) for s in walk.values()], "-", color=FAINT if
             name != method else COLOURS[0], linewidth=1.0 if name != method else 1.8,
             zorder=3 if name == method else 2 - 0.01 * k)
    line(ax, "fidelity", x, [max(s.fidelity, LOW) for s in walks[method].values()], "--",
         color=COLOURS[2])
    line(ax, "here", [100 * sparsity] * 2, [max(found.accuracy, LOW), max(found.fidelity, LOW)],
         "o", color=INK, markersize=8, fillstyle="none")
    words(ax, "key", 0.03, 0.04, "blue: accuracy; green, dashed: fidelity\n"
          "grey: the other methods' accuracy", fontsize=8)
    title(ax, f"accuracy {found.accuracy:.1%}, fidelity "
          + (f"{found.fidelity:.2f}" if found.fidelity > -9 else "below −9").replace("-", "−"))
    return axes[0].figure
