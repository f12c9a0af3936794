"""Solvers of one convex problem side by side, and what λ buys."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.canvas import COLOURS, FAINT, INK, frame, line, styled, title, words
from idl_lab.labs.kit.plots import array, fidelity_axis, lacking
from idl_lab.sim.solvers import SolveResult

FLOOR = 1e-12  # of relative figures that are drawn on a log scale
CELLS = {"objective": 0.64, "own gap": 0.74, "‖A‖∞": 0.87, "non-zeros": 1.0}  # right edges
FIRST, LAST = {"seconds": 1e-3, "step": 0.8}, {"seconds": 10.0, "step": 1e3}


@styled
def draw_solves(runs: Mapping[str, SolveResult | pd.DataFrame], kappa: float, *,
                against: str = "seconds", tol: float | None = None, verdict: str = "",
                figure: Figure | None = None) -> Figure:
    """Several solves of one problem: objective, duality gap, and what they found.

    Parameters
    ----------
    runs : mapping of str to SolveResult or DataFrame
        Finished solves, or the `SolveResult.history` so far of those that still run, empty before
        they start. At most six.
    kappa : float
        κ, to which each ‖A‖∞ is compared.
    against : {"seconds", "step"}
    tol : float, optional
        The relative gap at which solvers stop.
    verdict : str
        A line above the picture.
    figure : Figure, optional
        From an earlier call.

    Notes
    -----
    The left picture measures every objective from the largest lower bound that any of the runs
    has proved: a solver may be closer to the optimum than it can prove itself. An answer below
    that bound is not feasible; it has a triangle at the bottom.
    """
    _check(runs)
    validation.choice("against", against, tuple(FIRST))
    validation.real("kappa", kappa, at_least=0.0)
    if figure is None:
        table = 0.22 * (len(runs) + 1)  # inches
        height = 3.1 + table
        figure = canvas.row(None, 2, 8.4, height, left=0.07, right=0.975, wspace=0.2,
                            bottom=(table + 0.65) / height, top=1 - 0.6 / height)[0].figure
        figure.add_axes((0.02, 0.0, 0.965, (table + 0.1) / height))
    axes = figure.axes
    headings = "objective above the best lower bound", "own duality gap"
    longest = max((h[against].max() for h in map(_history, runs.values()) if len(h)), default=0.0)
    right = max(LAST[against], 10.0 ** np.ceil(np.log10(max(longest, 1e-9))))
    for ax, heading in zip(axes, headings, strict=False):
        if frame(ax, xscale="log", yscale="log", xlim=(FIRST[against], right),
                 ylim=(FLOOR / 3, 30), xlabel=against):
            ax.set_title(f"{heading}, relative", fontsize=9)
    if tol is not None:
        line(axes[1], "tol", [FIRST[against], right], [tol, tol], "--", color=FAINT, linewidth=1)
    if frame(axes[2], xlim=(0, 1), ylim=(len(runs) + 1, 0)):
        axes[2].set_axis_off()
        for heading, x in CELLS.items():
            axes[2].text(x, 0, heading, ha="right", va="top", color="#777777")
    bound = _bound(runs)
    for k, (name, run) in enumerate(runs.items()):
        _draw_curves(axes[:2], k, _history(run), bound, against)
        _draw_words(axes[2], k, 1 - (k + 1) / (len(runs) + 1), name, run, kappa, against)
    words(axes[0], "verdict", -0.13, 1.19, verdict, fontsize=10, weight="bold")
    return axes[0].figure


def _check(runs: Mapping[str, SolveResult | pd.DataFrame]) -> None:
    if not isinstance(runs, Mapping):
        raise TypeError(f"runs must be a mapping of names to SolveResult, got "
                        f"{type(runs).__name__}.")
    if not 0 < len(runs) <= len(COLOURS):
        raise ValueError(f"runs must hold 1 to {len(COLOURS)} solves, got {len(runs)}.")
    for name, run in runs.items():
        if not isinstance(run, SolveResult | pd.DataFrame):
            raise TypeError(f"{name!r} must be a SolveResult or its history, got "
                            f"{type(run).__name__}.")


def _history(run: SolveResult | pd.DataFrame) -> pd.DataFrame:
    return run.history if isinstance(run, SolveResult) else run


def _bound(runs: Mapping[str, SolveResult | pd.DataFrame]) -> float:
    """The best lower bound on the optimum that any of them has proved."""
    proved = [(h["objective"] - h["gap"]).max() for h in map(_history, runs.values()) if len(h)]
    return max(proved, default=0.0)


def _draw_curves(axes: list[Axes], k: int, history: pd.DataFrame, bound: float, against: str
                 ) -> None:
    x, objective, gap = (history[name].to_numpy(float) if len(history) else np.empty(0)
                         for name in (against, "objective", "gap"))
    above = objective / bound - 1 if bound > 0 else np.full_like(objective, np.nan)
    below = above < -1e-9
    share = _share(gap, objective)
    for ax, y in zip(axes, (np.where(below, np.nan, above), share), strict=True):
        # A point of an earlier solver never hides one of a later: the last is the smallest.
        line(ax, f"curve {k}", x, np.maximum(y, FLOOR), "-", color=COLOURS[k], marker="o",
             markersize=4 - 0.3 * k)
    line(axes[0], f"below {k}", x[below], np.full(below.sum(), FLOOR), "v", color=COLOURS[k],
         markersize=7)


def _share(gap: np.ndarray, objective: np.ndarray) -> np.ndarray:
    return gap / np.maximum(objective, np.finfo(float).tiny)


def _spent(steps: float, seconds: float, against: str) -> str:
    if against == "seconds":
        return f"{seconds:.2f} s"
    return f"{steps:.0f} step{'' if steps == 1 else 's'}"


def _draw_words(ax: Axes, k: int, top: float, name: str, run: SolveResult | pd.DataFrame,
                kappa: float, against: str) -> None:
    history = _history(run)
    status, cells = "not run", [""] * 4
    if len(history):
        last = history.iloc[-1]
        status = f"running, {_spent(last['step'], last['seconds'], against)}"
        share = _share(last["gap"], last["objective"])
        cells[:2] = f"{last['objective']:.6g}", f"{share:.0e}"
    if isinstance(run, SolveResult):
        norm, stats = run.stats.inf_norm, run.stats
        status = f"{run.status.name}, {_spent(stats.steps, stats.seconds, against)}"
        cells = (f"{float(stats.objective.sum()):.6g}", f"{stats.relative_gap:.0e}",
                 f"{norm:.3g} {'≤' if norm <= kappa else '>'} κ", f"{stats.nonzeros}")
    words(ax, f"name {k}", 0.0, top, name, color=COLOURS[k], weight="bold", va="top")
    words(ax, f"status {k}", 0.25, top, status, color=INK, va="top")
    for j, (x, cell) in enumerate(zip(CELLS.values(), cells, strict=True)):
        words(ax, f"cell {k} {j}", x, top, cell, color=INK, ha="right", va="top")


@styled
def draw_patterns(matrices: Mapping[str, Tensor], n: int) -> Figure:
    """Which entries of [A B] are not zero.

    Parameters
    ----------
    matrices : mapping of str to Tensor, shape (k, d)
        At least one; all of one shape.
    n : int
        Columns of A.

    Raises
    ------
    ValueError
        Without a matrix, and if shapes or n do not fit.
    """
    if not matrices:
        raise ValueError("matrices must hold at least one matrix, got none.")
    shown = {name: array(name, W, 2) for name, W in matrices.items()}
    if len({W.shape for W in shown.values()}) > 1:
        raise ValueError(f"matrices must have one shape, got "
                         f"{', '.join(str(W.shape) for W in shown.values())}.")
    k, d = next(iter(shown.values())).shape
    validation.integer("n", n)
    if n > d:
        raise ValueError(f"n must be at most d={d}, the number of columns, got {n}.")
    width = 8.4 / max(len(shown), 3)
    axes = canvas.row(None, len(shown), width * len(shown), 0.95 * width * k / d + 0.7, left=0.01,
                      right=0.99, bottom=0.14, top=0.84, wspace=0.08)
    for ax, (name, W) in zip(axes, shown.items(), strict=True):
        ax.imshow(W != 0, cmap="Greys", vmin=0, vmax=1.25, interpolation="nearest", aspect="auto")
        ax.axvline(n - 0.5, color=COLOURS[1], linewidth=1.2)
        ax.set(xticks=[], yticks=[])
        ax.spines[["top", "right"]].set_visible(True)
        title(ax, f"{name}: {np.count_nonzero(W)} non-zero")
        for at, part in ((0.5 * n / d, "A"), (0.5 * (1 + n / d), "B")):
            ax.text(at, -0.04, part, transform=ax.transAxes, ha="center", va="top")
    return axes[0].figure


PICTURES = {"fidelity": "Fidelity to the teacher", "accuracy": "Accuracy on samples set apart",
            "nonzeros": "Non-zero entries of A, B, C, D", "gap": "Relative duality gap"}


@styled
def draw_path(paths: Mapping[str, pd.DataFrame], way: str, lam: float, teacher: float, *,
              figure: Figure | None = None) -> Figure:
    """What λ does: fidelity, accuracy, non-zeros and duality gap against it.

    A ring is at the λ that is looked at, a dashed line at the one that is chosen.

    Parameters
    ----------
    paths : mapping of str to pandas.DataFrame
        How the weights were found, and the table of `SIM.path` with a val_loader of class labels;
        at most six.
    way : str
        The path that is looked at.
    lam : float
        Its λ, one of the index.
    teacher : float
        The teacher's accuracy.
    figure : Figure, optional
        From an earlier call.

    Raises
    ------
    TypeError, ValueError
        Without paths, for a table without these columns or one chosen row, and for a way or a λ
        that there is not.
    """
    _check_paths(paths)
    validation.choice("way", way, paths)
    if lam not in paths[way].index:
        raise ValueError(f"lam must be one of the table's {list(paths[way].index)}, got {lam}.")
    axes = dict(zip(PICTURES, canvas.mosaic(
        figure, [("fidelity", "accuracy"), ("nonzeros", "gap")], 8.4, 4.7, left=0.085, right=0.985,
        bottom=0.15, top=0.855, wspace=0.2, hspace=0.5), strict=True))
    table, every = paths[way], pd.concat(list(paths.values()))
    here, chosen = table.loc[lam], table.index[table["chosen"].to_numpy(bool)][0]
    xlim = every.index.min() / 2, every.index.max() * 2
    for name, ax in axes.items():
        values = {key: _shown(name, path[name]) for key, path in paths.items()}
        low, high = _limits(name, np.concatenate(list(values.values())), teacher)
        scale = {"yscale": "log"} if name in ("fidelity", "gap") else {}
        if frame(ax, xscale="log", xlim=xlim, ylim=(low, high), **scale):
            _dress(name, ax)
        line(ax, "chosen", [chosen, chosen], [low, high], "--", color=INK, linewidth=0.9,
             label="chosen λ")
        if name == "accuracy":
            line(ax, "teacher", xlim, [teacher, teacher], ":", color=INK, linewidth=1.2,
                 label="teacher")
        for k, (key, path) in enumerate(paths.items()):
            line(ax, key, path.index.to_numpy(float), values[key], "so^vDP"[k] + "-",
                 color=COLOURS[k], markersize=4, label=key)
        line(ax, "here", [lam], _shown(name, table.loc[[lam], name]), "o", color=INK,
             markersize=11, fillstyle="none")
        title(ax, PICTURES[name])
    if figure is None:
        first = axes["accuracy"]
        first.figure.legend(*first.get_legend_handles_labels(), loc="lower center", ncols=6)
    words(axes["fidelity"], "verdict", -0.13, 1.25,
          f"λ = {lam:.3g}, {way}: fidelity {here['fidelity']:.5f}, accuracy "
          f"{100 * here['accuracy']:.1f} %, {here['nonzeros']:.0f} non-zeros. Chosen: λ = "
          f"{chosen:.3g}", fontsize=10, weight="bold")
    return axes["fidelity"].figure


def _check_paths(paths: Mapping[str, pd.DataFrame]) -> None:
    if not isinstance(paths, Mapping) or not 0 < len(paths) <= len(COLOURS):
        raise TypeError(f"paths must be a mapping of 1 to {len(COLOURS)} names to tables, got "
                        f"{type(paths).__name__}.")
    for key, table in paths.items():
        if not isinstance(table, pd.DataFrame):
            raise TypeError(f"{key!r} must be a pandas.DataFrame with a row for each λ, got "
                            f"{type(table).__name__}.")
        for name in (*PICTURES, "chosen"):
            validation.choice("column", name, table.columns)
        if table["chosen"].sum() != 1:
            raise ValueError(f"{key!r} must have one chosen row, got {table['chosen'].sum()}.")


def _shown(name: str, values: pd.Series) -> np.ndarray:
    """As the axis takes them: of a fidelity what it lacks to 1."""
    shown = values.to_numpy(float)
    if name == "fidelity":
        return lacking(shown)
    return np.maximum(shown, FLOOR) if name == "gap" else shown


def _limits(name: str, values: np.ndarray, teacher: float) -> tuple[float, float]:
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.ones(1)
    if name in ("fidelity", "gap"):  # whole decades, so that the frame stands while λ moves
        low, high = (10.0 ** end for end in (np.floor(np.log10(values.min()) - 0.2),
                                             np.ceil(np.log10(values.max()) + 0.2)))
        return (high, low) if name == "fidelity" else (low, high)
    if name == "nonzeros":
        return 0.0, 1.08 * max(values.max(), 1.0)
    low, high = min(values.min(), teacher), max(values.max(), teacher)
    room = 0.08 * max(high - low, 0.01)
    return low - room, high + room


def _dress(name: str, ax: Axes) -> None:
    """What an axis has from its first drawing on."""
    ax.set_xlabel("λ", labelpad=1)
    if name == "fidelity":
        fidelity_axis(ax.yaxis)
    if name == "accuracy":
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.3g} %"))
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.5)
