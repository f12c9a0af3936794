"""Networks as implicit models: their matrices block by block, and what a change of units does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from idl_lab import canvas, validation
from idl_lab.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.plots.numbers import array

Blocks = Sequence[tuple[str, int]]
_PIXELS = 420  # a matrix with more rows or columns is thinned out to about that many


@styled
def draw_blocks(M: Tensor, rows: Blocks, columns: Blocks | None = None, ax: Axes | None = None, *,
                scale: float | None = None, name: str = "") -> Figure:
    """A matrix as a picture, its blocks named: red positive, blue negative, zeros white.

    The shade is the square root of the size, so that small weights show beside large ones. Of a
    matrix too large for the picture, the largest entry of each small square is shown.

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
        _check_blocks(what, blocks, size)
    ax = _square() if ax is None else ax
    full = max(np.abs(values).max() if scale is None else scale, 1e-12)
    values = np.clip(values / full, -1, 1)
    (height, width), fewer = values.shape, _thinned(values)
    canvas.picture(ax, "matrix", np.sign(fewer) * np.sqrt(np.abs(fewer)), vmin=-1, vmax=1,
                   interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    (across, top), (down, left) = _edges(columns), _edges(rows)
    if frame(ax, xlim=(0, width), ylim=(height, 0)):
        ax.xaxis.tick_top()
        ax.tick_params(length=0, pad=2)
        ax.spines[:].set_visible(True)
    _name(ax.xaxis, top, columns)
    _name(ax.yaxis, left, rows)
    gap = np.nan
    strokes = [[(e, 0), (e, height), (gap, gap)] for e in across]
    strokes += [[(0, e), (width, e), (gap, gap)] for e in down]
    line(ax, "blocks", *np.array(strokes).reshape(-1, 2).T, color=INK, linewidth=0.7)
    if name or "title" in canvas.moving(ax):
        words(ax, "title", 0.5, -0.02, name, ha="center", va="top", fontsize=10)
    return ax.figure


@styled
def draw_rescaled_rows(before: Tensor, after: Tensor, blocks: Blocks, kappa: float,
                       ax: Axes | None = None) -> Figure:
    """Absolute row sums of A before (grey) and after (blue) a change of units, log scale.

    Parameters
    ----------
    before, after : Tensor, shape (n, n)
    blocks : sequence of (str, int)
        Names and sizes of the blocks of states.
    kappa : float
        What the row sums are brought below, a dashed line.
    ax : Axes, optional
    """
    old, new = (np.abs(array(key, M, 2)).sum(axis=1) for key, M in (
        ("before", before), ("after", after)))
    if old.shape != new.shape:
        raise ValueError(f"before and after must have the same number of rows, got {len(old)} and "
                         f"{len(new)}.")
    _check_blocks("blocks", blocks, len(old))
    ax = canvas.axes(ax, 4.2, 3.2)
    _states(ax, blocks, (1e-2, 1e2), "row sum of |A|")
    for key, sums, colour, width in (("before", old, FAINT, 5.0), ("after", new, COLOURS[0], 2.0)):
        line(ax, key, *_steps(np.clip(sums, 1e-3, None)), color=colour, linewidth=width,
             solid_capstyle="butt")
    line(ax, "kappa", [0, len(old)], [kappa, kappa], "--", color=INK, linewidth=0.9)
    _corner(ax, "name before", 0.975, f"before: ‖A‖∞ = {old.max():.3g}", "#777777")
    _corner(ax, "name after", 0.905, f"after: ‖A‖∞ = {new.max():.3g} ≤ κ", COLOURS[0])
    title(ax, "Row sums")
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
    """
    units = array("v", v, 1)
    if not (np.isfinite(units).all() and units.min() > 0):
        raise ValueError("units must be positive and finite.")
    _check_blocks("blocks", blocks, len(units))
    ax = canvas.axes(ax, 4.2, 3.2)
    top = 10.0 ** np.ceil(np.log10(units.max()) + 0.2) if top is None else top
    _states(ax, blocks, (10.0 ** min(np.floor(np.log10(units.min()) + 1e-6), 0), top), "unit v")
    line(ax, "units", *_steps(units), color=COLOURS[2], linewidth=2.5, solid_capstyle="butt")
    _corner(ax, "reach", 0.975, f"{units.min():.3g} to {units.max():.3g}", COLOURS[2])
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
    axes = canvas.row(figure, 3, 10.4, 4.0, [1.2, 1, 1], left=0.055, right=0.985, bottom=0.11,
                      top=0.81, wspace=0.32)
    outputs = M.shape[0] - n
    draw_blocks(M, [*blocks, ("ŷ", outputs)], [*blocks, ("u", inputs)], axes[0], scale=scale,
                name="[A B; C D] in the new units")
    draw_rescaled_rows(before, M[:n, :n], blocks, kappa, axes[1])
    draw_units(v, blocks, axes[2], top=1e10)
    words(axes[0], "verdict", -0.13, 1.17, verdict, fontsize=10, weight="bold")
    return axes[0].figure


def _square() -> Axes:
    """Nearly square axes with room for names above and to the left."""
    ax = canvas.axes(None, 4.6, 4.4)
    ax.set_position((0.14, 0.07, 0.83, 0.84))
    return ax


def _check_blocks(what: str, blocks: Blocks, size: int) -> None:
    sizes = [validation.integer("size", n, at_least=1) for _, n in blocks]
    if sum(sizes) != size:
        raise ValueError(f"{what} must have sizes that add up to {size}, got {sum(sizes)}.")


def _edges(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Where one block ends and the next begins; and the blocks' middles."""
    ends = np.cumsum([size for _, size in blocks])
    return ends[:-1], ends - 0.5 * np.array([size for _, size in blocks])


def _thinned(values: np.ndarray) -> np.ndarray:
    """The entry of largest size in each small square, where there are too many to show."""
    side = -(-max(values.shape) // _PIXELS)
    if side == 1:
        return values
    padded = np.pad(values, [(0, -size % side) for size in values.shape])
    tiles = padded.reshape(padded.shape[0] // side, side, -1, side).swapaxes(1, 2)
    tiles = tiles.reshape(*tiles.shape[:2], -1)
    return np.take_along_axis(tiles, np.abs(tiles).argmax(-1)[..., None], -1)[..., 0]


def _steps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line's points for one short horizontal bar a state."""
    at, gap = np.arange(len(values)), np.full(len(values), np.nan)
    bars = np.column_stack([values, values, gap])
    return np.column_stack([at, at + 1, gap]).ravel(), bars.ravel()


def _name(axis: Axis, middles: np.ndarray, blocks: Blocks) -> None:
    """The blocks' names at their middles; matplotlib ties a tick's name to its place."""
    wanted = tuple(middles), tuple(name for name, _ in blocks)
    if getattr(axis, "idl_lab_names", None) != wanted:
        axis.set_ticks(*wanted)
        axis.idl_lab_names = wanted


def _corner(ax: Axes, key: str, y: float, text: str, colour: str) -> None:
    words(ax, key, 0.985, y, text, color=colour, ha="right", va="top", fontsize=8,
          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})


def _states(ax: Axes, blocks: Blocks, ylim: tuple[float, float], ylabel: str) -> None:
    """Axes with the states from left to right, their blocks named below, and a log scale."""
    edges, middles = _edges(blocks)
    if not hasattr(ax, "idl_lab_frame"):
        ax.set_yscale("log")
        ax.axhline(1, color=FAINT, linewidth=0.8)
        ax.tick_params(axis="x", length=0)
    low, high = (float(end) for end in ylim)
    if frame(ax, xlim=(0, sum(size for _, size in blocks)), ylim=(low, high), ylabel=ylabel):
        decades = np.arange(round(np.log10(low)), round(np.log10(high)) + 1)
        ax.yaxis.set_major_locator(FixedLocator(list(10.0 ** decades[::-(-len(decades) // 7)])))
        # Plain numbers: matplotlib's powers of ten are typeset anew at every draw.
        ax.yaxis.set_major_formatter(FuncFormatter(
            lambda y, _: f"{y:g}" if y < 1e5 else f"1e{np.log10(y):.0f}"))
        ax.yaxis.set_minor_locator(NullLocator())
    _name(ax.xaxis, middles, blocks)
    x = np.concatenate([[np.nan], *([e, e, np.nan] for e in edges)])
    line(ax, "edges", x, np.concatenate([[np.nan], *([low, high, np.nan] for _ in edges)]),
         color=FAINT, linewidth=0.6)
