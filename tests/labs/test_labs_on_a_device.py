"""Every lab runs on a device, with its products there: seen headless on the pretend device."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lab_code import run_cells, sweep_here
from pretend_device import pretend_device, products_elsewhere

from idl_lab import training
from idl_lab.fixed_point.solution import Status
from idl_lab.fixed_point.solver import Solver
from idl_lab.labs.check import Checker
from idl_lab.labs.robustness import problems as robustness
from idl_lab.labs.sim_at_scale import streams
from idl_lab.labs.sparsity import pruning
from idl_lab.labs.sparsity.students import Students
from idl_lab.runs import series, sweep
from idl_lab.sim.solvers import ADMMMultiGPUSolver, ADMMSolver, BaseSolver, CVXSolver

LABS = series.of(series.shipped())
QUICK: dict[str, dict] = {"05": {"samples": 300, "epochs": 1, "repeats": 2},
                          "07": {"epochs": 1}, "09": {"samples": 5000, "draws": 1},
                         "10": {"n": 5, "repeats": 2},
                          "12": {"images": 2, "epochs": 1, "n": 8},
                          "14": {"epochs": 2}}
# The CPU may be left panels, whose problems are made where they are drawn: none has a product of
# more multiply-adds than these.
SMALL = 1e5
# SIM's statistics are kept on the CPU: a fit is judged there once, by these, and what few rows are
# left to the path along λ are followed there, since a GPU would wait at each of its kinks. Those of
# a teacher 64-64-32-16-10 have 112 rows of 176 entries; more, or samples, would be too many.
ONCE = {"matrices.py": 4e6, "result.py": 4e6, "path.py": 4e6}
LONG = ("07", "08", "09", "11", "12", "13", "14")  # take as long as all the others


def labs(*marks: pytest.MarkDecorator) -> list:
    """All labs; the longest are slow."""
    return [pytest.param(path, id=path.stem, marks=[
        *marks, *[pytest.mark.slow] * (path.stem[:2] in LONG)]) for path in LABS]


def on_the_device(path: Path, parameters: dict, optimize: int) -> None:
    """Run a lab's code cells in this process; with ``optimize`` they assert nothing."""
    with pretend_device():
        run_cells(path, {"device": "auto"} | parameters, optimize)
        left = {place: size for place, size in products_elsewhere().items()
                if size > ONCE.get(place.partition(":")[0], SMALL)}
    assert not left, f"left to the CPU, multiply-adds of the largest product: {left}"


def in_this_process(folder: str, samples: Sequence[int], given: dict) -> list[int]:
    """What lab 09's fresh process does: one of its own has no pretend device."""
    torch.save(given | {"samples": list(samples)}, Path(folder) / "given.pt")
    with contextlib.redirect_stdout(io.StringIO()) as peaks:
        streams._work(Path(folder))
    return list(map(int, peaks.getvalue().split()))


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Where there is one GPU the rows are not shared out."""
    monkeypatch.setattr(streams, "_alone", in_this_process)
    # An exercise tries an answer on a problem of its own, on the CPU wherever the lab computes.
    monkeypatch.setattr(Checker, "__call__", lambda self, answer: None)
    monkeypatch.setattr(sweep, "sweep", sweep_here)
    monkeypatch.setattr(ADMMMultiGPUSolver, "count", lambda self, rows: 1)
    # cvxpy's solvers are on the CPU: what they would leave there is theirs to leave.
    monkeypatch.setattr(CVXSolver, "solve", lambda self, *given, **options: ADMMSolver(
        device="auto", progress=False).solve(*given, **options))


@pytest.fixture
def short(monkeypatch):
    """An epoch of two batches and a solve of eight steps show as well where everything is."""
    fit, terminate, solve = training.fit, Solver.terminate, BaseSolver.solve

    def two_batches(model, train_loader, val_loader=None, epochs=10, *args, **options):
        return fit(model, [*itertools.islice(train_loader, 2)], val_loader, 1, *args, **options)

    def eight_steps(self, state):
        status = terminate(self, state)
        return Status.MAX_STEPS if status is None and state.steps >= 8 else status

    def three_steps(self, *given, **options):
        return solve(replace(self, max_steps=3, check_every=3), *given, **options)

    monkeypatch.setattr(robustness, "STEPS", 1)  # of an attack
    monkeypatch.setattr(training, "fit", two_batches)
    monkeypatch.setattr(Solver, "terminate", eight_steps)
    monkeypatch.setattr(BaseSolver, "solve", three_steps)

    def a_hundredth(self, weights, tries=8):
        lam = max(self.known) / 100
        self.weights(lam)
        return lam

    monkeypatch.setattr(Students, "at_most", a_hundredth)
    # Which weights go is looked for on the CPU, in numpy: the cheapest rule will do.
    for name in ("OBC", "ALPS"):
        monkeypatch.setitem(pruning.METHODS, name, pruning.magnitude)


@pytest.mark.filterwarnings("ignore")  # of models that are hardly trained
@pytest.mark.parametrize("path", labs())
def test_everything_of_a_lab_is_on_the_device(path, short):
    on_the_device(path, QUICK.get(path.stem[:2], {}), optimize=1)


@pytest.mark.filterwarnings("ignore::idl_lab.fixed_point.solution.ConvergenceWarning")
@pytest.mark.parametrize("path", labs(pytest.mark.slow))
def test_what_a_lab_says_holds_on_the_device(path):
    if path.stem.startswith("04"):
        pytest.skip("it counts the bytes of storages, and the pretend device's have no address")
    on_the_device(path, {}, optimize=0)
