"""What a model is made of and does: its matrices, its state on an image, its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab import canvas, validation
from idl_lab.canvas import COLOURS, FAINT, INK, frame, line, styled, title
from idl_lab.plots.numbers import array


@styled
def draw_digit(pixels: Tensor, states: Tensor, outputs: Tensor, step: int | None = None,
               label: int | None = None, *, figure: Figure | None = None) -> Figure:
    """An implicit model at work on one image: input, state over the steps, class scores.

    Parameters
    ----------
    pixels : Tensor, shape (h, w)
    states : Tensor, shape (steps + 1, n)
        The iterates of the state.
    outputs : Tensor, shape (steps + 1, q)
        The prediction that each iterate would give.
    step : int, optional
        The last by default.
    label : int, optional
        The true class.
    figure : Figure, optional
        From an earlier call.
    """
    image, course, scores = (array(name, v, 2) for name, v in (
        ("pixels", pixels), ("states", states), ("outputs", outputs)))
    step is None or validation.integer("step", step, at_least=0)
    axes = canvas.row(figure, 3, 9.6, 2.8, [0.8, 1.7, 1.2], left=0.01, bottom=0.17, wspace=0.25)
    at = len(course) - 1 if step is None else min(step, len(course) - 1)
    if frame(axes[0], xticks=[], yticks=[]):
        axes[0].spines[:].set_visible(False)
    canvas.picture(axes[0], "image", image, cmap="gray_r", vmin=0, vmax=1)
    title(axes[0], "input u" if label is None else f"input u: a {label}")

    reach = max(np.abs(course).max(), 1e-9)
    canvas.picture(axes[1], "course", course.T / reach, vmin=-1, vmax=1, aspect="auto",
                   interpolation="nearest", extent=(-0.5, len(course) - 0.5, course.shape[1], 0))
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True)) if figure is None else None
    frame(axes[1], xlim=(-0.5, len(course) - 0.5), ylim=(course.shape[1], 0), xlabel="step",
          ylabel="component of x")
    line(axes[1], "step", [at, at], [0, course.shape[1]], color=INK, linewidth=1)
    title(axes[1], f"state x, step {at}")

    best, classes = scores[at].argmax(), np.arange(scores.shape[1])
    if frame(axes[2], xticks=tuple(classes), yticks=[], xlabel="class", ylim=(-1.1, 1.1),
             xlim=(-0.7, len(classes) - 0.3)):
        axes[2].axhline(0, color=INK, linewidth=0.8)
    bars = scores[at] / max(np.abs(scores).max(), 1e-9)
    line(axes[2], "scores", *canvas.stems(classes, 0, bars), color=FAINT, linewidth=14,
         solid_capstyle="butt")
    line(axes[2], "best", [best, best], [0, bars[best]], color=COLOURS[0], linewidth=14,
         solid_capstyle="butt")
    title(axes[2], f"ŷ = Cx + Du says {best}")
    return axes[0].figure


@styled
def draw_model(models: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]],
               blocks: Sequence[int] = ()) -> Figure:
    """The matrix [A B; C D] of each model as a picture, zeros white.

    Parameters
    ----------
    models : mapping of str to (A, B, C, D)
        Titles and matrices.
    blocks : sequence of int
        Sizes of the layers that the states belong to, drawn as thin lines in A.
    """
    if not models:
        raise ValueError("models must hold at least one model (A, B, C, D), got none.")
    axes = canvas.row(None, len(models), 3.6 * len(models), 3.7, left=0.06, right=0.98, bottom=0.04,
                      top=0.8, wspace=0.18)
    for ax, (name, matrices) in zip(axes, models.items(), strict=True):
        A, B, C, D = (array(letter, M, 2) for letter, M in zip("ABCD", matrices, strict=True))
        whole = np.block([[A, B], [C, D]])
        n, (rows, columns) = len(A), whole.shape
        # The square root shows small weights beside large ones.
        shade = np.sign(whole) * np.sqrt(np.abs(whole) / max(np.abs(whole).max(), 1e-12))
        ax.imshow(shade, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
        ax.axhline(n - 0.5, color=INK, linewidth=1.4)
        ax.axvline(n - 0.5, color=INK, linewidth=1.4)
        for edge in np.cumsum(blocks)[:-1]:
            ax.plot([edge - 0.5] * 2, [-0.5, n - 0.5], color=INK, linewidth=0.5)
            ax.plot([-0.5, n - 0.5], [edge - 0.5] * 2, color=INK, linewidth=0.5)
        for text, x, y in (("A", n / 2, n / 2), ("B", (n + columns) / 2, n / 2),
                           ("C", n / 2, (n + rows) / 2), ("D", (n + columns) / 2, (n + rows) / 2)):
            ax.text(x - 0.5, y - 0.5, text, ha="center", va="center", fontsize=13, weight="bold",
                    bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5})
        ax.xaxis.tick_top()
        ax.set_xticks([n / 2 - 0.5, (n + columns) / 2 - 0.5], ["state x", "input u"])
        ax.set_yticks([n / 2 - 0.5, (n + rows) / 2 - 0.5], ["x", "ŷ"])
        ax.tick_params(length=0)
        ax.set_title(name, pad=6)
        ax.spines[:].set_visible(True)
    return axes[0].figure


@styled
def draw_balls(points: Tensor, images: Mapping[str, Tensor], kappa: float,
               ax: Axes | None = None) -> Figure:
    """Rows of two entries and where each way of bounding moves them, with the ℓ₁ ball.

    Parameters
    ----------
    points : Tensor, shape (m, 2)
    images : mapping of str to Tensor, shape (m, 2)
        The moved points of each way.
    kappa : float
        Radius of the ball.
    ax : Axes, optional
    """
    ax = canvas.axes(ax, 4.2, 4.0)
    corners = kappa * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    ax.fill(*corners.T, facecolor=COLOURS[5], alpha=0.25, edgecolor=COLOURS[0])
    start = array("points", points, 2)
    for colour, (name, image) in zip(COLOURS[1:], images.items(), strict=False):
        for k, (a, b) in enumerate(zip(start, array(name, image, 2), strict=True)):
            ax.plot([a[0], b[0]], [a[1], b[1]], "-", color=colour, linewidth=1)
            ax.plot(*b, "o", color=colour, markersize=5, label=name if k == 0 else None)
    ax.plot(*start.T, "o", color=INK, markerfacecolor="white", label="given row")
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    ax.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    ax.set(aspect="equal", xlabel="first entry", ylabel="second entry",
           title=f"Rows and the ℓ₁ ball of radius {kappa:g}")
    ax.legend(loc="best")
    return ax.figure


@styled
def draw_history(history: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Training loss and validation metric against the epoch, from `training.fit`'s table."""
    if "train_loss" not in getattr(history, "columns", ()):
        raise TypeError(f"history must be the table of training.fit, got {type(history).__name__}.")
    ax = canvas.axes(ax, 4.8, 2.8)
    ax.plot(history.index, history["train_loss"], color=COLOURS[0])
    ax.set(xlabel="epoch", title="Training", ylim=(0, None))
    ax.set_ylabel("training loss", color=COLOURS[0])
    if "val_metric" in history:
        right = ax.twinx()
        right.plot(history.index, history["val_metric"], color=COLOURS[1])
        right.set_ylabel("validation metric", color=COLOURS[1])
        right.spines["right"].set_visible(True)
        if history["val_metric"].between(0, 1).all():
            right.set_ylim(0, 1.02)
        for each in (ax, right):
            each.set_position((0.13, 0.17, 0.74, 0.7))
    return ax.figure
