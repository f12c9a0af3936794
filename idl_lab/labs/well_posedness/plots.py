"""What a norm bound does: spectrum, row sums, paths and balls."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array, check_solutions, draw_residuals, round_up
from idl_lab.well_posedness import inf_norm, perron_frobenius


@styled
def draw_spectrum(A: Tensor, ax: Axes | None = None) -> Figure:
    """Eigenvalues of A (n, n), with λ_PF(|A|) and ‖A‖∞ as circles that hold them all.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    values = np.linalg.eigvals(array("A", validation.square("A", A), 2))
    ax = canvas.axes(ax, 4.6, 3.4)
    pf, norm = perron_frobenius(A).value, float(inf_norm(A.detach()))
    reach = round_up(max(1.1 * norm, 1.5))
    angle = np.linspace(0, 2 * np.pi, 121)
    circle = np.cos(angle), np.sin(angle)
    mark = max(1.0, round_up(reach / 2))
    marks = (-mark, 0, mark)
    # Room at the right, where the circles are named.
    if frame(ax, xlim=(-1.08 * reach, 2.6 * reach), ylim=(-1.08 * reach, 1.08 * reach),
             aspect="equal", xticks=marks, yticks=marks, xlabel="real part",
             ylabel="imaginary part", title="Eigenvalues of A"):
        ax.plot(*circle, color=INK, linewidth=0.9)
        ax.axhline(0, xmax=2.16 / 3.68, color=FAINT, linewidth=0.6)
        ax.axvline(0, color=FAINT, linewidth=0.6)
        ax.spines[:].set_visible(False)
        ax.xaxis.label.set_x(1.08 / 3.68)  # below the plane, not below the names
    # The dashed circle lies above the other: where they coincide, both are seen.
    line(ax, "pf", pf * circle[0], pf * circle[1], color=COLOURS[2], linewidth=1.8)
    line(ax, "norm", norm * circle[0], norm * circle[1], "--", color=COLOURS[1], linewidth=1.2)
    line(ax, "values", values.real, values.imag, ".", color=COLOURS[0])
    for name, y, text, colour in (
            ("norm name", 0.86, f"‖A‖∞ = {norm:.2f} (dashed)", COLOURS[1]),
            ("pf name", 0.72, f"λ_PF(|A|) = {pf:.2f}", COLOURS[2]),
            ("one name", 0.58, "circle of radius 1", INK),
            ("values name", 0.44, f"largest |λ| = {np.abs(values).max():.2f}", COLOURS[0])):
        words(ax, name, 0.64, y, text, color=colour, fontsize=8)
    return ax.figure


