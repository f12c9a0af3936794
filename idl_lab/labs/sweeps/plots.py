"""Pictures of a sweep's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.sweeps.problems import interval

DECADES = 100  # values this many times apart want a logarithmic axis
MARKS = "osD^vP"


@styled
def draw_runs(table: pd.DataFrame, number: str, against: str, by: Sequence[str] = ()) -> Figure:
    """A recorded number against a swept parameter: every run a dot, lines through the medians.

    What lies between the lowest and the highest run of a point is shaded. An axis is logarithmic
    where its values are positive and span two decades; parameters that are not all numbers
    stand side by side.

    Parameters
    ----------
    table : pandas.DataFrame
        A row a run, as `results` gives it.
    number, against : str
        Its columns of the number and of the parameter.
    by : sequence of str
        Columns of other parameters: a line for each combination of their values. Where there are
        more than six, all lines are grey and one is drawn through the median of all runs.

    Raises
    ------
    TypeError, ValueError
        If there are no such columns, or nothing to draw.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a pandas.DataFrame with a row a run, got "
                        f"{type(table).__name__}.")
    for name in (number, against, *by):
        validation.choice("column", name, table.columns)
    table = table.assign(**{number: pd.to_numeric(table[number], errors="coerce").astype(float)})
    table = table[np.isfinite(table[number])]
    if table.empty:
        raise ValueError(f"no run recorded a finite number as {number!r}.")
    places, names = _places(table[against])
    table = table.assign(**{"its place": [places[_key(value)] for value in table[against]]})
    groups = [(", ".join(f"{name}={_word(value)}" for name, value in zip(by, values, strict=True)),
               rows) for values, rows in _groups(table, by)]
    many = len(groups) > len(COLOURS)
    named = bool(by) and not many
    ax = canvas.axes(None, 6.2 if named else 4.8, 3.2)
    ax.set_position((0.13, 0.15, 0.6 if named else 0.83, 0.74))
    for k, (label, rows) in enumerate(groups):
        colour = FAINT if many else COLOURS[k]
        _line(ax, rows, number, colour, label, MARKS[k % len(MARKS)], thin=many)
    if many:
        _line(ax, table, number, INK, "", "o", thin=False, dots=False)
    ax.set(xlabel=against, ylabel=number, title=_title(groups, many))
    if names is not None:
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.4, len(names) - 0.6)
    else:
        _logarithmic(ax.xaxis, table["its place"])
    _logarithmic(ax.yaxis, table[number])
    if named:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.4)
    return ax.figure


def _line(ax: Any, rows: pd.DataFrame, number: str, colour: str, label: str, mark: str, *,
          thin: bool, dots: bool = True) -> None:
    at = rows.groupby("its place")[number]
    middle, low, high = at.median(), at.min(), at.max()
    if dots and not thin:
        ax.plot(rows["its place"], rows[number], mark, color=colour, markersize=3, alpha=0.5,
                linestyle="none")
    ax.plot(middle.index, middle, marker=mark, color=colour, label=label,
            markersize=3 if thin else 5, linewidth=0.8 if thin else 1.6)
    if at.size().max() > 1 and not thin:
        ax.fill_between(middle.index, low, high, color=colour, alpha=0.12, linewidth=0)


def _title(groups: Sequence[tuple[str, pd.DataFrame]], many: bool) -> str:
    most = max(int(rows.groupby("its place").size().max()) for _, rows in groups)
    if many:
        return f"{len(groups)} settings of the others (grey), median of all"
    return "a run each" if most == 1 else f"median of {most} runs, lowest to highest"


def _groups(table: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple, pd.DataFrame]]:
    keys = [tuple(_key(row[name]) for name in by) for _, row in table.iterrows()]
    ordered = sorted(dict.fromkeys(keys), key=lambda key: [_rank(value) for value in key])
    return [(key, table[[k == key for k in keys]]) for key in ordered]


def _places(values: pd.Series) -> tuple[dict[Any, float], list[str] | None]:
    """Where each value stands on the axis, and its name there where it is no number."""
    keys = sorted({_key(value) for value in values}, key=_rank)
    if all(isinstance(key, float) for key in keys):
        return {key: key for key in keys}, None
    return {key: float(k) for k, key in enumerate(keys)}, [_word(key) for key in keys]


def _key(value: Any) -> Any:
    """A value that can be looked up: a float for a number, None for nothing, else a text."""
    if value is None or value is pd.NA or isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return float(value) if isinstance(value, int | float | np.number) else str(value)


def _rank(key: Any) -> tuple[int, Any]:
    """Numbers in their order, then texts, then nothing."""
    return (0, key) if isinstance(key, float) else (2, "") if key is None else (1, key)


def _word(key: Any) -> str:
    return "none" if key is None else f"{key:g}" if isinstance(key, float) else str(key)


def _logarithmic(axis: Axis, values: pd.Series) -> None:
    if values.min() > 0 and values.max() >= DECADES * values.min():
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        canvas.log_axis(axis)


