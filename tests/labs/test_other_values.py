"""The labs at other seeds and parameters than the saved ones: what they assert holds there too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from idl_lab.runs import runner, series

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
QUICK = [("00", {"seed": 1}), ("02", {"kappa": 0.5})]
# Another seed for every lab, and the ends of the ranges that the parameters' comments give.
SLOW = [*((path.name[:2], {"seed": 1}) for path in series.of(series.shipped())
          if path.name[:2] != "00"),
        ("02", {"seed": 2}), ("02", {"seed": 3}), ("04", {"kappa": 0.02}), ("05", {"kappa": 0.0}),
        ("07", {"lam": 0.0}), ("08", {"kappa": 0.0})]


def case(lab: str, parameters: dict, *marks: pytest.MarkDecorator) -> object:
    given = "-".join(f"{name}={value}" for name, value in parameters.items())
    return pytest.param(lab, parameters, id=f"{lab}-{given}", marks=marks)


@pytest.mark.parametrize(("lab", "parameters"), [
    *(case(*given) for given in QUICK), *(case(*given, pytest.mark.slow) for given in SLOW)])
def test_a_lab_runs_at_other_values(lab, parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [result] = runner.run_notebooks([lab], parameters)
    assert result.status == "ok", result.error


def test_the_readmes_example_is_among_them():
    examples = re.findall(r'ARGS="(\d+) -p (\w+) ([^"]+)"', README)
    assert examples
    for lab, name, value in examples:
        assert (lab, {name: series.value(value)}) in QUICK
