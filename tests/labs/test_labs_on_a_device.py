"""Every lab runs on a device, with its products there: seen headless on the pretend device."""

from __future__ import annotations

import itertools
import linecache
from pathlib import Path

import nbformat
import pytest
from pretend_device import pretend_device, products_elsewhere

from idl_lab import training
from idl_lab.fixed_point.solution import Status
from idl_lab.fixed_point.solver import Solver
from idl_lab.runs import series

LABS = series.of(series.shipped())
QUICK: dict[str, dict] = {"05": {"samples": 300, "epochs": 1, "repeats": 2}, "14": {"epochs": 2}}
# The CPU may be left panels and exercises, whose problems are made where they are drawn: none has
# a product of more multiply-adds than these.
SMALL = 1e5
# A process that a lab starts has no pretend device, and what it is handed is not there either.
LONG = "14"  # takes as long as all the others
NOT_ALL = {"07": "its teacher is read on the CPU", "08": "its teacher runs on the CPU",
           "09": "its streams are read in processes",
           "11": "its teachers run and are pruned on the CPU"}


def labs(*marks: pytest.MarkDecorator) -> list:
    """All labs; those that do not run whole are slow, and may fail."""
    return [pytest.param(path, id=path.stem, marks=[*marks, *(
        [pytest.mark.slow, pytest.mark.xfail(strict=False, reason=NOT_ALL[path.stem[:2]])]
        if path.stem[:2] in NOT_ALL else [pytest.mark.slow] if path.stem[:2] == LONG else [])])
        for path in LABS]


def on_the_device(path: Path, parameters: dict, optimize: int) -> None:
    """Run a lab's code cells in this process; with ``optimize`` they assert nothing."""
    names: dict = {"__name__": "__main__"}
    code = (cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    with pretend_device():
        for k, cell in enumerate(code, start=1):
            source = "\n".join(x for x in cell.source.splitlines() if not x.startswith("%"))
            name = f"cell {k} of {path.stem}"  # a traceback shows its lines
            linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
            exec(compile(source, name, "exec", optimize=optimize), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= {"device": "auto"} | parameters
        left = {place: size for place, size in products_elsewhere().items() if size > SMALL}
    assert not left, f"left to the CPU, multiply-adds of the largest product: {left}"


@pytest.fixture
def short(monkeypatch):
    """An epoch of two batches and a solve of eight steps show as well where everything is."""
    fit, terminate = training.fit, Solver.terminate

    def two_batches(model, train_loader, val_loader=None, epochs=10, *args, **options):
        return fit(model, [*itertools.islice(train_loader, 2)], val_loader, 1, *args, **options)

    def eight_steps(self, state):
        status = terminate(self, state)
        return Status.MAX_STEPS if status is None and state.steps >= 8 else status

    monkeypatch.setattr(training, "fit", two_batches)
    monkeypatch.setattr(Solver, "terminate", eight_steps)


@pytest.mark.filterwarnings("ignore")  # of models that are hardly trained
@pytest.mark.parametrize("path", labs())
def test_everything_of_a_lab_is_on_the_device(path, short):
    on_the_device(path, QUICK.get(path.stem[:2], {}), optimize=1)


@pytest.mark.filterwarnings("ignore::idl_lab.fixed_point.solution.ConvergenceWarning")
@pytest.mark.parametrize("path", labs(pytest.mark.slow))
def test_what_a_lab_says_holds_on_the_device(path):
    on_the_device(path, {}, optimize=0)
