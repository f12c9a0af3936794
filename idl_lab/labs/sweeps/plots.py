"""Pictures of a sweep's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, styled

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
    groups = [(", ".join(f"{name}={_word(value)}" for name, value in
                         zip(by, values, strict=True)), rows) for values, rows in _groups(table, by)]
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
