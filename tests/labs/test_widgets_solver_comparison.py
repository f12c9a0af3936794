"""The solver comparison: solved here or in a thread, cancelled, failed; what a notebook keeps."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import rejects
from sim_cases import data, problem
from torch import Tensor

from idl_lab.labs.kit import canvas
from idl_lab.labs.kit import panel as kit
from idl_lab.labs.sim_solvers import panel as solver_comparison
from idl_lab.labs.sim_solvers.panel import SolverComparison
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, BaseSolver, LeastSquareSolver, SolveResult, SolveStatus

QUIET = {"progress": False, "device": "cpu"}
LONG = 60.0  # seconds after which a test that hangs fails
ADMM, LEAST = ADMMSolver(check_every=5, **QUIET), LeastSquareSolver(**QUIET)


@dataclass(frozen=True, kw_only=True)
class Endless(BaseSolver):
    """Never gets anywhere, and says when its first two points have been looked at."""

    going: threading.Event
    check_every: int = 1
    max_steps: int = 10**9

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield problem.zeros()
        yield problem.zeros()
        self.going.set()
        while True:
            time.sleep(1e-3)
            yield problem.zeros()


@dataclass(frozen=True, kw_only=True)
class Broken(BaseSolver):
    check_every: int = 1

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield problem.zeros()
        raise ArithmeticError("it <broke>")


def usual() -> Problem:
    return problem(*data(), lam=0.5, kappa=0.9, ball=7)


def endless(**more: BaseSolver) -> tuple[SolverComparison, threading.Event]:
    going = threading.Event()
    return SolverComparison(usual(), {"endless": Endless(going=going, **QUIET), **more}), going


def button(panel: SolverComparison, name: str) -> ipywidgets.Button:
    return next(w for w in panel.children[0].children if w.description == name)


def said(panel: SolverComparison) -> str:
    """What stands in words above and below the picture."""
    return "".join(w.value for w in panel.children if isinstance(w, ipywidgets.HTML))


def word(panel: SolverComparison, name: str) -> str:
    return canvas.moving(panel.figure.axes[2])[name].get_text()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop draw until it holds."""
    for _ in range(int(LONG / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


# ---- here and now ---------------------------------------------------------------------------


def test_a_run_in_this_thread_finds_what_the_solvers_find():
    panel = SolverComparison(usual(), {"ADMM": ADMM, "least squares": LEAST}, kappa=0.5, digits=1.0)
    assert panel.redraws == 1 and all(len(run) == 0 for run in panel.runs.values())
    first, figure = panel.picture, panel.figure
    panel.run(wait=True)
    assert not panel.running and panel.redraws == 2 and panel.picture != first
    assert panel.figure is figure
    for name, solver in (("ADMM", ADMM), ("least squares", LEAST)):
        alone = solver.solve(dataclasses.replace(usual(), kappa=0.5, lam=10.0))
        torch.testing.assert_close(panel.runs[name].W, alone.W)
        assert panel.runs[name].status is alone.status
    assert panel.runs["ADMM"].status is SolveStatus.SOLVED
    history = panel.runs["ADMM"].history
    curve = canvas.moving(panel.figure.axes[1])["curve 0"]
    np.testing.assert_array_equal(curve.get_xdata(), history["seconds"])
    assert word(panel, "status 0").startswith("SOLVED")
    assert word(panel, "status 1").startswith("IGNORES_KAPPA")
    assert "the answer breaks it" in said(panel)


def test_code_chooses_and_each_setting_keeps_its_runs():
    panel = SolverComparison(usual(), {"ADMM": ADMM, "least squares": LEAST})
    panel.set(solvers=("ADMM",), kappa=0.3, digits=-1.0)
    panel.run(wait=True)
    runs = panel.runs
    assert runs["ADMM"].stats.inf_norm == pytest.approx(0.3)
    assert isinstance(runs["least squares"], pd.DataFrame)
    lines = panel.children[1].value
    assert "least squares" not in lines and "ADMM" in lines
    panel.set(kappa=0.4)
    assert len(panel.runs["ADMM"]) == 0 and "press Run" in canvas.moving(
        panel.figure.axes[0])["verdict"].get_text()
    panel.set(kappa=0.3)
    assert panel.runs["ADMM"] is runs["ADMM"]


def test_only_the_chosen_are_run_again():
    panel = SolverComparison(usual(), {"ADMM": ADMM, "least squares": LEAST})
    panel.run(wait=True)
    before = panel.runs
    panel.set(solvers=("least squares",))
    panel.run(wait=True)
    assert panel.runs["ADMM"] is before["ADMM"]
    assert panel.runs["least squares"] is not before["least squares"]


def test_a_saved_notebook_keeps_the_picture_of_the_run(monkeypatch):
    document = {}
    monkeypatch.setattr(kit, "display", lambda data, *, display_id=None, **_:
                        document.update({display_id: data}))
    panel = SolverComparison(usual(), {"ADMM": ADMM})
    panel._ipython_display_()
    panel.run(wait=True)
    bundle = next(data for data in document.values() if "image/png" in data)
    assert base64.b64decode(bundle["image/png"]) == panel.picture
    assert "SOLVED" in bundle["text/plain"]


# ---- in the background ----------------------------------------------------------------------


def test_curves_grow_while_it_runs_and_one_thread_draws(monkeypatch):
    drew = []
    draw = solver_comparison.draw_solves
    monkeypatch.setattr(solver_comparison, "draw_solves",
                        lambda *a, **k: drew.append(threading.get_ident()) or draw(*a, **k))
    monkeypatch.setattr(solver_comparison, "PERIOD", 0.01)
    panel, going = endless(ADMM=ADMM)

    async def session():
        panel.run()
        await until(going.is_set)
        seen = panel.redraws
        await until(lambda: panel.redraws >= seen + 3)
        assert panel.running and word(panel, "status 0").startswith("running")
        assert len(panel.runs["endless"]) > 2
        assert button(panel, "Run").disabled and panel.controls["kappa"].disabled
        assert not button(panel, "Cancel").disabled
        button(panel, "Cancel").click()
        await until(lambda: word(panel, "status 0").startswith("CANCELLED"))
        await until(lambda: not button(panel, "Run").disabled)

    asyncio.run(session())
    assert set(drew) == {threading.get_ident()}
    assert not panel.running and not panel.controls["kappa"].disabled
    assert button(panel, "Cancel").disabled


def test_cancelling_keeps_the_best_point_and_runs_no_further_solver():
    panel, going = endless(ADMM=ADMM)
    panel.run()
    assert going.wait(LONG)
    panel.cancel()
    panel.wait(LONG)
    found = panel.runs["endless"]
    assert isinstance(found, SolveResult) and found.status is SolveStatus.CANCELLED
    assert len(found.history) >= 2 and torch.equal(found.W, usual().zeros())
    assert len(panel.runs["ADMM"]) == 0 and word(panel, "status 1") == "not run"


def test_a_second_run_cancels_the_first():
    panel, going = endless(ADMM=ADMM)
    panel.run()
    assert going.wait(LONG)
    panel.set(solvers=("ADMM",))
    panel.run(wait=True)
    assert panel.runs["endless"].status is SolveStatus.CANCELLED
    assert panel.runs["ADMM"].status is SolveStatus.SOLVED


def test_waiting_has_a_limit():
    panel, going = endless()
    panel.run()
    assert going.wait(LONG)
    with pytest.raises(TimeoutError, match="still run after 0.01 s"):
        panel.wait(0.01)
    panel.cancel()
    panel.wait(LONG)


def test_an_interrupt_here_ends_the_run_and_no_other_solver_starts():
    @dataclass(frozen=True, kw_only=True)
    class Interrupted(Broken):
        def iterates(self, problem: Problem) -> Iterator[Tensor]:
            yield problem.zeros()
            raise KeyboardInterrupt

    panel = SolverComparison(usual(), {"it": Interrupted(**QUIET), "ADMM": ADMM})
    panel.run(wait=True)
    assert panel.runs["it"].status is SolveStatus.CANCELLED and len(panel.runs["ADMM"]) == 0


# ---- errors ---------------------------------------------------------------------------------


def test_an_error_is_raised_here_and_shown():
    panel = SolverComparison(usual(), {"broken": Broken(**QUIET), "ADMM": ADMM})
    with pytest.raises(ArithmeticError, match="it <broke>"):
        panel.run(wait=True)
    assert "ArithmeticError: it &lt;broke&gt;" in said(panel)
    assert not panel.running and len(panel.runs["broken"]) == 0
    panel.set(solvers=("ADMM",))
    panel.run(wait=True)
    assert "ArithmeticError" not in said(panel)


def test_an_error_in_the_background_is_shown_and_raised_by_wait():
    panel = SolverComparison(usual(), {"broken": Broken(**QUIET)})

    async def session():
        panel.run()
        await until(lambda: "ArithmeticError" in said(panel))

    asyncio.run(session())
    with pytest.raises(ArithmeticError):
        panel.wait(LONG)
    assert not button(panel, "Run").disabled


def test_the_button_says_that_no_solver_is_chosen(capsys):
    panel = SolverComparison(usual(), {"ADMM": ADMM}, chosen=())
    button(panel, "Run").click()
    assert "no solver is chosen; there is ADMM" in said(panel)
    assert "ValueError" in capsys.readouterr().err
    rejects(lambda: panel.run(wait=True), ValueError, "no solver is chosen")


def test_a_loop_that_has_ended_is_told_nothing():
    panel, going = endless()

    async def session():
        panel.run()

    asyncio.run(session())
    assert going.wait(LONG)
    panel.cancel()
    panel.wait(LONG)
    assert panel.runs["endless"].status is SolveStatus.CANCELLED


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: SolverComparison(None, {"ADMM": ADMM}), TypeError, ["must be a Problem, got None"]),
    (lambda: SolverComparison(problem(*data()), {"ADMM": ADMM}), ValueError, ["must have a ball"]),
    (lambda: SolverComparison(usual(), {}), ValueError, ["1 to 6 solvers, got 0"]),
    (lambda: SolverComparison(usual(), {"ADMM": ADMMSolver}), TypeError, ["'ADMM' must be"]),
    (lambda: SolverComparison(usual(), {"ADMM": ADMM}, chosen=("ADM",)), ValueError,
     ["'ADM' is not known; there is ADMM"]),
    (lambda: SolverComparison(usual(), {"ADMM": ADMM}, kappa=2.0), ValueError, ["<= 1, got 2"]),
    (lambda: SolverComparison(usual(), {"ADMM": ADMM}).set(solvers=("CVX",)), ValueError,
     ["solvers", "CVX"]),
    (lambda: SolverComparison(usual(), {"ADMM": ADMM}).set(digits=3), ValueError, ["<= 2, got 3"]),
])
def test_it_refuses(call, error, fragments):
    rejects(call, error, *fragments)
