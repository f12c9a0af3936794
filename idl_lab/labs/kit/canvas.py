"""The one style of all pictures, and figures that redraw fast.

A full matplotlib draw costs a panel too much: most of it is ticks and labels that do not change
while a slider moves. So a picture has a frame (`frame`), drawn when it changes, and moving parts
(`line`, `words`, `picture`), which a second call of the same drawing function on the same axes
finds by name and updates. `png` paints the moving parts over the kept frame, and words as they were
set before: letters are most of what is left.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

_MOVES = "moves: "  # marks the group id of moving parts
INK, FAINT = "#222222", "#b8b8b8"
# Okabe and Ito's palette, told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "axes.edgecolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "axes.prop_cycle": mpl.cycler(color=COLOURS), "lines.linewidth": 1.6,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False,
    "figure.dpi": 100, "savefig.dpi": 100, "image.cmap": "RdBu_r",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under the workbench's style, whatever the user's settings are.

    Parameters
    ----------
    draw : callable
        Gives a figure.
    """
    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)
    return wrapper


def axes(ax: Axes | None, width: float = 4.8, height: float = 3.2) -> Axes:
    """``ax`` itself, or the axes of a new figure of that size in inches.

    Parameters
    ----------
    ax : Axes, optional
    width, height : float
        Of the new figure, in inches.
    """
    if ax is not None:
        return ax
    # A fixed frame: no layout pass, so drawing is fast and nothing jumps between redraws.
    return _new(width, height).add_axes((0.14, 0.15, 0.82, 0.74))


def row(figure: Figure | None, count: int, width: float, height: float,
        ratios: Sequence[float] | None = None, **margins: float) -> list[Axes]:
    """The axes of ``figure``, or of a new figure with ``count`` of them side by side.

    Parameters
    ----------
    figure : Figure, optional
    count : int
    width, height : float
        Of the new figure, in inches.
    ratios : sequence of float, optional
        Widths of the axes, relative to one another.
    **margins : float
        As for `Figure.subplots_adjust`.
    """
    return mosaic(figure, [range(count)], width, height, width_ratios=ratios, **margins)


def mosaic(figure: Figure | None, layout: Sequence[Sequence], width: float, height: float,
           **grid) -> list[Axes]:
    """The axes of ``figure``, or of a new figure laid out as in `Figure.subplot_mosaic`.

    E.g. ``["aaa", "bcd"]``: one wide picture above three. A panel of more than three pictures
    needs a second row, to be read beside JupyterLab's file browser.

    Parameters
    ----------
    figure : Figure, optional
    layout : sequence of sequence
    width, height : float
        Of the new figure, in inches.
    **grid
        Margins, and relative sizes of rows and columns, as for `GridSpec`.
    """
    if figure is not None:
        return figure.axes
    edges = {"left": 0.06, "right": 0.985, "bottom": 0.15, "top": 0.88, "wspace": 0.3} | grid
    layout = [list(line) for line in layout]
    return list(_new(width, height).subplot_mosaic(layout, gridspec_kw=edges).values())


