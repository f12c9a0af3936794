"""A layer of any module: short gradients and their price, its training, its iterates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array, check_solutions, draw_residuals

_LIMIT = 6.0  # of the states that are drawn; what lies beyond is on its way to infinity
TOP = 3.0  # of ρ


@styled
def draw_short_gradients(terms: Sequence[int], errors: Mapping[str, Sequence[float]],
                         ax: Axes | None = None) -> Figure:
    """Relative error of cut gradients against the number of terms or steps k, log scale.

    Parameters
    ----------
    terms : sequence of int
    errors : mapping of str to sequence of float
        A curve a kind, one number for each k.
    ax : Axes, optional

    Raises
    ------
    ValueError
        If a curve has another length than ``terms``.
    """
    k, ax, low = array("terms", terms, 1), canvas.axes(ax), 0.1
    for colour, (name, values) in zip(COLOURS, errors.items(), strict=False):
        curve = array(f"errors[{name!r}]", values, 1)
        if curve.size != k.size:
            raise ValueError(f"errors[{name!r}] must hold {k.size} numbers, one for each k, got "
                             f"{curve.size}.")
        ax.plot(k, curve, "o-", color=colour, markersize=4, label=name)
        low = min(low, *curve)
    frame(ax, yscale="log", xlim=(0, k[-1] + 1), ylim=(low / 3, 1.5), xlabel="terms or steps k",
          title="Relative error of the gradient")
    ax.legend(loc="lower left")
    return ax.figure


@styled
def draw_table(table: pd.DataFrame) -> Figure:
    """Cosine with the exact gradient, memory and time of each way to take it, as bars.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `gradient_table`.

    Raises
    ------
    TypeError
        If it is no such table.
    """
    if not {"cosine", "memory", "seconds"} <= set(getattr(table, "columns", ())):
        raise TypeError(f"table must be that of gradient_table, got {type(table).__name__}.")
    axes = canvas.row(None, 3, 8.4, 2.5, left=0.16, right=0.975, bottom=0.1, wspace=0.14)
    at = np.arange(len(table))[::-1]
    for ax, colour, (name, factor, digits, heading) in zip(axes, COLOURS, (
            ("cosine", 1, 2, "Cosine with the exact gradient"),
            ("memory", 1e-6, 1, "Both passes hold, MB"),
            ("seconds", 1e3, 1, "Backward pass, ms (this machine)")), strict=False):
        values = array(name, table[name].to_numpy(), 1) * factor
        ax.barh(at, np.maximum(values, 0), 0.6, color=colour)
        for y, value in zip(at, values, strict=True):
            ax.text(max(value, 0) + 0.02 * values.max(), y, f"{value:.{digits}f}", va="center",
                    fontsize=8)
        ax.set(xlim=(0, 1.22 * max(values.max(), 1e-9)), xticks=[], title=heading)
        ax.set_yticks(at, table.index if ax is axes[0] else [""] * len(at))
    return axes[0].figure


@styled
def draw_courses(tables: Mapping[str, pd.DataFrame], rtol: float,
                 starts: Mapping[str, int] | None = None) -> Figure:
    """Trainings side by side: ρ, the residual that the solve left, and the accuracy, by epoch.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        Of `train`, a curve each.
    rtol : float
        What the residual should be below, a dashed line.
    starts : mapping of str to int, optional
        The epoch at which a training began; 0 by default.

    Raises
    ------
    TypeError
        If one is no such table.
    """
    axes = canvas.row(None, 3, 8.4, 2.9, left=0.06, bottom=0.16, top=0.82, wspace=0.24)
    last = 1
    for k, (name, table) in enumerate(tables.items()):
        if not {"radius", "residual", "accuracy"} <= set(getattr(table, "columns", ())):
            raise TypeError(f"tables[{name!r}] must be that of train, got {type(table).__name__}.")
        at = table.index.to_numpy() + (starts or {}).get(name, 0)
        last = max(last, at[-1])
        for ax, column in zip(axes, ("radius", "residual", "accuracy"), strict=True):
            values = np.clip(table[column].to_numpy(), 1e-7, None)
            ax.plot(at, values, "o-", color=COLOURS[k % len(COLOURS)], markersize=4)
    for ax, heading in zip(axes, ("ρ, the Jacobian's largest eigenvalue", "Residual ÷ ‖z‖∞",
                                  "Test accuracy"), strict=True):
        ax.set(xlim=(-0.2, last + 0.2), xlabel="epoch", title=heading)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(0, None)
    axes[0].axhline(1, color=INK, linestyle="--", linewidth=0.8)
    axes[1].set(yscale="log", ylim=(rtol / 100, 10))
    axes[1].axhline(rtol, color=INK, linestyle="--", linewidth=0.8)
    canvas.log_axis(axes[1].yaxis)
    axes[2].set_ylim(0, 1.02)
    axes[0].figure.legend(axes[0].lines[:len(tables)], list(tables), loc="upper center",
                          ncols=len(tables))
    return axes[0].figure


@styled
def _iterates(states: Tensor, ax: Axes | None = None, *, max_steps: int | None = None
                  ) -> Figure:
    """Some components of the state against the step of the plain iteration.

    Parameters
    ----------
    states : Tensor, shape (steps + 1, n)
        Of at most six components; above 6 they are cut off.
    ax : Axes, optional
    max_steps : int, optional
        Right end of the axis; the last step by default.

    Raises
    ------
    ValueError
        If there are more components than colours.
    """
    values = array("states", states, 2)
    if values.shape[1] > len(COLOURS):
        raise ValueError(f"states must have at most {len(COLOURS)} components, got "
                         f"{values.shape[1]}.")
    ax = canvas.axes(ax)
    frame(ax, xlim=(0, max_steps or len(values) - 1), ylim=(-0.3, _LIMIT), xlabel="step")
    values = np.where(np.isfinite(values), np.minimum(values, 2 * _LIMIT), np.nan)
    for k, component in enumerate(values.T):
        line(ax, f"component {k}", np.arange(len(component)), component, color=COLOURS[k],
             linewidth=1.2)
    title(ax, "z ← f(z, u): four components")
    return ax.figure


@styled
def _radius(gains: Sequence[float], radii: Sequence[float], gain: float, radius: float,
                ax: Axes | None = None) -> Figure:
    """ρ at the equilibrium against the factor of the weights, with the chosen one marked.

    Parameters
    ----------
    gains, radii : sequence of float
        NaN where no equilibrium was found.
    gain, radius : float
    ax : Axes, optional
    """
    x, y = (array(name, v, 1) for name, v in (("gains", gains), ("radii", radii)))
    ax = canvas.axes(ax)
    if frame(ax, xlim=(0, x[-1]), ylim=(0, TOP), xlabel="every weight times s"):
        ax.axhline(1, color=INK, linestyle="--", linewidth=0.8)
    line(ax, "curve", x, np.minimum(y, 2 * TOP), color=COLOURS[0])
    line(ax, "here", [gain, gain], [0, min(radius, TOP) if np.isfinite(radius) else 0],
         color=INK, linewidth=0.8)
    line(ax, "dot", [gain], [radius], "o", color=INK)
    said = f"ρ = {radius:.2f}" if np.isfinite(radius) else "no equilibrium found"
    words(ax, "said", 0.03, 0.95, said, va="top", fontsize=9, weight="bold")
    title(ax, "ρ at the equilibrium")
    return ax.figure


@styled
def draw_stability(solutions: Mapping[str, Solution], components: Sequence[int],
                   gains: Sequence[float], radii: Sequence[float], gain: float, radius: float,
                   tol: float, max_steps: int, *, figure: Figure | None = None) -> Figure:
    """What scaled weights do: the plain iterates, each solver's residual, and ρ.

    Parameters
    ----------
    solutions : mapping of str to Solution
        With their states, the plain iteration's first.
    components : sequence of int
        Which of the state are drawn.
    gains, radii, gain, radius
        As for `_radius`.
    tol : float
        The absolute tolerance of the solves.
    max_steps : int
        Theirs, where the axes end.
    figure : Figure, optional
        From an earlier call.
    """
    check_solutions(solutions, states=True)
    axes = canvas.row(figure, 3, 8.4, 3.0, left=0.05, bottom=0.16, top=0.87, wspace=0.25)
    plain = next(iter(solutions.values())).trace.states
    _iterates(plain.flatten(1)[:, list(components)], axes[0], max_steps=max_steps)
    draw_residuals(solutions, tol=tol, ax=axes[1], max_steps=max_steps)
    _radius(gains, radii, gain, radius, axes[2])
    return axes[0].figure
