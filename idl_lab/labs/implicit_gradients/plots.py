"""Gradients of an equilibrium: how exact each adjoint is, where it points, what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array

_LOW, _HIGH = -12, 2  # decades of the relative error that are shown; names stand above them


def _curves(name: str, curves: Mapping[str, Sequence[float]], x: np.ndarray) -> dict:
    """The curves as arrays, each as long as ``x``."""
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError(f"{name} must be a mapping with at least one curve, got {curves!r}.")
    curves = {key: array(f"{name}[{key!r}]", values, 1) for key, values in curves.items()}
    for key, values in curves.items():
        if values.size != x.size:
            raise ValueError(f"{name}[{key!r}] must hold one number a point of the axis, {x.size}, "
                             f"got {values.size}.")
    return curves


def _names(ax: Axes, names: Sequence[str], x: float = 0.98, y: float = 0.97) -> None:
    """The curves' names in their colours, below one another."""
    for k, name in enumerate(names):
        words(ax, f"name {k}", x, y - 0.075 * k, name, ha="right" if x > 0.5 else "left", va="top",
              fontsize=8, color=COLOURS[k % len(COLOURS)])


def _widths(count: int) -> list[float]:
    """Thick first: where curves coincide, both are seen."""
    return [max(3.6 - 1.2 * k, 1.2) for k in range(count)]


@styled
def draw_adjoint(terms: Tensor, w: Tensor, ax: Axes | None = None) -> Figure:
    """The sums of the first terms of w = g + AᵀΔg + (AᵀΔ)²g + …, a bar each, and w itself.

    Parameters
    ----------
    terms : Tensor, shape (k, n)
        One sample's terms, g first.
    w : Tensor, shape (n,)
        The adjoint vector, drawn as rings.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If the terms have another size than w.
    """
    parts, goal = array("terms", terms, 2), array("w", w, 1)
    if parts.shape[1] != goal.size:
        raise ValueError(f"terms must have a column for each of the {goal.size} entries of w, got "
                         f"{parts.shape[1]}.")
    ax, (count, n) = canvas.axes(ax, 6.4, 2.8), parts.shape
    for k, sums in enumerate(np.cumsum(parts, axis=0)):
        ax.bar(np.arange(1, n + 1) + 0.8 * ((k + 0.5) / count - 0.5), sums, 0.8 / count,
               color=COLOURS[0], alpha=0.25 + 0.75 * k / max(count - 1, 1),
               label="g" if k == 0 else f"{k + 1} terms")
    ax.plot(np.arange(1, n + 1), goal, "o", color=INK, markerfacecolor="none", markersize=6,
            label="w")
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlabel="state i", xlim=(0.4, n + 0.6))
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.set_position((0.09, 0.17, 0.89, 0.71))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=count + 1)
    return ax.figure


@styled
def draw_gradient_errors(steps: Sequence[int], errors: Mapping[str, Sequence[float]],
                         step: int | None = None, ax: Axes | None = None) -> Figure:
    """Relative error of each gradient against the number of fixed-point steps k, log scale.

    Parameters
    ----------
    steps : sequence of int
        The values of k, rising.
    errors : mapping of str to sequence of float
        ‖gradient − exact‖ / ‖exact‖ of each way at each k; below 1e-12 they lie on the axis.
    step : int, optional
        Marked by a vertical line.
    ax : Axes, optional
    """
    k = array("steps", steps, 1)
    curves = _curves("errors", errors, k)
    step is None or validation.integer("step", step)
    ax = canvas.axes(ax)
    frame(ax, xlim=(0, k[-1] + 1), xlabel="fixed-point steps k", yscale="log",
          ylim=(10.0 ** _LOW / 3, 10.0 ** (_HIGH + 4)), title="Relative error")
    _by_steps(ax, k, {name: np.where(np.isfinite(c), np.maximum(c, 10.0 ** _LOW), np.nan)
                      for name, c in curves.items()}, step, (10.0 ** _LOW / 3, 10.0 ** _HIGH))
    _names(ax, list(curves))
    return ax.figure


