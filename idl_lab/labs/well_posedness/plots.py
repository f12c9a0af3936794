"""What a norm bound does: spectrum, row sums, paths and balls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array, check_solutions, draw_residuals
from idl_lab.well_posedness import inf_norm, perron_frobenius


@styled
def draw_spectrum(A: Tensor, ax: Axes | None = None) -> Figure:
    """Eigenvalues of A (n, n), with λ_PF(|A|) and ‖A‖∞ as circles that hold them all."""
    values = np.linalg.eigvals(array("A", validation.square("A", A), 2))
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
    sums = np.abs(array("A", validation.tensor("A", A, "n p"), 2)).sum(axis=1)
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
    points = array("states", states, 3)[:, :, :2]
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
    check_solutions({"solution": solution}, states=True)
    axes = canvas.row(figure, 4, 10.4, 3.2, [1, 1, 1.25, 1], left=0.045, bottom=0.15, top=0.77,
                      wspace=0.3)
    draw_spectrum(A, axes[0])
    draw_row_sums(A, kappa, axes[1])
    draw_residuals({"Picard": solution}, tol=tol, ax=axes[2], max_steps=max_steps)
    draw_paths(solution.trace.states, axes[3])
    words(axes[0], "verdict", -0.17, 1.27, verdict, fontsize=10, weight="bold")
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
