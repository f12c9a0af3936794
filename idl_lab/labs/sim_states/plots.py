"""A teacher's states, the convex problem that they make, and what the bound on A costs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import (
    Blocks,
    array,
    draw_rescaled_rows,
    fidelity_axis,
    lacking,
    name_blocks,
)

_WAYS = {True: ("rescaled", COLOURS[0]), False: ("not rescaled", COLOURS[1])}


@styled
def draw_teacher_states(X: Tensor, labels: Tensor, blocks: Blocks, ax: Axes | None = None
                        ) -> Figure:
    """States as a picture: a row a sample, sorted by class; a column a state, layer by layer.

    Each layer is shown in shades of its own largest value.

    Parameters
    ----------
    X : Tensor, shape (m, n)
        Activations, as ReLU leaves them; the shade is the size.
    labels : Tensor, shape (m,)
        Class of each sample.
    blocks : sequence of (str, int)
        Names and sizes of the layers, in the order of the states.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the sizes of the arguments do not fit one another.
    """
    values, classes = array("X", X, 2), array("labels", labels, 1)
    sizes = [validation.integer("size", size) for _, size in blocks]
    if sum(sizes) != values.shape[1] or len(classes) != len(values):
        raise ValueError(f"X of shape {values.shape} needs blocks whose sizes add up to "
                         f"{values.shape[1]} and {len(values)} labels, got {sum(sizes)} and "
                         f"{len(classes)}.")
    ax = canvas.axes(ax, 6.4, 3.8)
    order, ends = np.argsort(classes, kind="stable"), np.cumsum(sizes)
    shades = np.hstack([np.abs(part) / max(np.abs(part).max(), 1e-12)
                        for part in np.split(values[order], ends[:-1], axis=1)])
    ax.imshow(shades, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1,
              extent=(0, len(shades[0]), len(shades), 0))
    kinds, first = np.unique(classes[order], return_index=True)
    for at in ends[:-1]:
        ax.axvline(at, color=INK, linewidth=0.8)
    for at in first[1:]:
        ax.axhline(at, color=FAINT, linewidth=0.5)
    middles = (first + np.append(first[1:], len(classes))) / 2
    ax.set_xticks(ends - np.array(sizes) / 2, [name for name, _ in blocks])
    ax.set_yticks(middles, [f"{kind:g}" for kind in kinds])
    ax.tick_params(length=0)
    ax.set(ylabel="samples by class", title="Activations X of the teacher")
    return ax.figure


@styled
def draw_features(Phi: Tensor, blocks: Blocks) -> Figure:
    """How often each feature is on, and the spectrum of ΦᵀΦ.

    Parameters
    ----------
    Phi : Tensor, shape (m, d)
        Features that are on where they are positive.
    blocks : sequence of (str, int)
        Names and sizes of the runs of features.

    Raises
    ------
    ValueError
        If the sizes of the arguments do not fit one another.
    """
    values = array("Phi", Phi, 2)
    sizes = [validation.integer("size", size) for _, size in blocks]
    if sum(sizes) != values.shape[1]:
        raise ValueError(f"blocks must have sizes that add up to {values.shape[1]}, the number of "
                         f"features, got {sum(sizes)}.")
    left, right = canvas.row(None, 2, 8.4, 3.0, [1.3, 1], left=0.075, right=0.975, bottom=0.16,
                             top=0.88, wspace=0.22)
    share, ends = (values > 0).mean(axis=0), np.cumsum(sizes)
    same = (share == 0) | (share == 1)
    for some, colour in ((~same, COLOURS[0]), (same, COLOURS[1])):
        left.plot(np.flatnonzero(some) + 0.5, share[some], ".", color=colour, markersize=5,
                  clip_on=False)
    for at in ends[:-1]:
        left.axvline(at, color=INK, linewidth=0.8)
    left.set(title="How often a feature is on", xlim=(0, ends[-1]), ylim=(-0.02, 1.02))
    left.set_xticks(ends - np.array(sizes) / 2, [name for name, _ in blocks])
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.tick_params(axis="x", length=0)
    spectrum = np.linalg.eigvalsh(values.T @ values)[::-1]
    floor = 1e-12 * spectrum[0]  # dependent features differ by float32's rounding
    zero, at = spectrum <= floor, np.arange(1, len(spectrum) + 1)
    shown = np.where(zero, 0.1 * floor, spectrum)
    for some, colour in ((~zero, COLOURS[0]), (zero, COLOURS[1])):
        right.plot(at[some], shown[some], ".", color=colour, markersize=4)
    frame(right, yscale="log", title="Eigenvalues of ΦᵀΦ, the largest first",
          xlim=(0, len(spectrum) + 2))
    if zero.any():
        right.annotate(f"{zero.sum()} zero, to rounding", (at[zero][0], 0.1 * floor), (-8, 0),
                       textcoords="offset points", color=COLOURS[1], fontsize=8, ha="right",
                       va="center")
    return left.figure


@styled
def draw_segments(t: Tensor, curves: Mapping[str, Tensor]) -> Figure:
    """Objectives along a segment, side by side; shaded where a curve is above its chord.

    Parameters
    ----------
    t : Tensor, shape (T,)
        From 0, one end, to 1, the other.
    curves : mapping of str to Tensor, shape (T,)
        Titles and values.

    Raises
    ------
    ValueError
        Without a curve, and if their lengths differ from that of t.
    """
    at = array("t", t, 1)
    if not curves:
        raise ValueError("curves must hold at least one, got none.")
    axes = canvas.row(None, len(curves), 4.1 * len(curves), 2.9, left=0.2 / (1 + len(curves)),
                      right=0.98, bottom=0.17, wspace=0.28)
    for ax, (name, curve) in zip(axes, curves.items(), strict=True):
        values = array(name, curve, 1)
        if len(values) != len(at):
            raise ValueError(f"{name!r} must have {len(at)} values, one for each t, got "
                             f"{len(values)}.")
        chord = (1 - at) * values[0] + at * values[-1]
        ax.fill_between(at, chord, values, where=values > chord, color=COLOURS[1], alpha=0.2,
                        linewidth=0, interpolate=True)
        ax.plot(at, values, color=COLOURS[0], label="along the segment")
        ax.plot(at, chord, "--", color=INK, linewidth=0.9, label="chord")
        ax.plot(at[[0, -1]], values[[0, -1]], "o", color=INK, markersize=4)
        low, high = min(0.0, values.min()), values.max()
        ax.set(xlabel="t", title=name, xlim=(-0.03, 1.03),
               ylim=(low - 0.04 * (high - low), high + 0.25 * (high - low)))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.legend(loc="upper center", ncols=2)
    return axes[0].figure


@styled
def draw_duality(away: Tensor, upper: Tensor, lower: Tensor, ax: Axes | None = None) -> Figure:
    """Upper and lower bounds of an optimum on the way to it, on log axes, the gap shaded.

    Parameters
    ----------
    away : Tensor, shape (T,)
        How far a point is from the answer, falling; above 0.
    upper, lower : Tensor, shape (T,)
        The objective at each point, and the dual bound; of those that are not above 0 nothing
        is drawn.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the bounds have not a value for each point.
    """
    at = array("away", away, 1)
    curves = {"upper": array("upper", upper, 1), "lower": array("lower", lower, 1)}
    for name, values in curves.items():
        if len(values) != len(at):
            raise ValueError(f"{name} must have {len(at)} values, one for each point, got "
                             f"{len(values)}.")
        curves[name] = np.where(values > 0, values, np.nan)
    ax = canvas.axes(ax, 6.0, 3.4)
    high, low = curves.values()
    ax.fill_between(at, low, high, color=FAINT, alpha=0.3, linewidth=0, label="duality gap")
    ax.plot(at, high, color=COLOURS[0], label="objective: the optimum is not above")
    ax.plot(at, low, color=COLOURS[1], label="dual bound: the optimum is not below")
    frame(ax, xscale="log", yscale="log", xlim=(at[0], at[-1]),
          xlabel="t, how far from the answer", title="What one point knows of the optimum")
    ax.legend(loc="upper right")
    return ax.figure


@styled
def draw_answers(answers: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """A student's outputs against its teacher's, a picture for each student.

    Parameters
    ----------
    answers : mapping of str to pair of Tensor, shape (m, q)
        Titles; the teacher's outputs and the student's, of the same samples. All are drawn.

    Raises
    ------
    ValueError
        Without a student, and if two outputs differ in shape.
    """
    if not answers:
        raise ValueError("answers must hold at least one student, got none.")
    axes = canvas.row(None, len(answers), 2.1 * len(answers), 2.5, left=0.3 / len(answers),
                      right=0.99, bottom=0.19, top=0.88, wspace=0.24)
    for ax, (name, pair) in zip(axes, answers.items(), strict=True):
        wanted, given = (array(name, T, 2) for T in pair)
        if wanted.shape != given.shape:
            raise ValueError(f"{name!r} must have outputs of one shape, got {wanted.shape} and "
                             f"{given.shape}.")
        ends = wanted.min(), wanted.max()
        ax.plot(ends, ends, "--", color=INK, linewidth=0.9)
        ax.plot(wanted.ravel(), given.ravel(), ".", color=COLOURS[0], markersize=2, alpha=0.5)
        room = 0.06 * (ends[1] - ends[0])
        ax.set(title=name, xlabel="the teacher says", xlim=(ends[0] - room, ends[1] + room))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.yaxis.set_major_locator(MaxNLocator(4))
    axes[0].set_ylabel("the student says")
    return axes[0].figure


@styled
def draw_bound(table: pd.DataFrame, before: Tensor, after: Tensor, blocks: Blocks, kappa: float,
               *, figure: Figure | None = None) -> Figure:
    """What ‖A‖∞ ≤ κ costs: the teacher's row sums, the misfit of each layer, the fidelity.

    Parameters
    ----------
    table : pandas.DataFrame
        From `problems.bound_study`.
    before, after : Tensor, shape (n, n)
        The teacher's own A, and A in units in which ‖A‖∞ ≤ κ.
    blocks : sequence of (str, int)
        Names and sizes of the layers; ``table`` has a column of each name.
    kappa : float
        One of the table's.
    figure : Figure, optional
        From an earlier call.

    Raises
    ------
    ValueError
        If κ is not in the table.
    """
    kappas = sorted(set(table.index.get_level_values("kappa")))
    if kappa not in kappas:
        raise ValueError(f"kappa must be one of the table's {kappas}, got {kappa}.")
    left, middle, right = canvas.row(figure, 3, 8.4, 3.9, left=0.07, right=0.99, bottom=0.21,
                                     top=0.82, wspace=0.32)
    draw_rescaled_rows(before, after, blocks, kappa, left)
    title(left, "The teacher's row sums of |A|")
    _misfits(middle, table, [name for name, _ in blocks], kappa)
    _fidelities(right, table, kappas, kappa)
    if figure is None:  # below the pictures, where no curve and no cursor comes
        left.figure.legend(*right.get_legend_handles_labels(), loc="lower right", ncols=4)
    here = table.loc[kappa]
    unsolved = "" if here["solved"].all() else "; a solve stopped early"
    points = [f"{here.loc[way, 'fidelity']:.4f} {name} ({100 * here.loc[way, 'accuracy']:.1f} % "
              f"right)" for way, (name, _) in _WAYS.items()]
    words(left, "verdict", -0.2, 1.2, f"κ = {kappa:g}: fidelity {', '.join(points)}{unsolved}",
          fontsize=10, weight="bold")
    return left.figure


def _misfits(ax: Axes, table: pd.DataFrame, names: Sequence[str], kappa: float) -> None:
    """The share of each layer's variance that is left unexplained, at one κ."""
    misfits = table[list(names)].clip(lower=1e-8)
    low, high = 0.3 * misfits.min(axis=None), 3 * misfits.max(axis=None)
    if frame(ax, yscale="log", xlim=(-0.5, len(names) - 0.5), ylim=(low, high)):
        canvas.log_axis(ax.yaxis, lambda share: f"{canvas.power(100 * share)} %")
        ax.tick_params(axis="x", length=0)
        ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.5)
    at = np.arange(len(names))
    name_blocks(ax.xaxis, at, [(name, 1) for name in names])
    for (way, (name, colour)), mark in zip(_WAYS.items(), "os", strict=True):
        line(ax, name, at, misfits.loc[(kappa, way)].to_numpy(), mark, color=colour, markersize=7,
             fillstyle="full" if way else "none")
    title(ax, "Unexplained, by layer")


def _fidelities(ax: Axes, table: pd.DataFrame, kappas: Sequence[float], kappa: float) -> None:
    """The fidelity at every κ, with and without rescaling, and rings at the one that is chosen."""
    lacks = lacking(table["fidelity"])
    low, high = (10.0 ** end for end in (np.floor(np.log10(lacks.min()) - 0.2),
                                         np.ceil(np.log10(lacks.max()) + 0.2)))
    if frame(ax, xlabel="κ", yscale="log", xlim=(min(kappas) - 0.06, max(kappas) + 0.06),
             ylim=(high, low)):
        fidelity_axis(ax.yaxis)
        ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.5)
    for (way, (name, colour)), mark in zip(_WAYS.items(), "os", strict=True):
        curve = table.xs(way, level="rescaled")["fidelity"].sort_index()
        line(ax, name, curve.index.to_numpy(float), lacking(curve), f"{mark}-", color=colour,
             label=name, markersize=4)
    # Rings, since a bar across the picture would hide the dots.
    line(ax, "kappa", [kappa, kappa], lacking([table.loc[(kappa, way), "fidelity"]
                                               for way in _WAYS]),
         "o", color=INK, markersize=11, fillstyle="none")
    title(ax, "Fidelity on fresh inputs")
