"""Every picture of the workbench: ``draw_*(numbers) -> Figure``, in one style.

The functions only draw what they are given, need no kernel and no window, and return a
`matplotlib.figure.Figure`. Those that panels use update their picture in place when they are
given the ``ax`` (one axes) or ``figure`` (several) of an earlier call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from idl_lab import canvas, validation
from idl_lab.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.solution import Solution
from idl_lab.well_posedness import inf_norm, perron_frobenius


def _array(name: str, values: Tensor | np.ndarray, axes: int) -> np.ndarray:
    """The numbers as a float array with that many axes; a diverged solve may bring NaN."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != axes or array.size == 0:
        raise ValueError(f"{name} must have {axes} axes, got shape {array.shape}.")
    return array.astype(float)


def _solutions(solutions: Mapping[str, Solution], states: bool = False) -> None:
    if not isinstance(solutions, Mapping):
        raise TypeError(f"solutions must be a mapping of names to Solutions, got "
                        f"{type(solutions).__name__}.")
    if not solutions:
        raise ValueError("solutions must hold at least one Solution, got none.")
    for name, solution in solutions.items():
        if not isinstance(solution, Solution):
            raise TypeError(f"{name!r} must be a Solution, got {type(solution).__name__}.")
        if states and solution.trace.states is None:
            raise ValueError(f"{name!r} has no states to draw: solve with keep_states=True.")


