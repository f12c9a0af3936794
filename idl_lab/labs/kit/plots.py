"""Pictures that several labs share, and what drawing functions ask of their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words


def array(name: str, values: Tensor | np.ndarray, axes: int) -> np.ndarray:
    """The numbers as a float array with that many axes; a diverged solve may bring NaN.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    values : Tensor or ndarray
    axes : int
        How many they must have.

    Raises
    ------
    ValueError
        If they have another number of axes, or there are none.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != axes or array.size == 0:
        raise ValueError(f"{name} must have {axes} axes, got shape {array.shape}.")
    return array.astype(float)


def check_solutions(solutions: Mapping[str, Solution], states: bool = False) -> None:
    """Check a mapping of names to solutions, with their states where these are drawn."""
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
    check_solutions(solutions)
    tol is None or validation.real("tol", tol, above=0.0)
    step is None or validation.integer("step", step, at_least=0)
    ax = canvas.axes(ax)
    curves = {name: array("residuals", s.trace.worst, 1) for name, s in solutions.items()}
    reach = max_steps or max(*(s.stats.steps for s in solutions.values()), 2)
    top = max(np.max(c, where=np.isfinite(c), initial=1) for c in curves.values())
    high = 4 if tol else 1 + int(np.log10(top))
    low = int(np.floor(np.log10(tol))) - 2 if tol else -17
    if frame(ax, xlim=(0, reach + 0.5), xlabel="step", yscale="log",
             ylim=(10.0 ** low, 10.0 ** min(high, 30)), title="Residual ‖f(x) − x‖∞") and tol:
        ax.axhline(tol, color=INK, linestyle="--", linewidth=0.8)
    # From one name to the next, in fractions of the axis: 0.16 inches, whatever its height.
    below = 0.16 / (ax.get_position(original=True).height * ax.figure.get_figheight())
    for k, (name, residual) in enumerate(curves.items()):
        colour, solution = COLOURS[k % len(COLOURS)], solutions[name]
        seen = np.where((residual > 0) & np.isfinite(residual), residual, np.nan)
        tested = solution.trace.steps  # a lean solve has no residual for the other steps
        steps = np.arange(1, len(seen) + 1) if tested is None else np.array(tested)
        at = len(seen) if step is None else int((steps <= step).sum())
        line(ax, f"rest {k}", steps, seen, color=colour, alpha=0.3)
        line(ax, f"curve {k}", steps[:at], seen[:at], color=colour)
        line(ax, f"dot {k}", steps[at - 1:at] if at else [], seen[at - 1:at] if at else [], "o",
             color=colour, markersize=5)
        how = "" if solution.status.ok else ", not converged"
        corner(ax, f"name {k}", 1 - k * below, f"{name}: {solution.stats.steps} steps{how}", colour)
    if tol:
        corner(ax, "tol", 1 - len(curves) * below, f"dashed: tol = {canvas.power(tol)}", INK)
    return ax.figure


