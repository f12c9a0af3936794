"""The benchmark's arithmetic and refusals; speed itself is `make bench`'s to tell."""

import sys

import pandas as pd
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import memory, sim, steps
from benchmarks.plots import draw_bench
from idl_lab.labs.kit import digits_teacher
from idl_lab.sim.problem import state_matching
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.sim.states import gram_statistics

TIMES = pd.DataFrame({"torchidl": [2.0, 4.0, 8.0], "idl_lab": [1.0, 1.0, 2.0]})
MEMORY = pd.DataFrame({"Implicit": [10.0, 10, 11], "Unrolled": [20.0, 100, 1000]},
                      index=pd.Index([10, 100, 1000], name="fixed-point steps"))


def test_the_ratio_is_the_median_of_paired_ratios():
    table = steps.summary(steps.WORKS[0], TIMES, {"idl_lab": 1e-7})
    assert list(table.index) == ["torchidl", "idl_lab"]
    assert table["ms"].tolist() == [4.0, 1.0]
    assert table["of torchidl"].tolist() == [1.0, 0.25]  # of 1/2, 1/4, 1/4
    assert table["quartiles"].tolist() == ["3.00-6.00", "1.00-1.50"]
    assert table.loc["idl_lab", "gradient error"] == 1e-7


def test_anderson_needs_a_fifth_of_picards_steps_on_the_hard_instance():
    row = steps.hard_instance(1).iloc[0]
    assert 200 < row["Picard steps"] and row["Anderson steps"] <= row["Picard steps"] / 5


def test_unrolling_keeps_the_states_of_all_steps_and_the_implicit_gradient_does_not():
    """A state is 1 MB: n = 256, 1024 samples, float32."""
    assert 1 < memory.peak("Implicit", 100) < 30
    assert memory.peak("Unrolled", 100) > 80


def test_an_answer_is_judged_by_the_problem_and_not_by_its_solver():
    teacher, train, test = digits_teacher(0, epochs=2)
    solver = ADMMSolver(lambda_z=1.0, lambda_y=1.0, progress=False)
    found = sim.ours(solver, teacher, train)
    problem = state_matching(gram_statistics(teacher, train, ones=False, progress=False), 0.99, 1.0)
    optimum = float(problem.dual(found.state).sum())
    row = sim.judge(found, problem, optimum, test)
    assert 0 <= row["above the optimum"] < 1e-6 and row["norm of A"] <= 0.99
    assert row["nonzeros"] < 0.9 * found.state.numel() and row["accuracy"] > 0.5
    worse = sim.judge(found._replace(state=1.5 * found.state), problem, optimum, test)
    assert worse["above the optimum"] > 0.01 and worse["norm of A"] > 0.99


def test_the_large_problem_has_the_tutorials_size_and_is_of_this_kind():
    problem = sim.large((112, 30), samples=60)
    assert problem.shape == (112, 142) and problem.ball == 112 and problem.kappa == 0.99
    values = torch.linalg.eigvalsh(problem.gram)
    assert values[-1] > 0 and (values < 1e-9 * values[-1]).any()  # 60 samples, 142 features


def test_the_picture_shows_each_time_and_the_target():
    table = steps.summary(steps.WORKS[0], TIMES, {})
    figure = draw_bench({"n = 100": table}, {"n = 100": 0.4}, MEMORY)
    first, last = figure.axes
    assert [bar.get_width() for bar in first.patches] == [4.0, 1.0]
    assert first.lines[0].get_xdata()[0] == pytest.approx(1.6)
    assert "idl_lab: 1 ms" in {text.get_text() for text in first.texts}
    assert last.lines[1].get_ydata().tolist() == [20, 100, 1000]
    with pytest.raises(ValueError, match="at least one size"):
        draw_bench({}, {}, MEMORY)


@pytest.mark.parametrize(("arguments", "missing", "fragment"), [
    (["--steps", "5"], False, "at least 30, got 5"),
    ([], True, "`make bench` installs"),
])
def test_refusals(arguments, missing, fragment, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    if missing:
        monkeypatch.setitem(sys.modules, "torchdeq", None)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2 and fragment in capsys.readouterr().err
