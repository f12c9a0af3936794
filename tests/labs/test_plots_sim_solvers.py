"""Pictures of SIM's solvers: the plotted numbers are the histories' and the matrices' own."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from helpers import mat, rejects
from sim_cases import data, optimum, problem

from idl_lab.labs.kit import canvas
from idl_lab.labs.sim_solvers.plots import draw_patterns, draw_solves, draw_sparsity
from idl_lab.sim.solvers import ADMMSolver, LeastSquareSolver, SolveResult

QUIET = {"progress": False, "device": "cpu"}
OPTIONS = {"lam": 0.5, "kappa": 0.9, "ball": 7}


@functools.cache
def solved() -> dict[str, SolveResult]:
    p = problem(*data(), **OPTIONS)
    return {"ADMM": ADMMSolver(check_every=4, **QUIET).solve(p),
            "least squares": LeastSquareSolver(**QUIET).solve(p)}


def parts(figure, k):
    return canvas.moving(figure.axes[k])


# ---- solves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["seconds", "step"])
def test_curves_are_the_histories(against):
    runs = solved()
    figure = draw_solves(runs, 0.9, against=against, tol=1e-6, verdict="hello")
    history = runs["ADMM"].history
    above, gap = parts(figure, 0)["curve 0"], parts(figure, 1)["curve 0"]
    np.testing.assert_array_equal(above.get_xdata(), history[against])
    np.testing.assert_allclose(gap.get_ydata(), history["gap"] / history["objective"])
    best = optimum(*data(), **OPTIONS).sum()
    np.testing.assert_allclose(above.get_ydata(), history["objective"] / best - 1, atol=2e-6)
    assert (np.array(parts(figure, 1)["tol"].get_ydata()) == 1e-6).all()
    assert parts(figure, 0)["verdict"].get_text() == "hello"


def test_an_answer_below_the_bound_is_a_triangle_and_its_norm_is_said():
    figure = draw_solves(solved(), 0.9)
    assert np.isnan(parts(figure, 0)["curve 1"].get_ydata()).all()
    assert len(parts(figure, 0)["below 1"].get_xdata()) == 1
    assert len(parts(figure, 0)["below 0"].get_xdata()) == 0
    table = parts(figure, 2)
    stats = {name: rows.stats for name, rows in solved().items()}
    assert table["status 0"].get_text().startswith("SOLVED, ")
    assert [table[f"cell 0 {j}"].get_text() for j in (0, 2, 3)] == [
        f"{float(stats['ADMM'].objective.sum()):.6g}", "0.9 ≤ κ", str(stats["ADMM"].nonzeros)]
    assert float(table["cell 0 1"].get_text()) == pytest.approx(stats["ADMM"].relative_gap, rel=0.6)
    assert table["cell 1 2"].get_text() == f"{stats['least squares'].inf_norm:.3g} > κ"
    assert stats["least squares"].inf_norm > 0.9


def test_a_solve_that_runs_grows_in_the_same_picture():
    history = solved()["ADMM"].history
    figure = draw_solves({"ADMM": history[:0]}, 0.9)
    assert parts(figure, 2)["status 0"].get_text() == "not run"
    assert draw_solves({"ADMM": history[:3]}, 0.9, figure=figure) is figure
    assert len(parts(figure, 1)["curve 0"].get_xdata()) == 3
    assert parts(figure, 2)["status 0"].get_text().startswith("running, ")
    draw_solves(solved() | {}, 0.9, figure=figure)
    assert parts(figure, 2)["status 0"].get_text().startswith("SOLVED, ")
    assert len(figure.axes) == 3


def test_the_axis_of_time_grows_by_decades():
    long = solved()["ADMM"].history.assign(seconds=lambda h: 30.0 * h["step"] / h["step"].max())
    figure = draw_solves({"ADMM": long}, 0.9)
    assert figure.axes[0].get_xlim()[1] == figure.axes[1].get_xlim()[1] == 100


def test_an_objective_of_zero_is_drawn():
    nothing = pd.DataFrame({"step": [1], "seconds": [0.1], "objective": [0.0], "gap": [0.0]})
    figure = draw_solves({"it": nothing}, 0.0)
    assert parts(figure, 2)["cell 0 1"].get_text() == "0e+00"


# ---- patterns and sparsity ------------------------------------------------------------------


def test_patterns_are_the_entries_that_are_not_zero():
    runs = solved()
    figure = draw_patterns({name: rows.W for name, rows in runs.items()}, 7)
    for ax, (name, rows) in zip(figure.axes, runs.items(), strict=True):
        (image,) = ax.get_images()
        np.testing.assert_array_equal(image.get_array(), rows.W.numpy() != 0)
        assert parts(figure, figure.axes.index(ax))["title"].get_text() == (
            f"{name}: {rows.stats.nonzeros} non-zero")
        assert ax.lines[0].get_xdata()[0] == 6.5
    assert (runs["ADMM"].W == 0).any()


def test_sparsity_is_the_table_with_a_label_for_each_lambda():
    table = pd.DataFrame({"nonzeros": [90, 30], "accuracy": [0.9, 0.5]}, index=[0.01, 10.0])
    (ax,) = draw_sparsity(table, 0.93, 400).axes
    level, curve = ax.lines
    assert set(level.get_ydata()) == {0.93}
    np.testing.assert_array_equal(curve.get_xydata(), [[90, 0.9], [30, 0.5]])
    assert [t.get_text() for t in ax.texts] == ["λ = 0.01", "λ = 10"]
    assert ax.get_ylim()[0] < 0.5 and ax.get_ylim()[1] > 0.93


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: draw_solves([], 0.9), TypeError, ["mapping", "list"]),
    (lambda: draw_solves({}, 0.9), ValueError, ["1 to 6 solves, got 0"]),
    (lambda: draw_solves({"a": 3}, 0.9), TypeError, ["'a'", "SolveResult", "int"]),
    (lambda: draw_solves(solved(), 0.9, against="time"), ValueError, ["against", "seconds"]),
    (lambda: draw_solves(solved(), -1.0), ValueError, ["kappa"]),
    (lambda: draw_patterns({}, 1), ValueError, ["at least one"]),
    (lambda: draw_patterns({"a": mat([[1.0]]), "b": mat([[1.0, 2.0]])}, 1), ValueError,
     ["one shape", "(1, 2)"]),
    (lambda: draw_patterns({"a": mat([[1.0]])}, 2), ValueError, ["at most d=1", "got 2"]),
    (lambda: draw_sparsity(pd.DataFrame(), 0.9, 9), TypeError, ["row for each λ"]),
    (lambda: draw_sparsity(pd.DataFrame({"nonzeros": [1]}), 0.9, 9), ValueError, ["accuracy"]),
    (lambda: draw_sparsity(pd.DataFrame({"nonzeros": [1], "accuracy": [1.0]}), 2.0, 9),
     ValueError, ["teacher"]),
])
def test_pictures_refuse(call, error, fragments):
    rejects(call, error, *fragments)
