"""The labs at other values than the saved ones: every value that a lab declares legal works."""

from __future__ import annotations

import ast
import itertools
import math
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from lab_code import run_cells, sweep_here

from idl_lab import training
from idl_lab.runs import runner, series, sweep
from idl_lab.runs.parameters import Choice, Interval, Parameter, value

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LABS = series.find(where=series.shipped())
# Other data would be fetched from the network; another device is another test's.
FIXED = {"dataset": "digits", "device": "cpu", "full": False}
LARGE = 1000.0  # of a size without an upper end
# They take longer than the others together, shortened too.
LONG = ("07", "08", "09", "10", "11", "12", "13", "14")
any_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)


def legal(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Values that a parameter declares legal, the ends of its range as likely as all others."""
    allowed = parameter.allowed
    if parameter.name in FIXED:
        return st.just(FIXED[parameter.name])
    if isinstance(allowed, Choice):
        values = st.sampled_from(allowed.values)
    elif isinstance(allowed, Interval):
        high = min(allowed.high, max(LARGE, allowed.low + 1)) if parameter.name != "seed" else (
            min(allowed.high, 2 ** 32 - 1))
        if parameter.kind is int:
            inner = st.integers(math.ceil(allowed.low), math.floor(high))
        else:
            inner = st.floats(allowed.low, high) | st.floats(
                math.log(max(allowed.low, 1e-6)), math.log(high)).map(math.exp)
        ends = [parameter.kind(end) for end in (allowed.low, high) if end in allowed]
        values = st.sampled_from(ends) | inner if ends else inner
        values = values.filter(allowed.__contains__)
    else:
        values = st.booleans() if parameter.kind is bool else st.just(parameter.default)
    return values | st.none() if parameter.optional else values


def settings_of(lab: series.Lab) -> st.SearchStrategy[dict[str, Any]]:
    """A few parameters at other legal values, the others as saved: each is the odd one at times."""
    return st.fixed_dictionaries({name: st.just(p.default) | legal(p) if name not in FIXED
                                  else legal(p) for name, p in lab.parameters.items()})


@pytest.fixture
def short(monkeypatch, tmp_path):
    """Two batches show as well whether a lab runs: what it learns is checked as it is saved."""
    fit = training.fit

    def two_batches(model, train_loader, val_loader=None, epochs=10, *args, **options):
        return fit(model, [*itertools.islice(train_loader, 2)], val_loader, min(epochs, 2), *args,
                   **options)

    monkeypatch.setattr(training, "fit", two_batches)
    monkeypatch.setattr(sweep, "sweep", sweep_here)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    plt.close("all")


def runs_at_legal_values(lab: series.Lab, draws: int) -> None:
    saved = {name: FIXED.get(name, p.default) for name, p in lab.parameters.items()}

    # A failure names its values as they are: to look for simpler ones would take hours.
    @settings(max_examples=draws, deadline=None, derandomize=True, database=None,
              phases=[Phase.generate], suppress_health_check=list(HealthCheck),
              report_multiple_bugs=False)
    @given(settings_of(lab))
    def at(values):
        assume(values != saved)  # the claims that hold there are not for a shortened setting
        series.check_parameters([lab], values)
        run_cells(lab.path, values)
        plt.close("all")

    at()


@pytest.mark.filterwarnings("ignore")  # of models that are hardly trained
@pytest.mark.parametrize("lab", [pytest.param(lab, id=lab.name, marks=[
    pytest.mark.slow] * (lab.name[:2] in LONG)) for lab in LABS])
def test_a_lab_runs_at_a_few_legal_values(lab, short):
    runs_at_legal_values(lab, draws=1)


@pytest.mark.slow
@pytest.mark.timeout(7200)  # thirty labs
@pytest.mark.filterwarnings("ignore")
@any_lab
def test_every_legal_value_works(lab, short):
    runs_at_legal_values(lab, draws=30)


@any_lab
def test_a_labs_parameters_keep_the_grammar(lab):
    assert {"seed", "device"} <= set(lab.parameters)
    for name, p in lab.parameters.items():
        assert p.kind in (int, float, bool, str) and p.meaning, name
        assert p.allowed is not None or p.kind in (bool, str), name
        assert isinstance(p.allowed, Interval) or p.kind not in (int, float), name
        if p.allowed is None:
            p.check(p.default, lab.name)


@any_lab
def test_as_written_is_the_saved_setting_and_no_other(lab):
    """What holds at the defaults only is asserted there only: a lab says so by `as_written`."""
    cells = nbformat.read(lab.path, as_version=4).cells
    code = [c.source for c in cells if c.cell_type == "code"]
    source = "\n".join(text for text in code if "as_written" in text)
    defines = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)
               and [ast.unparse(t) for t in node.targets] == ["as_written"]]
    if not source:
        return
    assert len(defines) == 1
    test = compile(ast.Expression(defines[0].value), lab.name, "eval")
    saved = {name: p.default for name, p in lab.parameters.items()}
    assert eval(test, dict(saved)) is True
    for name in set(saved) - {"device"}:
        assert eval(test, saved | {name: "another"}) is False, f"as_written forgets {name}"


@pytest.mark.slow
@pytest.mark.parametrize("lab", [lab.name for lab in LABS])
def test_a_lab_runs_whole_at_another_seed(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [result] = runner.run_notebooks([lab], {"seed": 1})
    assert result.status == "ok", result.error


@pytest.mark.parametrize(("lab", "name", "text"),
                         re.findall(r'ARGS="(\d+) -p (\w+) ([^"]+)"', README))
def test_the_readmes_example_runs(lab, name, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [result] = runner.run_notebooks([lab], {name: value(text)})
    assert result.status == "ok", result.error
