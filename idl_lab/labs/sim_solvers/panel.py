"""Lab 08's panels: solves in the background, whose curves grow as they run; and what λ does."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from idl_lab import validation
from idl_lab.labs.kit.canvas import COLOURS
from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.labs.sim_solvers.plots import draw_path, draw_solves
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import BaseSolver, SolveResult, SolveStatus

PERIOD = 0.2  # seconds between two pictures of a solve that runs
COLUMNS = ["step", "seconds", "objective", "gap"]


class SolverComparison(Panel):
    """Solvers of one problem, one after the other in a thread beside the kernel.

    One thread, so that their seconds can be compared. It only computes: pictures are drawn by
    the kernel's own loop, which the thread tells that there is news. Without a loop, in a
    script, `run` and `wait` draw.

    Parameters
    ----------
    problem : Problem
        With a ball; κ and λ are the controls'.
    solvers : mapping of str to BaseSolver
        At most six.
    chosen : sequence of str, optional
        The solvers that are selected at first; all where it is None.
    kappa : float
        Where its slider starts, in [0.1, 1].
    digits : float
        Where the slider of log₁₀ λ starts, in [−2, 2] by halves.

    Attributes
    ----------
    runs : dict of str to SolveResult or DataFrame
        At the controls' κ and λ: of each solver the result, or its history so far.
    running : bool
    """

    def __init__(self, problem: Problem, solvers: Mapping[str, BaseSolver],
                 chosen: Sequence[str] | None = None, kappa: float = 0.9, digits: float = 0.0
                 ) -> None:
        _check(problem, solvers)
        self.problem = problem
        self.solvers = {name: dataclasses.replace(solver, progress=False)
                        for name, solver in solvers.items()}
        chosen = tuple(solvers if chosen is None else chosen)
        for name in chosen:
            validation.choice("chosen", name, list(solvers))
        self.running = False
        self._kept: dict[tuple[float, float], dict[str, list[dict] | SolveResult]] = {}
        self._stop, self._thread, self._loop = threading.Event(), None, None
        self._error: BaseException | None = None
        layout = {"width": "90px"}
        self._start = ipywidgets.Button(description="Run", icon="play", layout=layout)
        self._cancel = ipywidgets.Button(description="Cancel", icon="stop", layout=layout)
        self._lines = ipywidgets.HTML()
        self._start.on_click(lambda _: self._shown(self.run))
        self._cancel.on_click(lambda _: self.cancel())
        super().__init__(self._picture, {
            "solvers": ipywidgets.SelectMultiple(
                options=list(solvers), value=chosen, rows=len(solvers),
                description="solvers (Ctrl: several)", style={"description_width": "initial"},
                layout={"width": "330px"}),
            "kappa": slider(kappa, 0.1, 1.0, 0.01, "κ"),
            "digits": slider(digits, -2.0, 2.0, 0.5, "log₁₀ λ")})
        controls, *rest = self.children
        controls.children += (self._start, self._cancel)
        self.children = (controls, self._lines, *rest)

    @property
    def runs(self) -> dict[str, SolveResult | pd.DataFrame]:
        """Of each solver at the controls' κ and λ: the result, or its history so far."""
        return self._runs(*self._setting)

    def _runs(self, kappa: float, digits: float) -> dict[str, SolveResult | pd.DataFrame]:
        kept = self._kept.get((kappa, digits), {})
        found = {name: kept.get(name, []) for name in self.solvers}
        return {name: run if isinstance(run, SolveResult) else
                pd.DataFrame(list(run), columns=COLUMNS) for name, run in found.items()}

    def run(self, wait: bool = False) -> None:
        """Run the chosen solvers at the controls' κ and λ; what runs now is cancelled.

        Parameters
        ----------
        wait : bool
            Compute here and now instead of in the background, and let errors through.

        Raises
        ------
        ValueError
            If no solver is chosen.
        """
        chosen = self.values["solvers"]
        if not chosen:
            raise ValueError(f"no solver is chosen; there is {', '.join(self.solvers)}.")
        self.cancel()
        if self._thread is not None:
            self._thread.join()
        self._stop, self._error, self.running = threading.Event(), None, True
        kept = self._kept.setdefault(self._setting, {})
        for name in chosen:
            kept.pop(name, None)
        problem = dataclasses.replace(self.problem, kappa=self._setting[0],
                                      lam=10.0 ** self._setting[1])
        self._loop = None if wait else _running_loop()
        work = problem, chosen, kept, self._stop
        if wait:
            self._work(*work)
            self.wait()
        else:
            self._redraw()
            self._thread = threading.Thread(target=self._work, args=work, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Cancel what runs, and close as every panel does."""
        if self.comm is not None:
            self.cancel()
            self._kept.clear()
        super().close()

    def cancel(self) -> None:
        """End the solve at its next test of the gap; the best feasible point is kept."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Until nothing runs any more, then draw; raises what went wrong in the background.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        TimeoutError
            If the solvers still run then.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        self._redraw()
        self._keep()
        if self.running:
            raise TimeoutError(f"the solvers still run after {timeout:g} s.")
        if self._error is not None:
            raise self._error

    # --- in the thread ------------------------------------------------------------------------

    def _work(self, problem: Problem, chosen: Sequence[str],
              kept: dict[str, list[dict] | SolveResult], stop: threading.Event) -> None:
        try:
            for name in chosen:
                kept[name] = history = []

                def watch(row: dict[str, float], history: list[dict] = history) -> bool:
                    history.append(row)
                    self._tell()
                    return stop.is_set()

                # A copy: what one solver computes of a problem is not there for the next.
                kept[name] = self.solvers[name].solve(dataclasses.replace(problem), watch)
                if stop.is_set() or kept[name].status is SolveStatus.CANCELLED:
                    break
        except BaseException as error:  # a thread has nobody to raise to: `wait` does it
            kept.pop(name, None)
            self._error = error
        finally:
            self.running = False
            self._tell()

    def _tell(self) -> None:
        """Ask the kernel's loop for a picture; all news until it is drawn is in that one."""
        if self._loop is None or self._waiting:
            return
        self._waiting = True
        try:
            self._loop.call_soon_threadsafe(self._loop.call_later, PERIOD, self._redraw_later)
        except RuntimeError:  # the loop was closed: nobody looks any more
            self._loop, self._waiting = None, False

    # --- in the kernel ------------------------------------------------------------------------

    @property
    def _setting(self) -> tuple[float, float]:
        return round(self.values["kappa"], 6), round(self.values["digits"], 6)

    def _settings(self, pictures: int) -> list[dict[str, Any]]:
        """A film shows what was solved: any other κ and λ would need a solve."""
        solved = [self.values | {"kappa": kappa, "digits": digits}
                  for (kappa, digits), runs in list(self._kept.items()) if any(runs.values())]
        return [self.values, *(setting for setting in solved if setting != self.values)][:pictures]

    def _redraw(self) -> None:
        super()._redraw()
        runs = self.runs
        self._lines.value = "".join(
            _line(name, COLOURS[k], runs[name], self.solvers[name].tol)
            for k, name in enumerate(runs) if name in self.values["solvers"])
        for control in (self._start, *self.controls.values()):
            control.disabled = self.running
        self._cancel.disabled = not self.running
        if self._error is not None:
            self._say(self._error)

    def _picture(self, solvers: Sequence[str], kappa: float, digits: float, figure: Figure | None
                 ) -> Figure:
        runs = self._runs(round(kappa, 6), round(digits, 6))
        said = "running" if self.running else ""
        if not self.running and not any(map(len, map(_history, runs.values()))):
            said = "press Run"
        return draw_solves(runs, kappa, tol=min(s.tol for s in self.solvers.values()),
                           verdict=f"κ = {kappa:.2f}, λ = {10 ** digits:.3g}   {said}",
                           figure=figure)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _check(problem: Problem, solvers: Mapping[str, BaseSolver]) -> None:
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}.")
    if not problem.ball:
        raise ValueError("problem must have a ball, whose radius is κ; its ball has 0 columns.")
    if not 0 < len(solvers) <= len(COLOURS):
        raise ValueError(f"solvers must hold 1 to {len(COLOURS)} solvers, got {len(solvers)}.")
    for name, solver in solvers.items():
        if not isinstance(solver, BaseSolver):
            raise TypeError(f"{name!r} must be a solver object, such as ADMMSolver(), got "
                            f"{solver!r}.")


