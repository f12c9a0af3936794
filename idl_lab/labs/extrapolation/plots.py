"""Pictures of errors outside the range of training: in other units, shifted, at other levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array

_STYLES = ("-", "--", ":")  # of the first six models, the next six, …
NAMES = {"scale": "inputs times", "shift": "inputs plus", "level": "level of the series",
         "absolute": "absolute error", "relative": "relative error", "accuracy": "accuracy",
         "largest score": "largest score"}


@styled
def draw_errors(table: pd.DataFrame, trained: float = 1.0) -> Figure:
    """Absolute and relative error against the inputs' scale, a line a model, its runs' mean.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `over_scales` of a task of numbers, of one run or of several.
    trained : float
        The scale of training, a grey line.

    Raises
    ------
    TypeError, ValueError
        If it is no such table, or has no row.
    """
    left, right, key = _two()
    for ax, column in ((left, "absolute"), (right, "relative")):
        _lines(ax, table, "scale", column)
        ax.axvline(trained, color=FAINT, linewidth=0.8, zorder=0)
        frame(ax, xscale="log", yscale="log")
        _name_powers(ax, table["scale"])
    right.axhline(1, color=INK, linewidth=0.8, linestyle="--", zorder=0)
    left.set_title("it grows with the unit")
    right.set_title("dashed: predicting zero")
    key()
    return left.figure


@styled
def draw_symmetries(scales: pd.DataFrame, shifts: pd.DataFrame, chance: float) -> Figure:
    """Accuracy against the inputs' scale, and against a constant added to them.

    Parameters
    ----------
    scales, shifts : pandas.DataFrame
        Rows of `over_scales` and `over_shifts`, of one run or of several.
    chance : float
        The accuracy of guessing, a dashed line.

    Raises
    ------
    TypeError, ValueError
        If one is no such table, or has no row.
    """
    left, right, key = _two()
    for ax, table, by in ((left, scales, "scale"), (right, shifts, "shift")):
        _lines(ax, table, by, "accuracy")
        ax.axhline(chance, color=INK, linewidth=0.8, linestyle="--", zorder=0)
        ax.set_ylim(0, 1.02)
    frame(left, xscale="log")
    _name_powers(left, scales["scale"])
    right.set_xscale("symlog", linthresh=0.1)
    named = [0, *(10.0 ** k for k in range(-1, 6) if 10.0 ** k <= shifts["shift"].max())]
    right.set_xticks(named, [canvas.power(value) if value else "0" for value in named])
    right.minorticks_off()
    right.set_xlim(-0.02)
    left.set_title("in another unit (1: training)")
    right.set_title("from another zero (0: training)")
    key()
    return left.figure


@styled
def draw_levels(table: pd.DataFrame, trained: int) -> Figure:
    """Relative error of forecasts against the level of the series, in its two regimes.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns model, level, regime ("spiky" or "calm") and relative.
    trained : int
        The level of training, a grey line.

    Raises
    ------
    TypeError, ValueError
        If it is no such table, or has no row.
    """
    left, right, key = _two()
    _check(table, "regime")
    ends = table["relative"].min() / 1.5, max(table["relative"].max(), 1) * 1.5
    for ax, regime in ((left, "spiky"), (right, "calm")):
        _lines(ax, table[table["regime"] == regime], "level", "relative")
        ax.axvline(trained, color=FAINT, linewidth=0.8, zorder=0)
        ax.axhline(1, color=INK, linewidth=0.8, linestyle="--", zorder=0)
        frame(ax, xscale="log", yscale="log", title=f"{regime} (dashed: predicting zero)",
              ylim=ends)
        ax.set_xticks(sorted(set(table["level"])), map(str, sorted(set(table["level"]))))
    key()
    return left.figure


@styled
def draw_unit(scale: float, said: Tensor, wanted: Tensor,
              curves: Mapping[str, Mapping[str, Tensor]], scales: Sequence[float],
              classes: int | None = None, *, figure: Figure | None = None) -> Figure:
    """A model's answers at one scale of the inputs, and its errors at all beside another's.

    Parameters
    ----------
    scale : float
        One of ``scales``.
    said, wanted : Tensor, shape (m,)
        Numbers, drawn divided by the scale; or the index that is named, and the right one.
    curves : mapping of str to mapping of str to Tensor, shape (len(scales),)
        By model, the chosen one first; each holds two columns of `errors`.
    scales : sequence of float
    classes : int, optional
        How many indices there are; without it the answers are numbers.
    figure : Figure, optional
        From an earlier call.

    Raises
    ------
    ValueError
        If the scale is none of them, or there is no curve.
    """
    at = int(np.argmin(np.abs(np.log(np.asarray(scales) / scale))))
    if not curves or not np.isclose(scales[at], scale):
        raise ValueError(f"scale must be one of {list(scales)}, with a curve, got {scale}.")
    axes = canvas.row(figure, 3, 8.4, 3.1, left=0.065, bottom=0.16, top=0.86, right=0.985,
                      wspace=0.34)
    (_answers if classes is None else _counts)(axes[0], scale, array("said", said, 1),
                                               array("wanted", wanted, 1), classes)
    for ax, column in zip(axes[1:], next(iter(curves.values())), strict=True):
        frame(ax, xscale="log", yscale="linear" if column == "accuracy" else "log",
              xlim=(scales[0], scales[-1]), xlabel=NAMES["scale"], ylabel=NAMES[column],
              ylim=_LIMITS[column])
        for k in range(2):  # the second one is empty where a model is beside itself
            values = [*curves.values()][k:k + 1] or [{column: np.full(len(scales), np.nan)}]
            y = np.clip(array(column, values[0][column], 1), *_LIMITS[column])
            line(ax, f"curve {k}", np.asarray(scales), y, ("-", "--")[k], color=COLOURS[k],
                 zorder=3 - k)
            if k == 0:
                line(ax, "dot", [scale], [y[at]], "o", color=COLOURS[0], markersize=6, zorder=4)
                title(ax, f"{NAMES[column]} {_number(float(values[0][column][at]))}")
    for k in range(2):
        names = list(curves)
        words(axes[2], f"name {k}", 0.02, 0.97 - 0.075 * k, names[k] if k < len(names) else "",
              color=COLOURS[k], va="top", fontsize=8)
    return axes[0].figure


_LIMITS = {"absolute": (1e-9, 1e7), "relative": (1e-7, 1e4), "accuracy": (0.0, 1.02),
           "largest score": (1e-2, 1e7)}


def _answers(ax: Axes, scale: float, said: np.ndarray, wanted: np.ndarray, _: None) -> None:
    reach = 15.0
    frame(ax, xlim=(-reach, reach), ylim=(-reach, reach), xlabel="true answer / scale",
          ylabel="model's answer / scale", xticks=[-10, 0, 10], yticks=[-10, 0, 10],
          xticklabels=["−10", "0", "10"], yticklabels=["−10", "0", "10"])
    line(ax, "right", [-reach, reach], [-reach, reach], "-", color=FAINT, linewidth=1)
    line(ax, "counts", [], [])
    line(ax, "answers", wanted / scale, np.clip(said / scale, -reach, reach), ".",
         color=COLOURS[0], markersize=3)
    title(ax, f"inputs times {_number(scale)}")


def _counts(ax: Axes, scale: float, said: np.ndarray, wanted: np.ndarray, classes: int) -> None:
    frame(ax, xlim=(-0.7, classes - 0.3), ylim=(0, 1), xlabel="place that is named",
          ylabel="share of the samples", xticks=list(range(classes)), yticks=[0, 0.5, 1],
          xticklabels=[str(k) for k in range(classes)], yticklabels=["0", "0.5", "1"])
    share, right = (np.bincount(x.astype(int), minlength=classes) / len(x) for x in (said, wanted))
    line(ax, "answers", [], [])
    line(ax, "right", *canvas.stems(np.arange(classes), 0, right), "-", color=FAINT, linewidth=9)
    line(ax, "counts", *canvas.stems(np.arange(classes), 0, share), "-", color=COLOURS[0],
         linewidth=4, solid_capstyle="butt")
    title(ax, f"inputs times {_number(scale)}")


def _number(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}" if 1e-3 <= value < 1e4 else canvas.power(value)


def _check(table: pd.DataFrame, *columns: str) -> None:
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"a pandas.DataFrame with a row a model and point is wanted, got "
                        f"{type(table).__name__}.")
    for name in columns:
        validation.choice("column", name, table.columns)
    if len(table) == 0:
        raise ValueError("the table must have at least one row, got none.")


def _two() -> tuple[Axes, Axes, Callable[[], None]]:
    """Two axes side by side, and what draws the key at their right."""
    left, right = canvas.row(None, 2, 8.6, 3.2, left=0.08, bottom=0.16, top=0.88, right=0.755,
                             wspace=0.3)

    def key() -> None:
        left.figure.legend(*left.get_legend_handles_labels(), loc="center left",
                           bbox_to_anchor=(0.765, 0.5))

    return left, right, key


def _name_powers(ax: Axes, scales: pd.Series) -> None:
    """Ticks at even powers of ten: names of all do not fit."""
    low, high = np.log10(scales.min()), np.log10(scales.max())
    named = [10.0 ** k for k in range(-30, 31, 2) if low - 1e-9 <= k <= high + 1e-9]
    ax.set_xticks(named, [canvas.power(value) for value in named])


def _lines(ax: Axes, table: pd.DataFrame, by: str, column: str) -> None:
    """A line a model, the mean of its runs, and a dot a run where there are several."""
    _check(table, "model", by, column)
    ax.set(xlabel=NAMES[by], ylabel=NAMES[column])
    for k, (name, rows) in enumerate(table.groupby("model", sort=False)):
        means = rows.groupby(by)[column].mean()
        style = {"color": COLOURS[k % len(COLOURS)], "linestyle": _STYLES[k // len(COLOURS) % 3]}
        # The first is the wider one: it is seen below another that is as good.
        ax.plot(means.index, means, marker="o", markersize=3, label=name,
                linewidth=1.4 if k else 3.2, **style)
        if len(rows) > len(means):
            ax.plot(rows[by], rows[column], "o", color=style["color"], markersize=2, alpha=0.5)
