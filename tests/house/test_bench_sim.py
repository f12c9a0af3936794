"""SIM's benchmarks: problems, the independent gap, and what is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import features, forward, pruning, real, report, sim_report, solve
from benchmarks.features import KAPPA, Instance
from benchmarks.plots import draw_growth, draw_pruning
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, CVXSolver

TINY = features.correlated(12, 5, 8, 0.05, noise=0.3)


def problem(of: Instance) -> Problem:
    return Problem(**of.products, lam=of.lam, kappa=KAPPA if of.ball else None, ball=of.ball)


# ---- the problems and their judge -----------------------------------------------------------


@pytest.mark.parametrize("ball", [5, 0])
@pytest.mark.parametrize("lam", [0.05, 1e-3])
def test_the_gap_found_here_is_never_below_what_a_point_is_off_by(ball, lam):
    given = replace(TINY, lam=lam, ball=ball)
    of = problem(given)
    optimum = float(CVXSolver(tol=1e-10, progress=False).solve(of).stats.objective.sum())
    found = ADMMSolver(tol=1e-9, progress=False).solve(of)
    assert -1e-12 <= given.relative_gap(found.W) <= max(found.stats.relative_gap, 1e-12)
    draws = torch.Generator("cpu").manual_seed(0)
    for size in (1e-4, 1e-1):
        W = of.project(found.W + size * torch.randn(of.shape, generator=draws).double())
        above = float(of.objective(W).sum()) - optimum
        gap = given.relative_gap(W) * float(of.objective(W).sum())
        assert gap >= above * (1 - 1e-6)


def test_the_gap_is_one_of_feasible_rows():
    with pytest.raises(ValueError, match=r"feasible rows, got ‖A‖∞ = 60 > 0.99"):
        TINY.relative_gap(12.0 * torch.ones(5, 12).double())
    zero = replace(TINY, lam=2 * float(TINY.products["cross"].abs().amax()))
    assert zero.relative_gap(torch.zeros(5, 12).double()) == pytest.approx(0, abs=1e-12)


def test_the_resampled_digits_are_as_the_page_says():
    found = features.digits(1e-2)
    assert found.features.shape == (1400, 896) and found.targets.shape == (1400, 112)
    assert found.ball == 112
    values = torch.linalg.eigvalsh(found.products["gram"])  # of 1e6, so with rounding of 1e-9
    assert 1e6 < values[-1] < 1e7 and 100 < int((values > 1e-6).sum()) < 180
    noisy = features.digits(1e-2, noise=0.1).features - found.features
    assert float(noisy[:, 112:].std()) == pytest.approx(0.1, rel=0.01)
    assert features.PROBLEMS[features.REAL].goal == 4


def test_a_teachers_states_are_those_of_the_network():
    draws = torch.Generator("cpu").manual_seed(0)
    network = features.random_teacher((6, 5, 4, 3), draws)
    U = torch.randn(7, 6, generator=draws)
    X, Z, Y = features.states(network, U)
    first, second = network[0](U), network[2](torch.relu(network[0](U)))
    torch.testing.assert_close(Z, torch.cat([second, first], 1).double())
    torch.testing.assert_close(X, Z.relu())
    torch.testing.assert_close(Y, network(U).double())


# ---- one solve and its limit -----------------------------------------------------------------


def test_a_solve_ends_or_is_cut_and_is_judged_here():
    rest = {"solver": "ours", "tol": 1e-6, "device": "cpu"}
    found = solve.run(real.job_of(TINY) | rest | {"limit": 60.0})
    assert not found["cut"] and found["seconds"] > 0
    assert TINY.relative_gap(found["W"]) <= max(found["reported"], 1e-12)
    long = features.correlated(300, 50, 150, 1e-4)
    found = solve.run(real.job_of(long) | rest | {"limit": 0.02})
    assert found["cut"] and long.relative_gap(found["W"]) > 1e-6


@pytest.mark.parametrize("package", ["celer", "sklearn.linear_model"])  # skglm compiles too long
def test_a_lasso_package_is_given_smaller_tolerances_until_its_gap_is_small(package):
    pytest.importorskip(package.partition(".")[0], reason="`make bench` installs the peers")
    free = replace(TINY, ball=0)
    found = solve.run(real.job_of(free) | {"solver": package, "tol": 1e-6, "limit": 60.0})
    assert not found["cut"] and free.relative_gap(found["W"]) <= 1e-6
    torch.testing.assert_close(
        found["W"], ADMMSolver(tol=1e-9, progress=False).solve(problem(free)).W,
        rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_process_of_its_own_solves_with_another_checkout():
    row = real.solved(TINY, package=real.ROOT)
    assert not row["cut"] and row["gap"] <= 1e-6
    with pytest.raises(RuntimeError, match="No module named 'nothing_of_this_name'"):
        real.solved(TINY, 1.0, solver="nothing_of_this_name")


def test_the_exponent_is_that_of_a_power_law():
    assert real.exponent([1, 2, 4, 8], [3 * x ** 1.7 for x in (1, 2, 4, 8)]) == pytest.approx(1.7)


# ---- what is shown --------------------------------------------------------------------------


def test_a_cell_says_how_a_solve_ended():
    assert sim_report.seconds({"cut": False, "seconds": 3.14, "gap": 1e-9}, 1e-6) == "3.1"
    assert sim_report.seconds({"cut": True, "seconds": 60.2, "gap": 0.21}, 1e-6) == "> 60, gap 0.2"
    assert sim_report.seconds({"cut": False, "seconds": 43.0, "gap": 0.2}, 1e-6) == (
        "ends at 43, gap 0.2")


def test_the_sentence_says_whether_it_ended():
    ended, cut = ({"after": {"cut": gap > 1e-6, "seconds": 3.14, "gap": gap}}
                  for gap in (1e-9, 0.2))
    text = sim_report.sentence({"tol": 1e-6, "problems": {features.SYNTHETIC: ended,
                                                          features.REAL: cut}})
    assert "needs 3.1 s on synthetic" in text
    assert "more than 3.1 s (its relative gap is then 0.2) on digits" in text


def test_the_summary_is_the_median_over_the_seeds():
    rows = pd.DataFrame({"method": "OBC", "sparsity": 0.8, "accuracy": [0.1, 0.9, 0.3],
                         "fidelity": [0.5, 0.7, 0.6], "states": [1, 2, 3], "weights": [9, 9, 9]})
    found = sim_report.summary(rows)
    assert found == {"OBC": {"0.8": {"accuracy": [0.3, 0.1, 0.9], "fidelity": [0.6, 0.5, 0.7],
                                     "states": [2, 1, 3], "weights": [9, 9, 9]}}}
    assert "| OBC | 30.0%, 0.60 |" in sim_report.pruning_table("a task", found)
    figure = draw_pruning({"a task": found}, ["OBC"])
    assert [ax.get_title() for ax in figure.axes] == ["accuracy", "fidelity"]


def test_a_comparison_has_every_method_at_every_sparsity():
    table = pruning.compare(pruning.TASKS["random teacher"](0).first(300), (0.8,))
    assert len(table) == len(set(table["method"])) == len(pruning.PRUNED) + 7
    assert (table["weights"] <= 344).all() and (table["weights"] > 250).all()
    assert {*sim_report.SHOWN} <= {*table["method"]}


def test_the_two_models_of_a_forward_pass_are_the_same():
    dense, sparse = forward.models(40, 0.1)
    U = torch.ones(3, forward.INPUTS)
    torch.testing.assert_close(sparse(U), dense(U))
    assert sparse.A.layout == torch.sparse_csr and forward.ratio(40, 2, 0.1, 1e4) > 0
    assert "| 300, 1 | 0.50 |" in forward.table({"300, 1": {"0.1": 0.5}})


def test_the_picture_of_growth_shows_points_and_power():
    of = {"rows": {"sizes": [10, 20, 40, 80], "seconds": [1.0, 2, 4, 8], "exponent": 1.0}}
    ax, = draw_growth(of).axes
    fit, points = ax.lines
    np.testing.assert_allclose(fit.get_ydata(), points.get_ydata())
    assert ax.get_legend().get_texts()[0].get_text() == "power 1"


def test_the_pages_show_the_kept_figures():
    found = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    assert set(found["real"]["problems"]) == set(features.PROBLEMS)
    for rows in found["real"]["problems"].values():
        row = rows["after"]
        if not row["cut"]:
            assert row["gap"] <= max(row["reported"], 1e-12)
    for path, write, of in ((report.PAGE, sim_report.written, found["real"]),
                            (sim_report.README, sim_report.written_readme, found["real"]),
                            (report.PAGE, sim_report.written_large, found.get("large")),
                            (sim_report.SPARSITY_PAGE, sim_report.written_sparsity,
                             found["pruning"]),
                            (forward.SPARSITY_PAGE, forward.written, found["forward"])):
        page = path.read_text(encoding="utf-8")
        assert of is None or write(page, of) == page
