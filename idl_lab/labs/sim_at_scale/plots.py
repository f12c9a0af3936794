"""SIM at scale: memory and samples that it needs, time that a model predicts and a clock saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, line, styled, words
from idl_lab.labs.kit.plots import array

_TIMES = ((31_557_600, "years"), (86_400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"),
          (1e-6, "µs"))
_SIZES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def _said(value: float, units: Sequence[tuple[float, str]]) -> str:
    """A number in the largest unit of which it is at least one, with two or three digits."""
    size, unit = next((pair for pair in units if value >= pair[0]), units[-1])
    number = value / size
    return f"{number:.0f} {unit}" if number >= 10 or number == 0 else f"{number:.1f} {unit}"


def _table(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    if not isinstance(table, pd.DataFrame) or not len(table):
        raise ValueError(f"{name} must be a pandas.DataFrame with at least one row, got {table!r}.")
    for column in columns:
        validation.choice("column", column, table.columns)


@styled
def draw_stream_memory(samples: Sequence[int], peak: Sequence[float], raw: Sequence[float],
                       ax: Axes | None = None) -> Figure:
    """Memory that reading a teacher's states has taken, beside that of the states themselves.

    Parameters
    ----------
    samples : sequence of int
        Numbers of samples m, rising.
    peak : sequence of float
        Bytes by which the process grew, measured.
    raw : sequence of float
        Bytes of all states, computed.
    ax : Axes, optional
    """
    m = array("samples", np.asarray(samples), 1)
    ax = canvas.axes(ax)
    for name, values, marks, colour, place in (
            ("raw states (computed)", raw, "--", "#777777", (-14, -3)),
            ("streamed (measured)", peak, "o-", COLOURS[0], (0, 9))):
        values = array(name, np.asarray(values), 1)
        if values.size != m.size:
            raise ValueError(f"{name} must hold one number a number of samples, {m.size}, got "
                             f"{values.size}.")
        shown = np.maximum(values, 1e5) / 1e6  # a page or two may be all that a stream adds
        ax.plot(m, shown, marks, color=colour)
        ax.annotate(name, (m[-1], shown[-1]), place, textcoords="offset points", ha="right",
                    fontsize=8, color=colour)
    every = np.concatenate([each.get_ydata() for each in ax.lines])
    ax.set(xscale="log", yscale="log", xlabel="samples m", ylim=(every.min() / 2, 2 * every.max()),
           title="Memory beyond the first batch, MB")
    ax.set_xticks(m, [f"{each:,.0f}" for each in m])
    ax.minorticks_off()
    return ax.figure


@styled
def draw_samples_needed(table: pd.DataFrame, teacher: float, d: int | None = None,
                        ax: Axes | None = None) -> Figure:
    """Accuracy against the number of samples used, a curve a λ: every run a dot, the mean a line.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns samples, lam, accuracy; a row a run.
    teacher : float
        Its accuracy.
    d : int, optional
        The number of features, marked.
    ax : Axes, optional
    """
    _table("table", table, ("samples", "lam", "accuracy"))
    ax = canvas.axes(ax, 5.4, 3.2)
    ax.axhline(teacher, color=INK, linewidth=0.8, linestyle="--")
    ax.text(table.samples.max(), teacher + 0.004, "teacher", ha="right", va="bottom", fontsize=8)
    if d is not None:
        ax.axvline(d, color=FAINT, linewidth=0.8)
        ax.text(d, table.accuracy.min(), f" m = d = {d}", fontsize=8, color="#777777", va="bottom")
    for colour, (lam, runs) in zip(COLOURS, table.groupby("lam"), strict=False):
        ax.plot(runs.samples, runs.accuracy, "o", color=colour, markersize=3, alpha=0.5)
        ax.plot(runs.groupby("samples").accuracy.mean(), color=colour, label=f"λ = {lam:g}")
    ticks = sorted(set(table.samples))
    ax.set(xscale="log", xlabel="samples m", title="Test accuracy", ylim=(None, teacher + 0.03))
    ax.set_xticks(ticks, [f"{m:,}" for m in ticks])
    ax.minorticks_off()
    ax.legend(loc="lower right")
    return ax.figure


@styled
def draw_costs(points: pd.DataFrame, predicted: pd.DataFrame, known: Sequence[int]) -> Figure:
    """Seconds of each part against d, measured and predicted, on log axes.

    Parameters
    ----------
    points : pandas.DataFrame
        Columns part, d, seconds: measured.
    predicted : pandas.DataFrame
        The same columns, from a model.
    known : sequence of int
        The sizes d from which the model took its constants; the others are drawn hollow.
    """
    for name, table in (("points", points), ("predicted", predicted)):
        _table(name, table, ("part", "d", "seconds"))
    parts = list(dict.fromkeys(points.part))
    axes = canvas.row(None, len(parts), 2.5 * len(parts), 2.7, bottom=0.18, top=0.87, wspace=0.3,
                      left=0.055)
    low = 0.4 * min(points.seconds.min(), predicted.seconds.min())
    high = 2.5 * max(points.seconds.max(), predicted.seconds.max())
    ticks = sorted(set(points.d))
    for ax, colour, part in zip(axes, COLOURS, parts, strict=False):
        model = predicted[predicted.part == part].sort_values("d")
        ax.plot(model.d, model.seconds, color=colour, linewidth=1)
        seen = points[points.part == part]
        used = seen.d.isin(list(known))
        ax.plot(seen.d[used], seen.seconds[used], "o", color=colour, label="used for the constants")
        ax.plot(seen.d[~used], seen.seconds[~used], "o", color=colour, markerfacecolor="white",
                label="predicted")
        ax.set(xscale="log", yscale="log", ylim=(low, high), xlabel="d", title=part)
        ax.set_xticks(ticks, [f"{d:g}" for d in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("seconds")
    axes[0].legend(loc="upper left")
    return axes[0].figure


@styled
def draw_budget(seconds: Mapping[str, float], memory: Mapping[str, float], capacity: float,
                name: str = "", *, figure: Figure | None = None) -> Figure:
    """What a run would take: time by part, and memory of a device by part, as shares of a bar.

    Parameters
    ----------
    seconds, memory : mapping of str to float
        Of each part; bytes for ``memory``.
    capacity : float
        Bytes that a device has.
    name : str
        Of what is drawn, above the time.
    figure : Figure, optional
        From an earlier call with as many parts.
    """
    validation.real("capacity", capacity, above=0.0)
    left, right = canvas.row(figure, 2, 9.6, 2.9, left=0.02, right=0.98, wspace=0.06, top=0.84,
                             bottom=0.02)
    total, bytes_ = sum(seconds.values()), sum(memory.values())
    fits = "fits" if bytes_ <= capacity else "does not fit"
    _shares(left, seconds, _TIMES, f"{name}: {_said(total, _TIMES)}".removeprefix(": "))
    _shares(right, memory, _SIZES, f"Memory of a device: {_said(bytes_, _SIZES)}, {fits} in "
                                   f"{_said(capacity, _SIZES)}")
    return left.figure


def _shares(ax: Axes, parts: Mapping[str, float], units: Sequence[tuple[float, str]],
            heading: str) -> None:
    """One bar in the shares of its parts, and a line of words for each."""
    if not parts or not all(np.isfinite(v) and v >= 0 for v in parts.values()):
        raise ValueError(f"parts must be a mapping to finite numbers >= 0, at least one, got "
                         f"{parts!r}.")
    total = sum(parts.values()) or 1.0
    canvas.frame(ax, xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    start = 0.0
    for k, (part, value) in enumerate(parts.items()):
        colour, share, y = COLOURS[k % len(COLOURS)], value / total, 0.6 - 0.13 * k
        line(ax, f"share {k}", [start, start + share], [0.85, 0.85], color=colour, linewidth=26,
             solid_capstyle="butt")
        line(ax, f"key {k}", [0.02], [y], "s", color=colour, markersize=7)
        words(ax, f"part {k}", 0.05, y, part, va="center")
        words(ax, f"value {k}", 0.72, y, _said(value, units), va="center", ha="right")
        words(ax, f"percent {k}", 0.92, y, f"{100 * share:.0f} %", va="center", ha="right")
        start += share
    canvas.title(ax, heading)