@styled
def draw_row_sums(A: Tensor, kappa: float | None = None, ax: Axes | None = None) -> Figure:
    """Absolute row sums of A (n, p); the largest is ‖A‖∞, κ a dashed line.

    Parameters
    ----------
    A : Tensor, shape (n, p)
    kappa : float, optional
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    sums = np.abs(array("A", validation.tensor("A", A, "n p"), 2)).sum(axis=1)
    ax = canvas.axes(ax, 4.6, 3.0)
    top = 1.7 if sums.max() <= 1.6 else 1.15 * float(sums.max())
    if frame(ax, ylim=(0, top), xlim=(0, 1), xticks=[], xlabel="rows of A",
             title="Row sums of |A|"):
        ax.axhline(1, color=INK, linewidth=0.9)
    at = (np.arange(len(sums)) + 0.5) / len(sums)
    room = ax.get_position(original=True).width * ax.figure.get_figwidth()
    width = 0.7 * 72 * room / len(sums)  # in points, of which an inch has 72
    inside = sums < 1 - 1e-9  # equal sums that were scaled to 1 lie on both sides of it by rounding
    for name, colour, here in (("in", COLOURS[0], inside), ("out", COLOURS[1], ~inside)):
        line(ax, name, *canvas.stems(at[here], 0, sums[here]), color=colour,
             linewidth=width, solid_capstyle="butt")
    if kappa is not None:
        line(ax, "kappa", [0, 1], [kappa, kappa], "--", color=INK, linewidth=0.9)
        words(ax, "kappa name", 0.99, 0.98, f"dashed: κ = {kappa:.2f}", fontsize=8, ha="right",
              va="top")
    return ax.figure


@styled
def draw_weighted_norm(A: Tensor, ax: Axes | None = None) -> Figure:
    """Both row sums of |V⁻¹AV| for A (2, 2), in units v = (1, t) of the state, against t.

    The larger of the two is ‖V⁻¹AV‖∞. At its lowest they are equal, and equal to λ_PF(|A|);
    v is then the Perron–Frobenius eigenvector.

    Parameters
    ----------
    A : Tensor, shape (2, 2)
    ax : Axes, optional
        Where to draw; a new figure by default.

    Raises
    ------
    ValueError
        If A is not 2 × 2, or an entry off its diagonal is zero: no units are best then.
    """
    M = np.abs(array("A", validation.square("A", A), 2))
    if M.shape != (2, 2) or M[0, 1] * M[1, 0] == 0:
        raise ValueError(f"A must be 2 × 2 with no zero off its diagonal, got {M.tolist()}.")
    ax = canvas.axes(ax, 5.4, 3.2)
    pf = perron_frobenius(A)
    best = float(pf.right[1] / pf.right[0])
    t = np.geomspace(min(best, 1) / 5, 5 * max(best, 1), 301)
    sums = M[0, 0] + M[0, 1] * t, M[1, 0] / t + M[1, 1]
    norm = np.maximum(*sums)
    top = round_up(1.2 * M.sum(axis=1).max())
    frame(ax, xscale="log", xlim=(t[0], t[-1]), ylim=(0, top), xlabel="t, the unit of x₂",
          title="Row sums of |V⁻¹AV|, V = diag(1, t)")
    ax.axhline(1, color=INK, linewidth=0.9)
    ax.plot(t, norm, color=FAINT, linewidth=7, alpha=0.6, label="the larger of both")
    for k, values in enumerate(sums):
        ax.plot(t, values, color=COLOURS[k], label=f"row {k + 1}")
    for at, height, text in ((1.0, M.sum(axis=1).max(), "‖A‖∞"), (best, pf.value, "λ_PF(|A|)")):
        ax.plot(at, height, "o", color=INK, zorder=3)
        ax.annotate(f"{text} = {height:.2f}\nat t = {at:.2g}", (at, height), (8, -34),
                    textcoords="offset points", fontsize=8)
    ax.xaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50]))
    ax.legend(loc="upper center")
    return ax.figure


@styled
def draw_paths(states: Tensor, ax: Axes | None = None) -> Figure:
    """The first two components of the state (steps + 1, starts, n), a path a start.

    Starts are rings, ends dots; where all dots fall together, one equilibrium was found. A state
    of one component is drawn against the step.

    Parameters
    ----------
    states : Tensor, shape (steps + 1, starts, n)
    ax : Axes, optional
        Where to draw; a new figure by default.
    """
    points = array("states", states, 3)[:, :, :2]
    ax = canvas.axes(ax, 4.6, 3.4)
    start = max(np.abs(points[0]).max(where=np.isfinite(points[0]), initial=0), 0.5)
    ends = np.nan_to_num(np.abs(points[-1]), nan=np.inf)
    # Far ends are let go: a diverging path leaves the picture.
    reach = 2.0 ** np.ceil(np.log2(1.1 * max(start, ends[ends < 64 * start].max(initial=0))))
    points = np.clip(np.nan_to_num(points, nan=9 * reach), -9 * reach, 9 * reach)
    marks = (-reach, -reach / 2, 0.0, reach / 2, reach)
    second = {"ylim": (-reach, reach), "yticks": marks, "ylabel": "x₂"}
    if points.shape[2] == 1:
        steps = np.arange(len(points), dtype=float)
        points = np.concatenate([points, np.broadcast_to(steps[:, None, None], points.shape)], 2)
        second = {"ylim": (len(points) - 0.5, -0.5), "ylabel": "step"}
    if frame(ax, xlim=(-reach, reach), xticks=marks, xlabel="x₁", **second):
        ax.axhline(0, color=FAINT, linewidth=0.6)
        ax.axvline(0, color=FAINT, linewidth=0.6)
    for k in range(points.shape[1]):
        colour, path = COLOURS[k % len(COLOURS)], points[:, k]
        line(ax, f"path {k}", *path.T, color=colour, linewidth=1, alpha=0.7)
        line(ax, f"start {k}", *path[:1].T, "o", color=colour, markerfacecolor="none")
        line(ax, f"end {k}", *path[-1:].T, "o", color=colour, markersize=6)
    title(ax, "Paths of the state: ring start, dot end")
    return ax.figure


@styled
def draw_norm_bound(A: Tensor, solution: Solution, kappa: float, tol: float | None = None,
                    verdict: str = "", *, max_steps: int | None = None,
                    figure: Figure | None = None) -> Figure:
    """Spectrum, paths, row sums and residual of one A, solved from several starts.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    solution : Solution
        From a batch of starts with their states kept: ``trace.states`` (steps + 1, starts, n).
    kappa : float
        The bound that A was scaled to.
    tol : float, optional
        The solve's, a dashed line in the residual's picture.
    verdict : str
        One line above the pictures.
    max_steps : int, optional
        Right end of the residual's axis.
    figure : Figure, optional
        From an earlier call with as many starts.
    """
    check_solutions({"solution": solution}, states=True)
    axes = canvas.mosaic(figure, ["sp", "rc"], 7.4, 4.8, left=0.075, right=0.975, bottom=0.09,
                         top=0.87, wspace=0.2, hspace=0.5)
    draw_spectrum(A, axes[0])
    draw_paths(solution.trace.states, axes[1])
    draw_row_sums(A, kappa, axes[2])
    draw_residuals({"Picard": solution}, tol=tol, ax=axes[3], max_steps=max_steps)
    words(axes[0], "verdict", -0.2, 1.27, verdict, fontsize=10, weight="bold")
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
    for i, (name, image) in enumerate(images.items()):
        # The first is the thickest, so that each is seen where two ways end at one point.
        style = {"color": COLOURS[1 + i], "linewidth": 3.4 - i, "markersize": 9 - 2 * i}
        for k, (a, b) in enumerate(zip(start, array(name, image, 2), strict=True)):
            ax.plot([a[0], b[0]], [a[1], b[1]], "-", **style)
            ax.plot(*b, "o", **style, label=name if k == 0 else None)
    ax.plot(*start.T, "o", color=INK, markerfacecolor="white", label="given row")
    ax.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
    ax.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    ax.set(aspect="equal", xlabel="first entry", ylabel="second entry",
           title=f"Rows and the ℓ₁ ball of radius {kappa:g}")
    ax.legend(loc="best")
    return ax.figure
