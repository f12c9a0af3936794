"""A digit, its state and its scores."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title
from idl_lab.labs.kit.plots import array, colour_bar, round_up


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
    left, middle, bar, right = canvas.mosaic(
        figure, ["i.sc.y"], 7.6, 2.9, width_ratios=[0.75, 0.33, 1.6, 0.06, 0.42, 1.15], left=0.01,
        right=0.995, bottom=0.17, wspace=0.06)
    at = len(course) - 1 if step is None else min(step, len(course) - 1)
    if frame(left, xticks=[], yticks=[]):
        left.spines[:].set_visible(False)
    canvas.picture(left, "image", image, cmap="gray_r", vmin=0, vmax=1)
    title(left, "input u" if label is None else f"input u: a {label}")

    high = round_up(np.abs(course).max())
    canvas.picture(middle, "course", course.T / high, vmin=-1, vmax=1, aspect="auto",
                   interpolation="nearest", extent=(-0.5, len(course) - 0.5, course.shape[1], 0))
    middle.xaxis.set_major_locator(MaxNLocator(integer=True)) if figure is None else None
    frame(middle, xlim=(-0.5, len(course) - 0.5), ylim=(course.shape[1], 0), xlabel="step",
          ylabel="component of x")
    line(middle, "step", [at, at], [0, course.shape[1]], color=INK, linewidth=1)
    title(middle, f"state x, step {at}")
    colour_bar(bar, -high if course.min() < 0 else 0.0, high)

    best, classes = scores[at].argmax(), np.arange(scores.shape[1])
    ends = [np.sign(end) * round_up(abs(end)) for end in (scores.min(), scores.max())]
    if frame(right, xticks=tuple(classes), xlabel="class", ylim=(min(ends[0], 0), max(ends[1], 0)),
             xlim=(-0.7, len(classes) - 0.3)):
        right.axhline(0, color=INK, linewidth=0.8)
    line(right, "scores", *canvas.stems(classes, 0, scores[at]), color=FAINT, linewidth=12,
         solid_capstyle="butt")
    line(right, "best", [best, best], [0, scores[at, best]], color=COLOURS[0], linewidth=12,
         solid_capstyle="butt")
    title(right, f"ŷ = Cx + Du says {best}")
    return left.figure