def _history(run: SolveResult | pd.DataFrame) -> pd.DataFrame:
    return run.history if isinstance(run, SolveResult) else run


def _line(name: str, colour: str, run: SolveResult | pd.DataFrame, tol: float) -> str:
    """A solver's progress: the decimal digits of its gap, as a share of those it wants."""
    history, done, said = _history(run), 0.0, "waits"
    if len(history):
        last = history.iloc[-1]
        gap = last["gap"] / max(last["objective"], np.finfo(float).tiny)  # as in the picture
        done = np.clip(np.log10(max(gap, 1e-300)) / np.log10(min(tol, 0.1)), 0, 1)
        said = f"step {last['step']:.0f}, {last['seconds']:.1f} s, relative gap {gap:.0e}"
    if isinstance(run, SolveResult):
        done, said = 1.0 if run.status.ok else done, f"{said}. {run.status.value.capitalize()}."
    # One row, whatever it says, or the picture below would jump; the whole of it under the pointer.
    # The colour as a mark, as in the picture: letters in it are too pale, on white or on black.
    return (f"<div style='line-height:20px;white-space:nowrap;overflow:hidden;"
            f"text-overflow:ellipsis;width:0;min-width:100%' title='{html.escape(said)}'>"
            f"<span class='idl-lab-ink' style='color:{colour}'>■</span> "
            f"<b style='display:inline-block;width:150px'>{html.escape(name)}</b>"
            f"<progress value='{done:.3f}' max='1' style='width:120px'></progress> "
            f"{html.escape(said)}</div>")


