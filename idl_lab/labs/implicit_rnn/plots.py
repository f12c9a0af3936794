"""Sequences: what a recurrent model reads, predicts and remembers, and what its solves cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title
from idl_lab.labs.kit.plots import array


@styled
def draw_reading(pixels: Tensor, states: Tensor, scores: Tensor,
                 steps: Mapping[str, Sequence[int]], time: int | None = None,
                 label: int | None = None, *, figure: Figure | None = None) -> Figure:
    """A recurrent model reading an image row by row: rows seen, state, scores, solver steps.

    Parameters
    ----------
    pixels : Tensor, shape (rows, w)
        In [0, 1]; row t is the input of time step t.
    states : Tensor, shape (rows, n)
        The solved state x_t of each time step.
    scores : Tensor, shape (rows, q)
        The prediction that each hidden state would give.
    steps : mapping of str to sequence of int
        Solver steps at each time step, by the way the solve is started.
    time : int, optional
        The last row read; all by default.
    label : int, optional
        The true class.
    figure : Figure, optional
        From an earlier call.
    """
    image, course, marks = (array(name, v, 2) for name, v in (
        ("pixels", pixels), ("states", states), ("scores", scores)))
    time is None or validation.integer("time", time, at_least=0)
    counts = _same_length(steps, len(image))
    at = len(image) - 1 if time is None else min(time, len(image) - 1)
    axes = canvas.row(figure, 4, 8.4, 2.7, [0.8, 1.15, 1.1, 1.25], left=0.01, bottom=0.18,
                      right=0.985, top=0.87, wspace=0.34)

    if frame(axes[0], xticks=[], yticks=[]):
        axes[0].spines[:].set_visible(False)
    rows = np.arange(len(image))[:, None]
    seen = np.where(rows <= at, 1 - image, 1 - 0.15 * image)  # rows to come are pale
    canvas.picture(axes[0], "image", seen, cmap="gray", vmin=0, vmax=1)
    line(axes[0], "edge", [-0.5, image.shape[1] - 0.5], [at + 0.5] * 2, color=COLOURS[1])
    title(axes[0], f"rows 0–{at}" + ("" if label is None else f" of a {label}"))

    n, reach = course.shape[1], max(np.abs(course).max(), 1e-9)
    canvas.picture(axes[1], "course", np.where(rows <= at, course, 0).T / reach, vmin=-1, vmax=1,
                   aspect="auto", interpolation="nearest",
                   extent=(-0.5, len(image) - 0.5, n, 0))
    axes[1].yaxis.set_major_locator(MaxNLocator(5, integer=True)) if figure is None else None
    frame(axes[1], xlim=(-0.5, len(image) - 0.5), ylim=(n, 0), xlabel="time step (row)",
          ylabel="component of x")
    title(axes[1], "solved state x")

    best, classes = marks[at].argmax(), np.arange(marks.shape[1])
    if frame(axes[2], xticks=tuple(classes), yticks=[], xlabel="class", ylim=(-1.1, 1.1),
             xlim=(-0.7, len(classes) - 0.3)):
        axes[2].axhline(0, color=INK, linewidth=0.8)
    bars = marks[at] / max(np.abs(marks).max(), 1e-9)
    line(axes[2], "scores", *canvas.stems(classes, 0, bars), color=FAINT, linewidth=8,
         solid_capstyle="butt")
    line(axes[2], "best", [best, best], [0, bars[best]], color=COLOURS[0], linewidth=8,
         solid_capstyle="butt")
    title(axes[2], f"row {at}: it says {best}")

    top = 1.25 * max(max(count) for count in counts.values())
    frame(axes[3], xlim=(-0.5, len(image) - 0.5), ylim=(0, top), xlabel="time step (row)",
          ylabel="solver steps")
    for colour, (name, count) in zip(COLOURS, counts.items(), strict=False):
        line(axes[3], f"all {name}", np.arange(len(count)), count, "-", color=colour, alpha=0.3)
        line(axes[3], f"read {name}", np.arange(at + 1), count[:at + 1], "o-", color=colour,
             label=name, markersize=4)
    axes[3].get_legend() or axes[3].legend(loc="upper right", ncols=len(counts))
    title(axes[3], "steps: " + ", ".join(
        f"{name} {int(c[:at + 1].sum())}" for name, c in counts.items()))
    return axes[0].figure


@styled
def draw_forecast(series: Tensor, predictions: Mapping[str, Tensor], spiky: Tensor | None = None,
                  ax: Axes | None = None) -> Figure:
    """A stretch of a series with what models predicted, each from the values before.

    Parameters
    ----------
    series : Tensor, shape (points,)
    predictions : mapping of str to Tensor, shape (points,)
    spiky : Tensor of bool, shape (points,), optional
        Regions to shade.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the sizes of the arguments do not fit one another.
    """
    ax, truth = canvas.axes(ax, 8.4, 3.0), array("series", series, 1)
    at = np.arange(len(truth))
    for name, values in predictions.items():
        if len(array(name, values, 1)) != len(truth):
            raise ValueError(f"{name!r} must have as many points as the series, {len(truth)}, got "
                             f"{len(values)}.")
    if spiky is not None:
        ax.fill_between(at, 0, 1, where=array("spiky", spiky, 1) > 0, color=COLOURS[5],
                        alpha=0.2, linewidth=0, transform=ax.get_xaxis_transform(), label="spiky")
    ax.plot(at, truth, ".", color=INK, markersize=3, label="series")
    for colour, (name, values) in zip(COLOURS, predictions.items(), strict=False):
        ax.plot(at, array(name, values, 1), color=colour, linewidth=1.1, label=name)
    ax.set(xlabel="point", ylabel="value", xlim=(0, len(truth) - 1))
    ax.set_position((0.08, 0.16, 0.9, 0.7))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6)
    return ax.figure


@styled
def draw_steps(series: Tensor, steps: Mapping[str, Sequence[int]]) -> Figure:
    """A series and, below it, the solver's steps at each of its time steps.

    Parameters
    ----------
    series : Tensor, shape (time,)
    steps : mapping of str to sequence of int
        By the way the solve is started.
    """
    values = array("series", series, 1)
    counts = _same_length(steps, len(values))
    figure = canvas._new(8.4, 3.4)
    above, below = figure.add_axes((0.08, 0.62, 0.9, 0.28)), figure.add_axes((0.08, 0.14, 0.9, 0.4))
    above.plot(values, color=INK, linewidth=1)
    above.set(ylabel="input u", xticklabels=[], xlim=(0, len(values) - 1))
    for colour, (name, count) in zip(COLOURS, counts.items(), strict=False):
        below.step(np.arange(len(count)), count, where="mid", color=colour, linewidth=1,
                   label=f"{name}: {int(count.sum())} steps")
    below.set(xlabel="time step", ylabel="solver steps", xlim=(0, len(values) - 1),
              ylim=(0, None))
    below.legend(loc="lower center", bbox_to_anchor=(0.5, 0.97), ncols=len(counts))
    return figure


@styled
def draw_memory(responses: Mapping[str, Tensor], ax: Axes | None = None) -> Figure:
    """How much of a hidden state is left after some time steps, on a logarithmic axis.

    Parameters
    ----------
    responses : mapping of str to Tensor, shape (time,)
        The size of ∂h_t/∂h_0 for t = 0, 1, …, by model.
    ax : Axes, optional

    Raises
    ------
    ValueError
        Without a model.
    """
    if not responses:
        raise ValueError("responses must hold at least one model's, got none.")
    ax = canvas.axes(ax, 5.6, 3.2)
    for colour, (name, response) in zip(COLOURS, responses.items(), strict=False):
        ax.plot(array(name, response, 1), color=colour, label=name)
    ax.axhline(1, color=FAINT, linewidth=0.8, zorder=0)
    frame(ax, yscale="log", xlabel="time steps since", title="Memory",
          ylabel=r"size of $\partial h_t/\partial h_0$")
    ax.legend(loc="best")
    return ax.figure


def _same_length(steps: Mapping[str, Sequence[int]], length: int) -> dict[str, np.ndarray]:
    counts = {name: array(name, count, 1) for name, count in steps.items()}
    if not counts:
        raise ValueError("steps must hold at least one way to start, got none.")
    for name, count in counts.items():
        if len(count) != length:
            raise ValueError(f"{name!r} must hold one count for each of the {length} time steps, "
                             f"got {len(count)}.")
    return counts
