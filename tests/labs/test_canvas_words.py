"""Words that were set before are painted as matplotlib sets them anew."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from idl_lab.labs.kit import canvas

# The same coverage, blended once more: some levels of 255 at the rim of a letter.
ROUNDING = 6
STYLES = {
    "plain": {}, "bold": {"weight": "bold"}, "large": {"fontsize": 23.7}, "red": {"color": "red"},
    "pale": {"alpha": 0.3}, "pale colour": {"color": (0, 0.5, 0, 0.4)}, "up": {"rotation": 90},
    "down": {"rotation": 270}, "aslant": {"rotation": 33}, "clipped": {"clip_on": True},
    "boxed": {"bbox": {"facecolor": "yellow"}}, "right": {"ha": "right", "va": "top"},
}


def drawn(style: dict, words: str):
    """Two figures' pixels, ours and matplotlib's own: words at many places between pixels."""
    ax = canvas.axes(None, 4.13, 3.07)
    for k, y in enumerate(np.linspace(0.03, 0.98, 7)):
        ax.text(0.93 - 0.137 * k, y, words, transform=ax.transAxes, **style)
    figure, seen = ax.figure, []
    for sheet in (figure.canvas, FigureCanvasAgg(figure)):
        sheet.draw()
        seen.append(np.asarray(sheet.buffer_rgba()).astype(int))
    return seen


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_words_look_as_matplotlib_draws_them(style):
    for words in ("κ = ‖A‖∞, gjpqy (ÂÅ)", "WWWWMMMM@@@@", "two\nlines", r"$\lambda^2$", " "):
        ours, theirs = drawn(style, words)
        assert abs(ours - theirs).max() <= ROUNDING
        assert words == " " or (ours != drawn(style, " ")[0]).any()


def test_the_same_words_are_set_once_and_other_ones_anew():
    canvas._lettering.cache_clear()
    ax = canvas.axes(None)
    frames = []
    for text in ("one", "one", "other"):
        canvas.words(ax, "it", 0.5, 0.5, text)
        canvas.png(ax.figure)
        frames.append((canvas._lettering.cache_info().misses, canvas.png(ax.figure)))
    (first, a), (same, b), (more, c) = frames
    assert same == first and more == first + 1
    assert a == b != c