@styled
def draw_residuals(solutions: Mapping[str, Solution], step: int | None = None,
                   tol: float | None = None, ax: Axes | None = None, *,
                   max_steps: int | None = None) -> Figure:
    """Residual ‖f(x) − x‖∞ against the step, a curve a method, on a log scale.

    Parameters
    ----------
    solutions : mapping of str to Solution
        The worst sample of each is drawn.
    step : int, optional
        Where the dots are; the end by default.
    tol : float, optional
        Drawn as a dashed line.
    ax : Axes, optional
    max_steps : int, optional
        Right end of the axis; the longest curve by default.
    """
    _solutions(solutions)
    tol is None or validation.real("tol", tol, above=0.0)
    step is None or validation.integer("step", step, at_least=0)
    ax = canvas.axes(ax)
    curves = {name: _array("residuals", s.trace.worst, 1) for name, s in solutions.items()}
    reach = max_steps or max(max(map(len, curves.values())), 2)
    top = max(np.max(c, where=np.isfinite(c), initial=1) for c in curves.values())
    high = 4 if tol else 1 + int(np.log10(top))
    low = int(np.floor(np.log10(tol))) - 2 if tol else -17
    first = frame(ax, xlim=(0, reach + 0.5), xlabel="step",
                  yscale="log", ylim=(10.0 ** low, 10.0 ** min(high, 30)),
                  title="Residual ‖f(x) − x‖∞")
    if first:
        # Plain numbers: matplotlib's powers of ten are typeset anew at every draw.
        ax.yaxis.set_major_locator(FixedLocator(10.0 ** np.arange(low, high + 1, 2)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0e}"))
        ax.yaxis.set_minor_locator(NullLocator())
        if tol:
            ax.axhline(tol, color=INK, linestyle="--", linewidth=0.8)
            ax.text(0.01 * reach, tol, "tol", va="bottom", fontsize=8)
    for k, (name, residual) in enumerate(curves.items()):
        colour, solution = COLOURS[k % len(COLOURS)], solutions[name]
        seen = np.where((residual > 0) & np.isfinite(residual), residual, np.nan)
        steps, at = np.arange(1, len(seen) + 1), len(seen) if step is None else min(step, len(seen))
        line(ax, f"rest {k}", steps, seen, color=colour, alpha=0.3)
        line(ax, f"curve {k}", steps[:at], seen[:at], color=colour)
        line(ax, f"dot {k}", steps[at - 1:at] if at else [], seen[at - 1:at] if at else [], "o",
             color=colour, markersize=5)
        how = "" if solution.status.ok else ", " + solution.status.name.lower().replace("_", " ")
        words(ax, f"name {k}", 0.98, 0.97 - 0.075 * k,
              f"{name}: {solution.stats.steps} steps{how}", ha="right", va="top", fontsize=8,
              color=colour)
    return ax.figure


@styled
def draw_state(state: Tensor, equilibrium: Tensor, ax: Axes | None = None, *,
               name: str = "state", colour: str = COLOURS[0]) -> Figure:
    """One state (n,) as dots on stems, the equilibrium (n,) as rings.

    Heights are relative to the equilibrium's largest component, so that the frame stands still.
    """
    x, goal = _array("state", state, 1), _array("equilibrium", equilibrium, 1)
    if x.size != goal.size:
        raise ValueError(f"state and equilibrium must have the same size, got {x.size} and "
                         f"{goal.size}.")
    ax = canvas.axes(ax, 4.8, 3.0)
    size = max(np.abs(goal).max(), 1e-12)
    low = -1.3 if goal.min() < -0.05 * size else -0.3
    x = np.clip(np.nan_to_num(x / size, nan=9.0), low, 1.3)
    i = np.arange(1, len(goal) + 1)
    if frame(ax, ylim=(low, 1.3), xlim=(0, len(goal) + 1), xlabel="component i", yticks=[]):
        ax.axhline(0, color=FAINT, linewidth=0.8)
    line(ax, "stems", *canvas.stems(i, 0, x), color=colour, linewidth=1)
    line(ax, "dots", i, x, "o", color=colour, markersize=3.5)
    line(ax, "rings", i, goal / size, "o", markersize=7, markerfacecolor="none", color=INK,
         markeredgewidth=0.7)
    title(ax, name)
    return ax.figure


@styled
def draw_convergence(solutions: Mapping[str, Solution], equilibrium: Tensor, step: int,
                     tol: float | None = None, *, max_steps: int = 60,
                     figure: Figure | None = None) -> Figure:
    """Methods side by side at one step: residual curves, and each method's state.

    Parameters
    ----------
    solutions : mapping of str to Solution
        Of one sample, with their states kept; a method that has finished stays where it ended.
    equilibrium : Tensor, shape (n,)
        The exact state, drawn as rings.
    step : int
    tol : float, optional
    max_steps : int
        Right end of the residuals' axis.
    figure : Figure, optional
        From an earlier call with as many methods.
    """
    _solutions(solutions, states=True)
    axes = canvas.row(figure, 1 + len(solutions), 3.6 + 2.1 * len(solutions), 3.0,
                      [1.9] + [1.0] * len(solutions), left=0.07, wspace=0.12)
    draw_residuals(solutions, step, tol, ax=axes[0], max_steps=max_steps)
    for ax, colour, (name, solution) in zip(axes[1:], COLOURS, solutions.items(), strict=False):
        states = solution.trace.states.reshape(-1, equilibrium.numel())
        at = min(step, len(states) - 1)
        draw_state(states[at], equilibrium, ax, name=f"{name}, step {at}", colour=colour)
    return axes[0].figure


@styled
def draw_spectrum(A: Tensor, ax: Axes | None = None) -> Figure:
    """Eigenvalues of A (n, n), with λ_PF(|A|) and ‖A‖∞ as circles that hold them all."""
    values = np.linalg.eigvals(_array("A", validation.square("A", A), 2))
    ax = canvas.axes(ax, 3.4, 3.4)
    pf, norm = perron_frobenius(A).value, float(inf_norm(A.detach()))
    reach = 1.7 if norm <= 1.6 else 1.15 * norm
    angle = np.linspace(0, 2 * np.pi, 121)
    circle = np.cos(angle), np.sin(angle)
    if frame(ax, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="real part",
             title="Eigenvalues of A"):
        ax.plot(*circle, color=INK, linewidth=0.9)
    line(ax, "norm", norm * circle[0], norm * circle[1], "--", color=COLOURS[1], linewidth=1)
    line(ax, "pf", pf * circle[0], pf * circle[1], color=COLOURS[2], linewidth=1)
    line(ax, "values", values.real, values.imag, ".", color=COLOURS[0])
    words(ax, "norm name", 0.01, 0.02, f"‖A‖∞ {norm:.2f}", color=COLOURS[1], fontsize=8)
    words(ax, "pf name", 0.99, 0.02, f"λ_PF {pf:.2f}", color=COLOURS[2], fontsize=8, ha="right")
    return ax.figure


@styled
def draw_row_sums(A: Tensor, kappa: float | None = None, ax: Axes | None = None) -> Figure:
    """Absolute row sums of A (n, n); the largest is ‖A‖∞, κ a dashed line."""
    sums = np.abs(_array("A", validation.tensor("A", A, "n p"), 2)).sum(axis=1)
    ax = canvas.axes(ax, 3.4, 3.4)
    top = 1.7 if sums.max() <= 1.6 else 1.15 * float(sums.max())
    if frame(ax, ylim=(0, top), xlim=(0, 1), xticks=[], xlabel="rows", title="Row sums of |A|"):
        ax.axhline(1, color=INK, linewidth=0.9)
    at, width = (np.arange(len(sums)) + 0.5) / len(sums), 110 / len(sums)
    for name, colour, here in (("in", COLOURS[0], sums < 1), ("out", COLOURS[1], sums >= 1)):
        line(ax, name, *canvas.stems(at[here], 0, sums[here]), color=colour, linewidth=width,
             solid_capstyle="butt")
    if kappa is not None:
        line(ax, "kappa", [0, 1], [kappa, kappa], "--", color=INK, linewidth=0.9)
        words(ax, "kappa name", 0.99, 0.98, f"κ = {kappa:.2f}", fontsize=8, ha="right", va="top")
    return ax.figure


@styled
def draw_paths(states: Tensor, ax: Axes | None = None) -> Figure:
    """The first two components of the state (steps + 1, starts, n), a path a start.

    Starts are rings, ends dots; where all dots fall together, one equilibrium was found.
    """
    points = _array("states", states, 3)[:, :, :2]
    ax = canvas.axes(ax, 3.4, 3.4)
    if points.shape[2] == 1:
        points = np.concatenate([points, np.zeros_like(points)], axis=2)
    start = max(np.abs(points[0]).max(where=np.isfinite(points[0]), initial=0), 0.5)
    ends = np.nan_to_num(np.abs(points[-1]), nan=np.inf)
    # Far ends are let go: a diverging path leaves the picture.
    reach = 2.0 ** np.ceil(np.log2(1.1 * max(start, ends[ends < 64 * start].max(initial=0))))
    points = np.clip(np.nan_to_num(points / reach, nan=9.0), -9, 9)
    if frame(ax, xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[], xlabel="x₁", ylabel="x₂"):
        ax.axhline(0, color=FAINT, linewidth=0.6)
        ax.axvline(0, color=FAINT, linewidth=0.6)
    for k in range(points.shape[1]):
        colour, path = COLOURS[k % len(COLOURS)], points[:, k]
        line(ax, f"path {k}", *path.T, color=colour, linewidth=1, alpha=0.7)
        line(ax, f"start {k}", *path[:1].T, "o", color=colour, markerfacecolor="none")
        line(ax, f"end {k}", *path[-1:].T, "o", color=colour, markersize=6)
    title(ax, f"Paths of x₁, x₂ (±{reach:g})")
    return ax.figure


@styled
def draw_norm_bound(A: Tensor, solution: Solution, kappa: float, tol: float | None = None,
                    verdict: str = "", *, max_steps: int | None = None,
                    figure: Figure | None = None) -> Figure:
    """Spectrum, row sums, residual and paths of one A, solved from several starts.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    solution : Solution
        From a batch of starts with their states kept: ``trace.states`` (steps + 1, starts, n).
    kappa : float
        The bound that A was scaled to.
    tol : float, optional
    verdict : str
        One line above the pictures.
    max_steps : int, optional
        Right end of the residual's axis.
    figure : Figure, optional
        From an earlier call with as many starts.
    """
    _solutions({"solution": solution}, states=True)
    axes = canvas.row(figure, 4, 10.4, 3.2, [1, 1, 1.25, 1], left=0.045, bottom=0.15, top=0.77,
                      wspace=0.3)
    draw_spectrum(A, axes[0])
    draw_row_sums(A, kappa, axes[1])
    draw_residuals({"Picard": solution}, tol=tol, ax=axes[2], max_steps=max_steps)
    draw_paths(solution.trace.states, axes[3])
    words(axes[0], "verdict", -0.17, 1.27, verdict, fontsize=10, weight="bold")
    return axes[0].figure


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
    image, course, scores = (_array(name, v, 2) for name, v in (
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
        A, B, C, D = (_array(letter, M, 2) for letter, M in zip("ABCD", matrices, strict=True))
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
    start = _array("points", points, 2)
    for colour, (name, image) in zip(COLOURS[1:], images.items(), strict=False):
        for k, (a, b) in enumerate(zip(start, _array(name, image, 2), strict=True)):
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
