"""Pictures of SIM's solvers: the plotted numbers are the histories' and the matrices' own."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from helpers import mat, rejects
from sim_cases import data, optimum, problem

from idl_lab.labs.kit import canvas
from idl_lab.labs.sim_solvers.plots import draw_path, draw_patterns, draw_solves
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


# ---- patterns and paths ---------------------------------------------------------------------


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


LAMBDAS = [10.0, 0.1, 0.01]


def path(shift: float = 0.0, chosen: int = 1, fidelity=(-0.5, 0.9, 0.999)) -> pd.DataFrame:
    return pd.DataFrame({
        "fidelity": fidelity, "accuracy": [0.3 + shift, 0.8 + shift, 0.85 + shift],
        "nonzeros": [10, 300, 400], "gap": [0.0, 1e-7, 1e-6],
        "chosen": [k == chosen for k in range(3)]}, index=pd.Index(LAMBDAS, name="lambda"))


def test_a_path_is_its_table_and_follows_what_is_looked_at():
    paths = {"as fitted": path(), "refitted": path(0.1, chosen=2)}
    figure = draw_path(paths, "as fitted", 0.1, 0.9)
    canvas.png(figure)
    for way, lam, chosen in (("as fitted", 10.0, 0.1), ("refitted", 0.01, 0.01)):
        assert draw_path(paths, way, lam, 0.9, figure=figure) is figure
        here = paths[way].loc[lam]
        wanted = [1 - here["fidelity"], here["accuracy"], here["nonzeros"], max(here["gap"], 1e-12)]
        for k, value in enumerate(wanted):
            assert parts(figure, k)["here"].get_xdata() == [lam]
            np.testing.assert_allclose(parts(figure, k)["here"].get_ydata(), [value])
            assert set(parts(figure, k)["chosen"].get_xdata()) == {chosen}
        said = parts(figure, 0)["verdict"].get_text()
        assert said.startswith(f"λ = {lam:g}, {way}: fidelity {here['fidelity']:.5f}")
        assert said.endswith(f"Chosen: λ = {chosen:g}")
    for key, table in paths.items():
        curve = parts(figure, 1)[key]
        np.testing.assert_array_equal(curve.get_xdata(), LAMBDAS)
        np.testing.assert_array_equal(curve.get_ydata(), table["accuracy"])
        np.testing.assert_allclose(parts(figure, 0)[key].get_ydata(), 1 - table["fidelity"])
    assert set(parts(figure, 1)["teacher"].get_ydata()) == {0.9}
    below, above = figure.axes[1].get_ylim()
    assert below < 0.3 and above > 0.95
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"0", "0.9", "0.99"} <= set(names)


@pytest.mark.parametrize("fidelity", [(float("-inf"), 0.9, 1.0), (float("nan"),) * 3])
def test_a_path_of_students_without_a_fidelity_is_drawn(fidelity):
    figure = draw_path({"it": path(fidelity=fidelity)}, "it", 10.0, 0.9)
    assert canvas.png(figure) and np.isfinite(figure.axes[0].get_ylim()).all()


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
    (lambda: draw_path([], "it", 1.0, 0.9), TypeError, ["mapping", "list"]),
    (lambda: draw_path({"it": 3}, "it", 1.0, 0.9), TypeError, ["'it'", "int"]),
    (lambda: draw_path({"it": path().drop(columns="gap")}, "it", 0.1, 0.9), ValueError, ["gap"]),
    (lambda: draw_path({"it": path(chosen=9)}, "it", 0.1, 0.9), ValueError, ["one chosen row"]),
    (lambda: draw_path({"it": path()}, "is", 0.1, 0.9), ValueError, ["way", "it"]),
    (lambda: draw_path({"it": path()}, "it", 0.2, 0.9), ValueError, ["0.2", "0.01"]),
])
def test_pictures_refuse(call, error, fragments):
    rejects(call, error, *fragments)
