"""A digit, its state and its scores."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title
from idl_lab.labs.kit.plots import array


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
