"""Networks as implicit models: their matrices block by block, and what a change of units does."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import (
    Blocks,
    array,
    bars,
    check_blocks,
    corner,
    draw_rescaled_rows,
    edges_of,
    name_blocks,
    state_axes,
)

_PIXELS = 420  # a matrix with more rows or columns is thinned out to about that many


@styled
def draw_blocks(M: Tensor, rows: Blocks, columns: Blocks | None = None, ax: Axes | None = None, *,
                scale: float | None = None, name: str = "") -> Figure:
    """A matrix as a picture, its blocks named: red positive, blue negative, zeros white.

    The shade is the square root of the size, so that small weights show beside large ones; a
    strip below says which size has which colour. Of a matrix too large for the picture, the
    largest entry of each small square is shown.

    Parameters
    ----------
    M : Tensor, shape (r, c)
        Such as A, or [A B; C D].
    rows, columns : sequence of (str, int)
        Names and sizes of the blocks; the columns are those of the rows by default.
    ax : Axes, optional
    scale : float, optional
        The size of entry that has the full colour; by default the largest.
    name : str
        The title.
    """
    values = array("M", M, 2)
    columns = rows if columns is None else columns
    for what, blocks, size in (("rows", rows, values.shape[0]),
                               ("columns", columns, values.shape[1])):
        check_blocks(what, blocks, size)
    ax = _square() if ax is None else ax
    full = max(np.abs(values).max() if scale is None else scale, 1e-12)
    values = np.clip(values / full, -1, 1)
    (height, width), fewer = values.shape, _thinned(values)
    canvas.picture(ax, "matrix", np.sign(fewer) * np.sqrt(np.abs(fewer)), vmin=-1, vmax=1,
                   interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    (across, top), (down, left) = edges_of(columns), edges_of(rows)
    if frame(ax, xlim=(0, width), ylim=(height, 0)):
        ax.xaxis.tick_top()
        ax.tick_params(length=0, pad=2)
        ax.spines[:].set_visible(True)
        strip = ax.inset_axes((0.7, -0.055, 0.18, 0.025), xticks=[], yticks=[])
        sizes = np.linspace(-1, 1, 101)
        strip.imshow((np.sign(sizes) * np.sqrt(np.abs(sizes)))[None], vmin=-1, vmax=1,
                     aspect="auto")
    for sign, x, side in (("−", 0.69, "right"), ("+", 0.89, "left")):
        words(ax, f"scale {sign}", x, -0.042, f"{sign}{full:.2g}", ha=side, va="center", fontsize=8)
    name_blocks(ax.xaxis, top, columns)
    name_blocks(ax.yaxis, left, rows)
    gap = np.nan
    strokes = [[(e, 0), (e, height), (gap, gap)] for e in across]
    strokes += [[(0, e), (width, e), (gap, gap)] for e in down]
    line(ax, "blocks", *np.array(strokes).reshape(-1, 2).T, color=INK, linewidth=0.7)
    if name or "title" in canvas.moving(ax):
        words(ax, "title", 0, -0.02, name, ha="left", va="top", fontsize=10)
    return ax.figure


@styled
def draw_units(v: Tensor, blocks: Blocks, ax: Axes | None = None, *, top: float | None = None
               ) -> Figure:
    """The units v (n,) of the states, log scale, a colour a block.

    Parameters
    ----------
    v : Tensor, shape (n,)
        All positive.
    blocks : sequence of (str, int)
        Names and sizes of the blocks of states.
    ax : Axes, optional
    top : float, optional
        The end of the axis, a power of ten; by default the first above the largest unit.

    Raises
    ------
    ValueError
        If a unit is not positive and finite.
    """
    units = array("v", v, 1)
    if not (np.isfinite(units).all() and units.min() > 0):
        raise ValueError("units must be positive and finite.")
    check_blocks("blocks", blocks, len(units))
    ax = canvas.axes(ax, 4.2, 3.2)
    top = 10.0 ** np.ceil(np.log10(units.max()) + 0.2) if top is None else top
    state_axes(ax, blocks, (10.0 ** min(np.floor(np.log10(units.min()) + 1e-6), 0), top), "unit v")
    line(ax, "units", *bars(units), color=COLOURS[2], linewidth=2.5, solid_capstyle="butt")
    corner(ax, "reach", 0.975, f"{units.min():.3g} to {units.max():.3g}", COLOURS[2])
    title(ax, "Units of the states")
    return ax.figure


@styled
def draw_rescaling(M: Tensor, before: Tensor, v: Tensor, blocks: Blocks, kappa: float,
                   inputs: int, *, scale: float | None = None, verdict: str = "",
                   figure: Figure | None = None) -> Figure:
    """A rescaled model's [A B; C D], its row sums before and after, and the units.

    Parameters
    ----------
    M : Tensor, shape (n + q, n + p)
        The matrix [A B; C D] after the change of units.
    before : Tensor, shape (n, n)
        A before it.
    v : Tensor, shape (n,)
    blocks : sequence of (str, int)
        Names and sizes of the blocks of states.
    kappa : float
    inputs : int
        p.
    scale : float, optional
        The size of entry that has the full colour.
    verdict : str
        One line above the pictures.
    figure : Figure, optional
        From an earlier call.
    """
    n = sum(size for _, size in blocks)
    axes = canvas.row(figure, 3, 8.4, 3.8, [1.3, 1, 0.85], left=0.045, right=0.985, bottom=0.11,
                      top=0.81, wspace=0.33)
    outputs = M.shape[0] - n
    draw_blocks(M, [*blocks, ("ŷ", outputs)], [*blocks, ("u", inputs)], axes[0], scale=scale,
                name="[A B; C D], new units")
    draw_rescaled_rows(before, M[:n, :n], blocks, kappa, axes[1])
    draw_units(v, blocks, axes[2], top=1e10)
    words(axes[0], "verdict", -0.1, 1.17, verdict, fontsize=10, weight="bold")
    return axes[0].figure


def _square() -> Axes:
    """Nearly square axes with room for names above and to the left."""
    ax = canvas.axes(None, 4.6, 4.4)
    ax.set_position((0.14, 0.07, 0.83, 0.84))
    return ax


def _thinned(values: np.ndarray) -> np.ndarray:
    """The entry of largest size in each small square, where there are too many to show."""
    side = -(-max(values.shape) // _PIXELS)
    if side == 1:
        return values
    padded = np.pad(values, [(0, -size % side) for size in values.shape])
    tiles = padded.reshape(padded.shape[0] // side, side, -1, side).swapaxes(1, 2)
    tiles = tiles.reshape(*tiles.shape[:2], -1)
    return np.take_along_axis(tiles, np.abs(tiles).argmax(-1)[..., None], -1)[..., 0]