def _by_steps(ax: Axes, k: np.ndarray, curves: Mapping[str, np.ndarray], step: int | None,
              mark: tuple[float, float]) -> None:
    """A curve a gradient, the first one pale, and a vertical line at the chosen step."""
    for i, (values, width) in enumerate(zip(curves.values(), _widths(len(curves)), strict=True)):
        line(ax, f"curve {i}", k, values, color=COLOURS[i % len(COLOURS)], linewidth=width,
             alpha=0.45 if i == 0 and len(curves) > 1 else 1.0)
    line(ax, "step", [] if step is None else [step, step], [] if step is None else list(mark),
         "--", color=INK, linewidth=0.8)


@styled
def draw_gradient_directions(exact: Tensor, gradients: Mapping[str, Tensor],
                             ax: Axes | None = None) -> Figure:
    """Each gradient as an arrow, beside the exact one, which lies along the horizontal axis.

    An arrow's angle is its angle with the exact gradient, in whatever dimension; its length is
    relative, cut off at 1.2. An arrow that leans right is downhill when it is followed backwards.

    Parameters
    ----------
    exact : Tensor
    gradients : mapping of str to Tensor, of the shape of ``exact``
    ax : Axes, optional
    """
    goal = array("exact", exact.reshape(-1), 1)
    vectors = _curves("gradients", {name: g.reshape(-1) for name, g in gradients.items()}, goal)
    ax = canvas.axes(ax, 4.4, 3.2)
    if frame(ax, xlim=(-1.3, 1.3), ylim=(-0.12, 1.55), aspect="equal", xticks=[], yticks=[]):
        ax.spines[:].set_visible(False)
        angle = np.linspace(0, np.pi, 91)
        ax.axvspan(0, 1.3, ymin=0.12 / 1.67, facecolor=COLOURS[2], alpha=0.12)
        ax.axvspan(-1.3, 0, ymin=0.12 / 1.67, facecolor=COLOURS[1], alpha=0.12)
        ax.plot(np.cos(angle), np.sin(angle), color=FAINT, linewidth=0.8)
        ax.axhline(0, color=INK, linewidth=0.8)
        for x, side in ((0.65, "downhill"), (-0.65, "uphill")):
            ax.text(x, -0.04, side, ha="center", va="top", fontsize=8)
    size, labels = max(np.linalg.norm(goal), 1e-300), []
    for i, ((name, g), width) in enumerate(zip(vectors.items(), _widths(len(vectors)),
                                               strict=True)):
        g = g / size
        along = float(g @ goal / size)
        across = float(np.linalg.norm(g - along * goal / size))
        length = max(np.hypot(along, across), 1e-300)
        x, y = np.array([along, across]) * min(1, 1.2 / length)
        colour = COLOURS[i % len(COLOURS)]
        line(ax, f"arrow {i}", [0, x], [0, y], color=colour, linewidth=width,
             alpha=0.45 if i == 0 and len(vectors) > 1 else 1.0)
        line(ax, f"tip {i}", [x], [y], "o", color=colour, markersize=3 + width)
        labels.append(f"{name}: cosine {along / length:+.3f}")
    _names(ax, labels, 0.02, 0.99)
    title(ax, "Directions: exact points right")
    return ax.figure


@styled
def draw_gradient_memory(steps: Sequence[int], saved: Mapping[str, Sequence[float]],
                         step: int | None = None, ax: Axes | None = None) -> Figure:
    """Kibibytes kept for the backward pass against the number of steps k.

    Parameters
    ----------
    steps : sequence of int
        The values of k, rising.
    saved : mapping of str to sequence of float
        Bytes of each way at each k.
    step : int, optional
        Marked by a vertical line.
    ax : Axes, optional
    """
    k = array("steps", steps, 1)
    curves = _curves("saved", saved, k)
    step is None or validation.integer("step", step)
    ax = canvas.axes(ax)
    # Powers of two, so that a panel's frame stands still for most moves.
    top = 2.0 ** np.ceil(np.log2(max(c.max() for c in curves.values()) / 1024 + 1e-9) + 0.15)
    frame(ax, xlim=(0, k[-1] + 1), ylim=(0, top), xlabel="fixed-point steps k",
          title="Kept for backward, KiB")
    _by_steps(ax, k, {name: c / 1024 for name, c in curves.items()}, step, (0, 0.75 * top))
    _names(ax, list(curves), 0.04)
    return ax.figure