def _new(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    _Canvas(figure)
    return figure


class _Canvas(FigureCanvasAgg):
    _size = None

    def get_renderer(self) -> RendererAgg:
        size = (*self.figure.bbox.size, self.figure.dpi)
        if size != self._size:
            self.renderer, self._size = _Renderer(*size), size
        return self.renderer


class _Renderer(RendererAgg):
    """matplotlib sets every letter anew at every draw; nearly all words of a panel stay."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None) -> None:
        if ismath or angle not in (0, 90) or gc.get_forced_alpha() or gc.get_clip_path()[0]:
            super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)
            return
        # Letters stand between the pixels, at 64ths of one.
        column, row = math.floor(x), math.floor(y)
        at = round(64 * (x - column)), round(64 * (y - row))
        pixels, left, below = _lettering(s, prop.copy(), angle, at, gc.get_rgb(), self.dpi)
        plain = self.new_gc()
        plain.set_clip_rectangle(gc.get_clip_rectangle())
        self.draw_image(plain, column + left, int(self.height) - row - below, pixels)


@functools.lru_cache(maxsize=300)  # some kilobytes each; a panel has a hundred at once
def _lettering(s: str, prop: FontProperties, angle: float, at: tuple[int, int], colour: tuple,
               dpi: float) -> tuple[np.ndarray, int, int]:
    """Words as an image, from its bottom row up, and its left and lower edge from their start."""
    letter = math.ceil(prop.get_size_in_points() * dpi / 72)
    long, high = letter * (len(s) + 3), 4 * letter
    width, height, left, top = ((long, high, letter, 2 * letter) if angle == 0 else
                                (high, long, 2 * letter, long - letter))
    sheet, gc = RendererAgg(width, height, dpi), GraphicsContextBase()
    gc.set_foreground(colour, isRGBA=True)
    sheet.draw_text(gc, left + at[0] / 64, top + at[1] / 64, s, prop, angle)
    inked = np.asarray(sheet.buffer_rgba())
    rows, columns = (inked[:, :, 3].any(axis=axis).nonzero()[0] for axis in (1, 0))
    if not len(rows):
        return np.zeros((1, 1, 4), np.uint8), 0, 0
    cut = inked[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return np.ascontiguousarray(cut[::-1]), columns[0] - left, rows[-1] + 1 - top


def frame(ax: Axes, **settings) -> bool:
    """Apply ``ax.set(**settings)``, only what changed; True the first time on these axes."""
    shown = getattr(ax, "idl_lab_frame", None)
    ax.idl_lab_frame = (shown or {}) | settings
    changed = {k: v for k, v in settings.items() if shown is None or shown.get(k) != v}
    if changed:
        ax.set(**changed)
    for axis in (ax.xaxis, ax.yaxis):
        if changed.get(f"{axis.axis_name}scale") == "log":
            log_axis(axis)
    return shown is None


def power(value: float) -> str:
    """``value`` as an axis names it: 0.01, 1, 1000, but 1e-6 and 1e5."""
    if 1e-2 <= value < 1e5:
        return f"{value:g}"
    return re.sub(r"e([+-]?)0*", lambda e: "e" + e[1].strip("+"), f"{value:.0e}")


def log_axis(axis: Axis, text: Callable[[float], str] = power) -> None:
    """Ticks of a logarithmic axis at powers of ten, eight at most, named in plain numbers.

    matplotlib's own names of powers are typeset anew at every draw: most of a redraw's time.
    `frame` does this on an axis that it makes logarithmic.

    Parameters
    ----------
    axis : Axis
    text : callable
        Names a tick's value.
    """
    axis.set_major_locator(LogLocator(numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def moving(ax: Axes) -> dict[str, Artist]:
    """The moving parts on ``ax`` by name."""
    return {a.get_gid().removeprefix(_MOVES): a for a in ax.get_children()
            if (a.get_gid() or "").startswith(_MOVES)}


def _find(ax: Axes, name: str) -> Artist | None:
    return moving(ax).get(name)


def _fast(ax: Axes) -> bool:
    return hasattr(ax.figure, "idl_lab_background")


def line(ax: Axes, name: str, x: np.ndarray, y: np.ndarray, marks: str = "-", **style) -> None:
    """The moving line of that name on ``ax``, drawn or updated.

    Parameters
    ----------
    ax : Axes
    name : str
    x, y : ndarray
        Its points.
    marks : str
        Line and marker, as matplotlib writes them.
    **style
        As for `Axes.plot`.
    """
    known = _find(ax, name)
    if known is None:
        ax.plot(x, y, marks, gid=_MOVES + name, animated=_fast(ax), scalex=False, scaley=False,
                **style)
    else:
        known.set(data=(x, y), **style)


def words(ax: Axes, name: str, x: float, y: float, text: str, **style) -> None:
    """The moving text of that name, in axes fractions, drawn or updated.

    Parameters
    ----------
    ax : Axes
    name : str
    x, y : float
        Where, in fractions of the axes.
    text : str
    **style
        As for `Axes.text`.
    """
    known = _find(ax, name)
    if known is None:
        ax.text(x, y, text, gid=_MOVES + name, animated=_fast(ax), transform=ax.transAxes, **style)
    else:
        known.set(text=text, position=(x, y))


def title(ax: Axes, text: str) -> None:
    """A moving title.

    Parameters
    ----------
    ax : Axes
    text : str
    """
    words(ax, "title", 0.5, 1.04, text, ha="center", va="bottom", fontsize=10)


def picture(ax: Axes, name: str, pixels: np.ndarray, **style) -> None:
    """The moving image of that name, drawn or updated with one of the same shape.

    Parameters
    ----------
    ax : Axes
    name : str
    pixels : ndarray
    **style
        As for `Axes.imshow`.
    """
    known = _find(ax, name)
    if known is not None and known.get_array().shape == pixels.shape:
        known.set_data(pixels)
        return
    if known is not None:
        known.remove()
    ax.imshow(pixels, gid=_MOVES + name, animated=_fast(ax), **style)


def stems(x: np.ndarray, low: float, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line's points for one vertical bar at each x, from ``low`` to ``high``."""
    gaps, feet = np.full(len(x), np.nan), np.full(len(x), low)
    return np.column_stack([x, x, gaps]).ravel(), np.column_stack([feet, high, gaps]).ravel()


def smallest_text(figure: Figure) -> float:
    """Height of the smallest letters in ``figure``, in pixels of its picture."""
    sizes = [text.get_fontsize() for text in figure.findobj(Text)
             if text.get_visible() and text.get_text().strip()]
    return min(sizes, default=STYLE["font.size"]) * figure.dpi / 72


def readout(figure: Figure) -> str:
    """Titles and moving words of all axes of ``figure``, as sentences: the picture for the ear."""
    said = [text for ax in figure.axes for text in (
        ax.get_title(), *(a.get_text() for a in moving(ax).values() if isinstance(a, Text)))]
    return " ".join(f"{' '.join(text.split()).rstrip('.')}." for text in said if text.strip())


def _painted(figure: Figure) -> Image.Image:
    """The figure's pixels; the frame is painted anew only where it changed."""
    canvas = figure.canvas
    kept = getattr(figure, "idl_lab_background", None)
    if kept is None:  # until now the moving parts were ordinary ones, so that any window shows them
        for ax in figure.axes:
            for artist in moving(ax).values():
                artist.set_animated(True)
    with mpl.rc_context(STYLE):
        if kept is None or figure.stale:
            canvas.draw()  # leaves animated artists out
            kept = figure.idl_lab_background = canvas.copy_from_bbox(figure.bbox)
        canvas.restore_region(kept)
        for ax in figure.axes:
            for artist in sorted(moving(ax).values(), key=lambda a: a.get_zorder()):
                ax.draw_artist(artist)
    figure.stale = False
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def forget(figure: Figure) -> None:
    """Let go of a figure's pixels, some megabytes that Python would collect much later."""
    vars(figure).pop("idl_lab_background", None)
    _Canvas(figure)


def _few_colours(image: Image.Image) -> Image.Image:
    # Maximal coverage keeps a colour that only thin lines have; the median cut greyed them.
    return image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes, made fast: for a slider."""
    return _encoded(_painted(figure), compress_level=1)


def small_png(figure: Figure) -> bytes:
    """The figure in 256 colours, a third of the bytes: for one of many pictures of a page."""
    return _encoded(_few_colours(_painted(figure)), compress_level=6)


def packed(image: bytes) -> bytes:
    """The picture in 256 colours, as small as can be: for a file, too slow for a slider.

    Parameters
    ----------
    image : bytes
        A PNG.
    """
    return _encoded(_few_colours(Image.open(io.BytesIO(image)).convert("RGB")), optimize=True)
