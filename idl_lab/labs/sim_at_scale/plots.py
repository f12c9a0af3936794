"""SIM at scale: memory and samples that it needs, time that a model predicts and a clock saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, line, styled, words
from idl_lab.labs.kit.plots import array, level

_TIMES = ((31_557_600, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"),
          (1e-6, "µs"))
_SIZES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))

TITLES = {"accuracy": "Test accuracy", "fidelity": "Fidelity on fresh inputs"}


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
    """Memory of a process that reads a teacher's states, beside what keeping them would take.

    Parameters
    ----------
    samples : sequence of int
        Numbers of samples m, rising.
    peak : sequence of float
        Bytes that the process has held at its fullest, measured.
    raw : sequence of float
        Bytes of all states, computed.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the sizes of the arguments do not fit one another.
    """
    m = array("samples", np.asarray(samples), 1)
    ax = canvas.axes(ax)
    values = {}
    for name, given in (("peak", peak), ("raw", raw)):
        values[name] = array(name, np.asarray(given), 1) / 1e6
        if values[name].size != m.size:
            raise ValueError(f"{name} must hold one number a number of samples, {m.size}, got "
                             f"{values[name].size}.")
    ax.plot(m, values["peak"], "o-", color=COLOURS[0], label="summed batch by batch (measured)")
    ax.plot(m, values["peak"][0] + values["raw"], "--", color="#777777",
            label="and with all states kept (computed)")
    ax.set(xlabel="samples m", xlim=(0, 1.05 * m[-1]), title="Memory of the process, MB",
           ylim=(0, 1.25 * max(line.get_ydata().max() for line in ax.lines)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda each, _: f"{each:,.0f}"))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.legend(loc="upper left")
    return ax.figure


@styled
def draw_samples_needed(table: pd.DataFrame, teacher: float, images: int | None = None,
                        d: int | None = None, ax: Axes | None = None, *,
                        measure: str = "accuracy") -> Figure:
    """Accuracy or fidelity against the number of samples, a curve a λ: a dot a run, mean a line.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns samples, lam, and that of the measure; a row a run.
    teacher : float
        Its accuracy; its own fidelity is 1.
    images : int, optional
        How many the accuracies were measured on, for their standard error.
    d : int, optional
        The number of features, marked.
    ax : Axes, optional
    measure : {"accuracy", "fidelity"}
        The column that is drawn.
    """
    validation.choice("measure", measure, TITLES)
    _table("table", table, ("samples", "lam", measure))
    ax = canvas.axes(ax, 5.6, 3.4)
    if images is None:
        ax.axhline(teacher, color=INK, linestyle="--", linewidth=0.9, label="teacher")
    ends = [*(level(ax, teacher, images) if images is not None else [teacher]), *table[measure]]
    room = 0.1 * (max(ends) - min(ends))
    ticks = sorted(set(table.samples))
    ax.set(xscale="log", xlabel="samples m", title=TITLES[measure],
           ylim=(min(ends) - room, max(ends) + 2 * room))
    if d is not None:
        ax.axvline(d, color=FAINT, linewidth=0.8)
        ax.text(d, max(ends) + 2 * room, f" d = {d} features", fontsize=8, color="#777777",
                va="top")
    for colour, (lam, runs) in zip(COLOURS, table.groupby("lam"), strict=False):
        ax.plot(runs.samples, runs[measure], "o", color=colour, markersize=3, alpha=0.5)
        ax.plot(runs.groupby("samples")[measure].mean(), color=colour, label=f"λ = {lam:g}")
    ax.set_xticks(ticks, [f"{m:,}" for m in ticks])
    ax.minorticks_off()
    if measure == "accuracy":
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
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
    axes = canvas.row(None, len(parts), 2.1 * len(parts), 2.7, bottom=0.18, top=0.87, wspace=0.4,
                      left=0.075)
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
        canvas.frame(ax, xscale="log", yscale="log", ylim=(low, high), xlabel="d", title=part)
        ax.set_xticks(ticks, [f"{d:g}" for d in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("seconds")
    axes[0].legend(loc="upper left")
    return axes[0].figure


@styled
def draw_budget(seconds: Mapping[str, float], memory: Mapping[str, float], capacity: float,
                name: str = "", *, figure: Figure | None = None) -> Figure:
    """What a run would take: time by part, and memory of a device by part, on log axes.

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
    left, right = canvas.row(figure, 2, 8.4, 3.2, left=0.16, right=0.916, wspace=1.0, top=0.8,
                             bottom=0.1)
    _parts(left, seconds, _TIMES, (1e-6, 1e12), [1e-3, 1.0, 3600.0, 31_557_600.0])
    _parts(right, memory, _SIZES, (1e3, 1e16), [1e6, 1e9, 1e12, 1e15])
    total, bytes_ = sum(seconds.values()), sum(memory.values())
    canvas.title(left, f"Time: {_said(total, _TIMES)}")
    fits = "fits in" if bytes_ <= capacity else "more than"
    canvas.title(right, f"Memory of a device: {_said(bytes_, _SIZES)}, {fits} "
                        f"{_said(capacity, _SIZES)}")
    line(right, "capacity", [capacity, capacity], right.get_ylim(), "--", color=INK, linewidth=1)
    words(left, "name", -0.5, 1.2, name, fontsize=10, weight="bold")
    return left.figure


def _parts(ax: Axes, parts: Mapping[str, float], units: Sequence[tuple[float, str]],
           xlim: tuple[float, float], ticks: Sequence[float]) -> None:
    """A dot for each part and for the total, with the number beside it; none for nothing."""
    if not parts or not all(np.isfinite(v) and v >= 0 for v in parts.values()):
        raise ValueError(f"parts must be a mapping to finite numbers >= 0, at least one, got "
                         f"{parts!r}.")
    every = {**parts, "total": sum(parts.values())}
    if canvas.frame(ax, xscale="log", xlim=xlim, ylim=(len(every) - 0.5, -0.6)):
        ax.set_xticks(ticks, [f"1 {dict(units)[tick]}" for tick in ticks])
        ax.set_yticks(range(len(every)), every)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color=FAINT, linewidth=0.5, alpha=0.6)
    for k, (part, value) in enumerate(every.items()):
        colour = INK if part == "total" else COLOURS[k % len(COLOURS)]
        at = min(max(value, xlim[0]), xlim[1]) if value else np.nan  # the number beside it is true
        line(ax, f"dot {k}", [at], [k], "o", color=colour, markersize=8)
        words(ax, f"value {k}", 1.04, 1 - (k + 0.6) / (len(every) + 0.1), _said(value, units),
              va="center")