@styled
def draw_difference(runs: pd.DataFrame, number: str, one: Mapping[str, Any],
                    other: Mapping[str, Any], seeds: int, *, figure: Figure | None = None,
                    ) -> Figure:
    """Whether two settings differ, as the seeds add up.

    Left, both settings' runs by seed; right, the mean of the paired differences of the first R
    seeds with its 95 % interval (`interval`), for every R.

    Parameters
    ----------
    runs : pandas.DataFrame
        A row a run, with a column ``seed``.
    number : str
        The column to compare.
    one, other : mapping of str to object
        The settings: values of columns. Both were run with the same seeds.
    seeds : int
        How many of these are looked at, at least 1; more than there are means all.
    figure : Figure, optional
        From an earlier call.

    Raises
    ------
    ValueError
        If a column is not there, or a setting was not run with each seed.
    """
    validation.integer("seeds", seeds, at_least=1)
    for name in (number, "seed", *one, *other):
        validation.choice("column", name, runs.columns)
    a, b = (_of_setting(runs, setting)[number].astype(float) for setting in (one, other))
    if len(a) < 1 or not a.index.equals(b.index):
        raise ValueError(f"{_named(one)} and {_named(other)} must be run with the same seeds, got "
                         f"{list(a.index)} and {list(b.index)}.")
    d, used = (a - b).to_numpy(), min(seeds, len(a))
    counts = np.arange(2, len(d) + 1)
    found = np.array([interval(d[:count]) for count in counts]).reshape(-1, 2)
    axes = canvas.row(figure, 2, 8.4, 3.0, left=0.085, right=0.985, bottom=0.16, top=0.76,
                      wspace=0.25)
    at, numbers = np.arange(1, len(d) + 1), np.concatenate([a, b])
    spread = max(np.ptp(numbers), 1e-12)
    reach = max(2 * np.abs(d).max(), 1e-12)
    frame(axes[0], xlabel="run", ylabel=number, xlim=(0.5, len(d) + 0.5),
          ylim=(numbers.min() - 0.1 * spread, numbers.max() + 0.1 * spread))
    if frame(axes[1], xlabel="runs of each setting", ylabel="difference",
             xlim=(0.5, len(d) + 0.5), ylim=(-reach, reach)):
        axes[1].axhline(0, color=INK, linewidth=0.8)
    for colour, values, setting, mark in ((COLOURS[0], a, "one", "o"), (COLOURS[1], b, "two", "s")):
        line(axes[0], f"{setting} later", at, values, mark, color=colour, markersize=4, alpha=0.25)
        line(axes[0], setting, at[:used], values[:used], mark, color=colour, markersize=5)
        line(axes[0], f"{setting} mean", [0.5, used + 0.5], [values[:used].mean()] * 2,
             color=colour, linewidth=1)
    line(axes[1], "interval", *canvas.stems(counts, found[:, 0] - found[:, 1],
                                            found[:, 0] + found[:, 1]), color=FAINT, linewidth=3)
    line(axes[1], "mean", counts, found[:, 0], "o-", color=INK, markersize=3, linewidth=1)
    mean, half = interval(d[:used])
    seen = [used, used], [mean - min(half, 9 * reach), mean + min(half, 9 * reach)]
    line(axes[1], "now", *seen, color=COLOURS[2], linewidth=3)
    title(axes[0], f"{_named(one)} (●) and {_named(other)} (■)")
    verdict = "a difference" if abs(mean) > half else "may be chance"
    about = "with one seed nothing can be said" if used == 1 else (
        f"{mean:+.3g} ± {half:.2g}: {verdict}")
    title(axes[1], "mean difference, 95 % interval")
    words(axes[0], "verdict", -0.17, 1.2, f"{number} after {used} of {len(d)} seeds: {about}",
          fontsize=10, weight="bold")
    return axes[0].figure


def _of_setting(runs: pd.DataFrame, setting: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in setting.items():
        runs = runs[[_key(found) == _key(value) for found in runs[name]]]
    return runs.set_index("seed").sort_index()


def _named(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_word(_key(value))}" for name, value in setting.items())


@styled
def draw_best_of(table: pd.DataFrame, mean: float) -> Figure:
    """The best of K runs: the score that it was chosen by, and the one that it has elsewhere.

    Parameters
    ----------
    table : pandas.DataFrame
        From `best_of`.
    mean : float
        Of ``judged_by`` over all runs: what a run taken at random has.

    Raises
    ------
    ValueError
        If it is no such table.
    """
    for name in ("chosen_by", "judged_by"):
        validation.choice("column", name, table.columns)
    ax = canvas.axes(None)
    for name, colour, label in (("chosen_by", COLOURS[1], "by which it was chosen"),
                                ("judged_by", COLOURS[0], "on other images")):
        ax.plot(table.index, table[name], color=colour, label=label)
    ax.axhline(mean, color=INK, linewidth=0.8, linestyle=":", label="mean of all, on those")
    ax.set(xlabel="runs to choose from", ylabel="accuracy", title="The best of many runs",
           xscale="log" if len(table) >= DECADES else "linear")
    if len(table) >= DECADES:
        canvas.log_axis(ax.xaxis)
    ax.legend(loc="best")
    return ax.figure
