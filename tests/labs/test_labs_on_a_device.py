"""Every lab runs on a device, its large products there: seen on the pretend device, headless."""

from __future__ import annotations

import functools
import itertools
import linecache
from pathlib import Path

import nbformat
import pytest
from pretend_device import pretend_device, products_elsewhere

from idl_lab import training
from idl_lab.runs import series

LABS = series.of(series.shipped())
# Multiply-adds of the largest product that may be left to the CPU: those of panels and exercises,
# whose problems are small and made where they are drawn.
SMALL = 3e6


def run(path: Path, parameters: dict, optimize: int) -> None:
    """Run a lab's code cells in this process; with ``optimize`` they assert nothing."""
    names: dict = {"__name__": "__main__"}
    code = (cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    for k, cell in enumerate(code, start=1):
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        name = f"cell {k} of {path.stem}"  # a traceback shows its lines
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        exec(compile(source, name, "exec", optimize=optimize), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= parameters


def on_the_device(path: Path, parameters: dict, optimize: int) -> None:
    with pretend_device():
        run(path, {"device": "auto"} | parameters, optimize)
        large = {place: size for place, size in products_elsewhere().items() if size > SMALL}
    assert not large, f"left to the CPU, multiply-adds of the largest product: {large}"


@pytest.fixture
def short_training(monkeypatch):
    """An epoch of two batches is enough to see where everything is."""
    fit = training.fit

    @functools.wraps(fit)
    def short(model, train_loader, val_loader=None, epochs=10, *args, **options):
        batches = list(itertools.islice(train_loader, 2))
        return fit(model, batches, val_loader, 1, *args, **options)

    monkeypatch.setattr(training, "fit", short)


QUICK: dict[str, dict] = {"05": {"samples": 300, "epochs": 1, "repeats": 2}, "14": {"epochs": 2}}


@pytest.mark.filterwarnings("ignore")  # a model that is hardly trained has much to warn of
@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_finds_everything_on_the_device(path, short_training):
    on_the_device(path, QUICK.get(path.stem[:2], {}), optimize=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::idl_lab.fixed_point.solution.ConvergenceWarning")
@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_says_on_the_device_what_it_says_on_the_cpu(path):
    on_the_device(path, {}, optimize=0)