@styled
def draw_history(history: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Training loss and validation metric against the epoch, from `training.fit`'s table.

    Parameters
    ----------
    history : pandas.DataFrame
    ax : Axes, optional
        Where to draw; a new figure by default.

    Raises
    ------
    TypeError
        If it is no such table.
    """
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


def round_up(size: float) -> float:
    """``size`` or the next of …, 1, 1.5, 2, 3, 5, 7.5, 10, …, where an axis ends.

    A frame that moves with every position of a slider is drawn anew every time, and no two
    pictures can be compared.
    """
    power = 10.0 ** np.floor(np.log10(max(size, 1e-12)))
    ends = power * np.array([1, 1.5, 2, 3, 5, 7.5, 10])
    return float(ends[np.argmax(ends * (1 + 1e-9) >= size)])


def colour_bar(ax: Axes, low: float, high: float) -> None:
    """The colours of a picture drawn with values / high on [−1, 1], from ``low`` to ``high``.

    Parameters
    ----------
    ax : Axes
    low, high : float
        The ends of the values; ``high`` is the size of the largest.
    """
    canvas.picture(ax, "colours", np.linspace(-1, 1, 201)[:, None], vmin=-1, vmax=1, origin="lower",
                   aspect="auto", extent=(0, 1, -1, 1))
    marks = sorted({low / high, 0.0, 1.0})
    if frame(ax, xticks=[], ylim=(low / high, 1), yticks=marks,
             yticklabels=[f"{mark * high:.3g}" for mark in marks]):
        ax.yaxis.tick_right()
        ax.spines[:].set_visible(False)


Blocks = Sequence[tuple[str, int]]


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

    Raises
    ------
    ValueError
        If the sizes of the arguments do not fit one another.
    """
    old, new = (np.abs(array(key, M, 2)).sum(axis=1) for key, M in (
        ("before", before), ("after", after)))
    if old.shape != new.shape:
        raise ValueError(f"before and after must have the same number of rows, got {len(old)} and "
                         f"{len(new)}.")
    check_blocks("blocks", blocks, len(old))
    ax = canvas.axes(ax, 4.2, 3.2)
    state_axes(ax, blocks, (1e-2, 1e2), "row sum of |A|")
    for key, sums, colour, width in (("before", old, FAINT, 5.0), ("after", new, COLOURS[0], 2.0)):
        line(ax, key, *bars(np.clip(sums, 1e-3, None)), color=colour, linewidth=width,
             solid_capstyle="butt")
    line(ax, "kappa", [0, len(old)], [kappa, kappa], "--", color=INK, linewidth=0.9)
    corner(ax, "name before", 0.975, f"before: ‖A‖∞ = {old.max():.3g}", "#777777")
    corner(ax, "name after", 0.905, f"after: ‖A‖∞ = {new.max():.3g} ≤ κ", COLOURS[0])
    title(ax, "Row sums")
    return ax.figure


def check_blocks(what: str, blocks: Blocks, size: int) -> None:
    """Check that blocks are pairs of a name and a size that add up.

    Parameters
    ----------
    what : str
        The argument's name, for the message.
    blocks : sequence of (str, int)
        Names and sizes of the blocks of states.
    size : int
        What the sizes must add up to.

    Raises
    ------
    ValueError
        If they do not.
    """
    sizes = [validation.integer("size", n, at_least=1) for _, n in blocks]
    if sum(sizes) != size:
        raise ValueError(f"{what} must have sizes that add up to {size}, got {sum(sizes)}.")


def edges_of(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Where one block ends and the next begins; and the blocks' middles."""
    ends = np.cumsum([size for _, size in blocks])
    return ends[:-1], ends - 0.5 * np.array([size for _, size in blocks])


def bars(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line's points for one short horizontal bar a state.

    Parameters
    ----------
    values : ndarray, shape (n,)
        The bars' heights.
    """
    at, gap = np.arange(len(values)), np.full(len(values), np.nan)
    bars = np.column_stack([values, values, gap])
    return np.column_stack([at, at + 1, gap]).ravel(), bars.ravel()


def name_blocks(axis: Axis, middles: np.ndarray, blocks: Blocks) -> None:
    """The blocks' names at their middles; matplotlib ties a tick's name to its place.

    Parameters
    ----------
    axis : Axis
    middles : ndarray
        As `edges_of` gives them.
    blocks : sequence of (str, int)
        Names and sizes of the blocks of states.
    """
    wanted = tuple(middles), tuple(name for name, _ in blocks)
    if getattr(axis, "idl_lab_names", None) != wanted:
        axis.set_ticks(*wanted)
        axis.idl_lab_names = wanted


def corner(ax: Axes, key: str, y: float, text: str, colour: str) -> None:
    """A line of a legend at the right, on a ground that keeps it legible above a curve.

    Parameters
    ----------
    ax : Axes
    key : str
        The text's name, by which it is drawn anew.
    y : float
        Its height, in fractions of the axes.
    text, colour : str
    """
    words(ax, key, 0.985, y, text, color=colour, ha="right", va="top", fontsize=8,
          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})


def state_axes(ax: Axes, blocks: Blocks, ylim: tuple[float, float], ylabel: str) -> None:
    """Axes with the states from left to right, their blocks named below, and a log scale.

    Parameters
    ----------
    ax : Axes
    blocks : sequence of (str, int)
        Names and sizes of the blocks of states.
    ylim : (float, float)
    ylabel : str
    """
    edges, middles = edges_of(blocks)
    low, high = (float(end) for end in ylim)
    if frame(ax, yscale="log", xlim=(0, sum(size for _, size in blocks)), ylim=(low, high),
             ylabel=ylabel):
        ax.axhline(1, color=FAINT, linewidth=0.8)
        ax.tick_params(axis="x", length=0)
    name_blocks(ax.xaxis, middles, blocks)
    x = np.concatenate([[np.nan], *([e, e, np.nan] for e in edges)])
    line(ax, "edges", x, np.concatenate([[np.nan], *([low, high, np.nan] for _ in edges)]),
         color=FAINT, linewidth=0.6)


def level(ax: Axes, accuracy: float, images: int) -> tuple[float, float]:
    """An accuracy as a dashed line, in a band of one standard error of the test set.

    Parameters
    ----------
    ax : Axes
    accuracy : float
        p, in [0, 1].
    images : int
        m, of the test set.

    Returns
    -------
    low, high : float
        The ends of the band, p ± √(p(1 − p)/m).
    """
    validation.real("teacher", accuracy, at_least=0.0, at_most=1.0)
    error = (accuracy * (1 - accuracy) / validation.integer("images", images)) ** 0.5
    ax.axhline(accuracy, color=INK, linestyle="--", linewidth=0.9, label="teacher")
    ax.axhspan(accuracy - error, accuracy + error, color=FAINT, alpha=0.3, linewidth=0,
               label="± standard error")
    return accuracy - error, accuracy + error


CLOSEST = 1e-7  # of 1 − fidelity: nearer to its teacher than that no model in float32 comes


def lacking(fidelity: np.ndarray) -> np.ndarray:
    """1 − fidelity, as the axis of `fidelity_axis` takes it."""
    return np.clip(1 - np.asarray(fidelity, float), CLOSEST, None)


def fidelity_axis(axis: Axis) -> None:
    """Names a logarithmic axis of 1 − fidelity by the fidelity: 0, 0.9, 0.99, …

    Parameters
    ----------
    axis : Axis
    """
    canvas.log_axis(axis, lambda lacks: f"{1 - lacks:.7g}")
