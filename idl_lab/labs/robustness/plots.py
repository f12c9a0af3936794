"""Pictures of attacks, of the sensitivity matrix, and of what is certified at which radius."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, INK, frame, line, styled, title
from idl_lab.labs.kit.plots import array, round_up
from idl_lab.labs.robustness.problems import BOUNDS

# From what is proven with least work, faint, to what is with most.
SHADES = {"S": "#c6c6c6", "norm": "#8e8e8e", "interval": COLOURS[5], "affine": COLOURS[0],
          "lp": COLOURS[2]}
WORDS = {"S": "S", "norm": "closed form", "interval": "intervals", "affine": "affine forms",
         "lp": "linear program"}


@styled
def draw_attack(u: Tensor, attacks: Mapping[str, Tensor], said: Mapping[str, int], label: int
                ) -> Figure:
    """An image, and below each attack's image what it changed.

    Parameters
    ----------
    u : Tensor, shape (h · h,)
        Pixels in [0, 1].
    attacks : mapping of str to Tensor
        The images after each attack, of the shape of u.
    said : mapping of str to int
        The model's answer to each.
    label : int

    Raises
    ------
    ValueError
        If there is no attack, or u is no square image.
    """
    if not attacks:
        raise ValueError("attacks must hold at least one, got none.")
    count = len(attacks) + 1
    layout = [list(range(count)), list(range(count, 2 * count))]
    axes = canvas.mosaic(None, layout, 1.75 * count, 4.0, left=0.02, right=0.98, bottom=0.03,
                         top=0.92, wspace=0.12, hspace=0.28)
    most = max(float((V - u).abs().max()) for V in attacks.values()) or 1.0
    _image(axes[0], u, f"the image: a {label}", cmap="gray_r", vmin=0, vmax=1)
    axes[count].set_axis_off()
    axes[count].text(0.5, 0.5, f"what was changed,\nblue −{most:.2g} to\nred +{most:.2g}",
                     ha="center", va="center", transform=axes[count].transAxes)
    for k, (name, V) in enumerate(attacks.items(), start=1):
        _image(axes[k], V, f"{name}: “{said[name]}”", cmap="gray_r", vmin=0, vmax=1)
        _image(axes[count + k], V - u, "", vmin=-most, vmax=most)
    return axes[0].figure


@styled
def draw_sensitivity(S: Tensor) -> Figure:
    """The rows of a sensitivity matrix as images: how far a pixel can move the score of a class.

    Parameters
    ----------
    S : Tensor, shape (10, h · h)

    Raises
    ------
    ValueError
        If its rows are no square images, or not ten.
    """
    rows = array("S", S, 2)
    if len(rows) != 10:
        raise ValueError(f"S must have a row for each of ten classes, got {len(rows)}.")
    axes = canvas.mosaic(None, [range(5), range(5, 10)], 7.6, 3.7, left=0.02, right=0.88,
                         bottom=0.03, top=0.93, wspace=0.12, hspace=0.2)
    high = round_up(rows.max())
    for k, ax in enumerate(axes):
        _image(ax, S[k], f"class {k}", cmap="magma_r", vmin=0, vmax=high)
    figure = axes[0].figure
    bar = figure.add_axes((0.905, 0.08, 0.018, 0.8))
    bar.imshow(np.linspace(1, 0, 64)[:, None], cmap="magma_r", aspect="auto",
               extent=(0, 1, 0, high))
    bar.set(xticks=[], yticks=[0, high / 2, high], yticklabels=["0", f"{high / 2:g}", f"{high:g}"])
    bar.yaxis.tick_right()
    return figure


@styled
def draw_certified(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy against ε of each model: what attacks leave, above, and what is certified, below.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        `study` of each model.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not tables:
        raise ValueError("tables must hold at least one, got none.")
    columns = min(4, len(tables))
    rows = math.ceil(len(tables) / columns)
    layout = [[*range(k * columns, (k + 1) * columns)] for k in range(rows)]
    height = 2.3 * rows + 0.5
    axes = canvas.mosaic(None, layout, 8.6, height, left=0.065, right=0.985, bottom=0.95 / height,
                         top=1 - 0.3 / height, wspace=0.22, hspace=0.5)
    for k, (ax, (name, table)) in enumerate(zip(axes, tables.items(), strict=False)):
        for bound in BOUNDS:
            if table[bound].notna().any():
                ax.plot(table["eps"], table[bound], marker="o", markersize=2.5,
                        color=SHADES[bound], label=WORDS[bound],
                        # Seen below a bound that proves as much.
                        linewidth=3.2 if bound == "norm" else 1.6)
        ax.plot(table["eps"], table["attacked"], "--", color=COLOURS[1], label="attacked")
        ax.fill_between(table["eps"], table["lp"], table["attacked"], color=COLOURS[1],
                        alpha=0.15, linewidth=0, label="not known")
        ax.axhline(table["clean"].iloc[0], color=INK, linewidth=0.8, linestyle=":", label="clean")
        ax.set(title=name, ylim=(-0.03, 1.03), xlim=(0, table["eps"].max() * 1.04))
        ax.set_ylabel("accuracy" if k % columns == 0 else "")
        ax.set_xlabel("ε")
    for ax in axes[len(tables):]:
        ax.set_axis_off()
    named: dict = {}
    for ax in axes[:len(tables)]:
        named |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    wanted = [name for name in (*WORDS.values(), "attacked", "not known", "clean") if name in named]
    axes[0].figure.legend([named[name] for name in wanted], wanted, loc="lower center",
                          ncols=len(wanted), columnspacing=1.2, handlelength=1.6)
    return axes[0].figure


@styled
def draw_margins(u: Tensor, attacked: Tensor, margins: Tensor, moved: Tensor,
                 known: Mapping[str, tuple[Tensor, Tensor]], label: int, eps: float, *,
                 figure: Figure | None = None) -> Figure:
    """One image and the worst found near it; its margins, and the bounds of them.

    Parameters
    ----------
    u, attacked : Tensor, shape (h · h,)
    margins, moved : Tensor, shape (q,)
        ŷ_label − ŷ_j at the image and at the attacked one; 0 for the label itself.
    known : mapping of str to (Tensor, Tensor)
        Of the names of `BOUNDS`, the widest first: lower and upper bounds of the margins.
    label : int
    eps : float
    figure : Figure, optional
        From an earlier call.
    """
    left, middle, right = canvas.mosaic(
        figure, ["abc"], 8.4, 3.3, width_ratios=[1, 1, 2.3], left=0.01, right=0.99, bottom=0.15,
        top=0.86, wspace=0.16)
    first, last = array("margins", margins[None], 2)[0], array("moved", moved[None], 2)[0]
    others = np.array([j for j in range(len(first)) if j != label])
    now = int(last.argmin()) if last[others].min() < 0 else label
    _image(left, attacked, f"within ε = {eps:.3g}: “{now}”", cmap="gray_r", vmin=0, vmax=1)
    _image(middle, attacked - u, "blue −ε, red +ε", vmin=-max(eps, 1e-9),
           vmax=max(eps, 1e-9))
    ends = {name: array(name, torch.stack(pair), 2) for name, pair in known.items()}
    low = min([*(e[0][others].min() for e in ends.values()), last[others].min(), 0.0])
    high = max([*(e[1][others].max() for e in ends.values()), first[others].max()])
    if frame(right, xticks=tuple(range(len(first))), xlabel="class j",
             xlim=(-0.7, len(first) - 0.3), ylim=(-round_up(-low), round_up(high)),
             ylabel=""):
        right.axhline(0, color=INK, linewidth=0.8)
    for k, name in enumerate(("norm", "interval", "affine")):
        e = ends.get(name, np.full((2, len(first)), np.nan))
        line(right, name, *canvas.stems(others, e[0][others], e[1][others]),
             color=SHADES[name], linewidth=17 - 6 * k, solid_capstyle="butt")
    line(right, "clean", others, first[others], "_", color=INK, markersize=17)
    line(right, "attack", others, last[others], "x", color=COLOURS[1], markersize=6)
    worst = max(e[0][others].min() for e in ends.values())
    verdict = ("wrong as it is" if first[others].min() <= 0 else "certified" if worst > 0
               else "broken" if now != label else "not known")
    title(right, f"ŷ of {label} less ŷ of j: lowest {worst:.2f}, {verdict}")
    return left.figure


def _image(ax: Axes, pixels: Tensor, text: str, **style) -> None:
    flat = array("an image", pixels.reshape(1, -1), 2)[0]
    side = math.isqrt(len(flat))
    if side * side != len(flat):
        raise ValueError(f"an image must be square, got {len(flat)} pixels.")
    known = canvas.moving(ax).get("image")
    if frame(ax, xticks=[], yticks=[]):
        ax.spines[:].set_visible(False)
    canvas.picture(ax, "image", flat.reshape(side, side), **style)
    if known is not None and "vmax" in style:
        known.set_clim(style["vmin"], style["vmax"])
    if text:
        title(ax, text)