@styled
def draw_gradient_costs(steps: Sequence[int], saved: Mapping[str, Sequence[float]],
                        seconds: Mapping[str, Sequence[float]]) -> Figure:
    """Memory and time of each gradient against the number of fixed-point steps k.

    Parameters
    ----------
    steps : sequence of int
        The values of k, rising.
    saved, seconds : mapping of str to sequence of float
        Bytes kept for the backward pass, and the time of both passes.
    """
    k = array("steps", steps, 1)
    times = _curves("seconds", seconds, k)
    left, right = canvas.row(None, 2, 8.4, 3.0, left=0.07, wspace=0.22, bottom=0.16)
    draw_gradient_memory(steps, saved, ax=left)
    for i, values in enumerate(times.values()):
        right.plot(k, 1e3 * values, "o-", color=COLOURS[i % len(COLOURS)], markersize=3)
    right.set(xlim=(0, k[-1] + 1), ylim=(0, None), xlabel="fixed-point steps k",
              title="Time of both passes, ms (this machine)")
    _names(right, list(times), 0.04)
    return left.figure


@styled
def draw_gradient_cosines(kappas: Sequence[float], cosines: Mapping[str, Sequence[float]],
                          ax: Axes | None = None) -> Figure:
    """Cosine between the one-step and the exact gradient against κ; below zero is uphill.

    Parameters
    ----------
    kappas : sequence of float
    cosines : mapping of str to sequence of float
        A curve a family of matrices.
    ax : Axes, optional
    """
    x = array("kappas", kappas, 1)
    curves = _curves("cosines", cosines, x)
    ax = canvas.axes(ax)
    if frame(ax, xlim=(0, 1), ylim=(-1.05, 1.05), xlabel="κ = ‖A‖∞",
             title="Cosine of one-step and exact gradient"):
        ax.axhspan(-1.05, 0, facecolor=COLOURS[1], alpha=0.12)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.text(0.02, -0.07, "uphill", va="top", fontsize=8)
    for i, values in enumerate(curves.values()):
        line(ax, f"curve {i}", x, values, color=COLOURS[i % len(COLOURS)])
    _names(ax, list(curves), 0.03, 0.2)
    return ax.figure


@styled
def draw_gradients(steps: Sequence[int], errors: Mapping[str, Sequence[float]], exact: Tensor,
                   gradients: Mapping[str, Tensor], saved: Mapping[str, Sequence[float]],
                   step: int, *, figure: Figure | None = None) -> Figure:
    """Error, direction and memory of each gradient, with the chosen number of steps marked.

    Parameters
    ----------
    steps, errors, saved, step
        As for `draw_gradient_errors` and `draw_gradient_memory`.
    exact, gradients
        As for `draw_gradient_directions`, at ``step`` steps.
    figure : Figure, optional
        From an earlier call with as many gradients.
    """
    axes = canvas.row(figure, 3, 8.4, 2.9, [1.15, 1.25, 1], left=0.065, bottom=0.16, wspace=0.2)
    draw_gradient_errors(steps, errors, step, axes[0])
    draw_gradient_directions(exact, gradients, axes[1])
    draw_gradient_memory(steps, saved, step, axes[2])
    return axes[0].figure


@styled
def draw_tangents(x: Sequence[float], y: Sequence[float],
                  tangents: Mapping[str, tuple[float, float, float]],
                  ax: Axes | None = None, *, xlabel: str = "", name: str = "") -> Figure:
    """A function of one number, and short straight lines of given slopes through its points.

    Parameters
    ----------
    x, y : sequence of float
        The function's graph.
    tangents : mapping of str to (float, float, float)
        Point x, value y and slope of each line.
    ax : Axes, optional
    xlabel, name : str
    """
    at = array("x", x, 1)
    (value,) = _curves("y", {"y": y}, at).values()
    ax = canvas.axes(ax, 4.8, 3.0)
    ax.plot(at, value, color=FAINT, linewidth=4)
    half = 0.12 * (at.max() - at.min())
    for colour, (label, (px, py, slope)) in zip(COLOURS, tangents.items(), strict=False):
        reach = np.array([-half, half])
        ax.plot(px + reach, py + slope * reach, color=colour, label=label)
        ax.plot([px], [py], "o", color=colour, markersize=4)
    ax.set(xlabel=xlabel, title=name)
    ax.legend(loc="upper left")
    return ax.figure