def path_panel(paths: Mapping[str, Mapping[str, pd.DataFrame]], accuracies: Mapping[str, float],
               lam: float | None = None) -> Panel:
    """Move along paths of λ that were fitted before.

    Parameters
    ----------
    paths : mapping of str to mapping of str to DataFrame
        For each teacher, by its name, the tables that `draw_path` takes: the same names and the
        same λ for all of them.
    accuracies : mapping of str to float
        Of the teachers.
    lam : float, optional
        Where the control starts; the first table's chosen λ by default.

    Returns
    -------
    Panel
        Controls: teacher, way (how the weights were found), lam (the number as words).

    Raises
    ------
    ValueError
        If the tables have not the same λ, or ``lam`` is not among them.
    """
    tables = [table for ways in paths.values() for table in ways.values()]
    rising = sorted(tables[0].index)
    if any(sorted(table.index) != rising for table in tables):
        raise ValueError("paths must have the same λ in all tables.")
    options = {f"{value:g}": value for value in rising}
    start = tables[0]["chosen"].idxmax() if lam is None else lam
    validation.choice("lam", f"{start:g}", options)
    ways = tuple(next(iter(paths.values())))

    def draw(teacher: str, way: str, lam: str, figure: Figure | None) -> Figure:
        return draw_path(paths[teacher], way, options[lam], accuracies[teacher], figure=figure)

    control = ipywidgets.SelectionSlider(
        value=f"{start:g}", options=tuple(options), description="λ",
        style={"description_width": "initial"}, layout={"width": "300px"})
    return Panel(draw, {"teacher": dropdown(next(iter(paths)), tuple(paths), "teacher"),
                        "way": dropdown(ways[0], ways, "weights"), "lam": control})
