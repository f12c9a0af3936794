"""SIM's benchmarks: problems, the independent gap, layer-wise reconstruction, and what is shown."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import features, pruning, real, report, sim_report, solve
from benchmarks.features import KAPPA, Instance
from benchmarks.plots import draw_growth, draw_pruning
from benchmarks.reconstruction import METHODS, alps, largest, obc, refit
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


# ---- layer-wise reconstruction --------------------------------------------------------------


def layer(k: int = 3, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    Phi = draws.normal(size=(40, d)) @ draws.normal(size=(d, d))  # correlated
    return Phi.T @ Phi, draws.normal(size=(k, d)), np.arange(d) < d - 1


def loss(H: np.ndarray, W: np.ndarray, V: np.ndarray) -> float:
    return float(np.einsum("ij,jk,ik->", V - W, H, V - W))


def test_refit_is_least_squares():
    H, W, _ = layer()
    kept = np.random.default_rng(1).random(W.shape) < 0.6
    V = refit(H, W @ H, kept)
    root = np.linalg.cholesky(H).T
    for v, w, on in zip(V, W, kept, strict=True):
        wanted = np.linalg.lstsq(root[:, on], root @ w, rcond=None)[0]
        np.testing.assert_allclose(v[on], wanted, rtol=1e-8)
        assert not v[~on].any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gone", [1, 4, 8, 12])
def test_obc_is_greedy_removal_by_brute_force(seed, gone):
    """Of each row the weight whose best refit costs least; over all rows the cheapest first."""
    H, W, prunable = layer(seed=seed)
    courses = []
    for w in W:
        on, course, before = np.ones(len(w), dtype=bool), [w], 0.0
        increments = []
        while on[prunable].any():
            choices = []
            for j in np.flatnonzero(on & prunable):
                less = on.copy()
                less[j] = False
                v = refit(H, (w @ H)[None], less[None])[0]
                choices.append((loss(H, w[None], v[None]), j, v))
            cost, j, v = min(choices, key=lambda choice: choice[0])
            on[j] = False
            increments.append(cost - before)
            course.append(v)
            before = cost
        courses.append((np.maximum.accumulate(increments), course))
    counts = min((counts for counts in itertools.product(range(5), repeat=3)
                  if sum(counts) == gone), key=lambda counts: max(
        increments[count - 1] if count else 0
        for count, (increments, _) in zip(counts, courses, strict=True)))
    wanted = np.array([course[count] for count, (_, course) in zip(counts, courses, strict=True)])
    found = obc(H, W, W.shape[0] * 4 - gone, prunable)
    assert (found != 0).sum() == 15 - gone
    if ((found != 0) == (wanted != 0)).all():  # the same rows are cut short
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert loss(H, W, found) <= loss(H, W, wanted) * (1 + 1e-4) + 1e-9 or gone > 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [0, 7, 100, 240])
def test_every_method_keeps_as_many_weights_as_it_is_told(method, keep):
    H, W, prunable = layer(12, 21)
    V = METHODS[method](H, W, keep, prunable)
    assert (V[:, prunable] != 0).sum() == keep and (V[:, ~prunable] != 0).all()
    if keep == 240:
        np.testing.assert_allclose(V, W, rtol=1e-5, atol=1e-8)


def test_alps_and_obc_reconstruct_better_than_magnitudes():
    losses = {name: [] for name in METHODS}
    for seed in range(5):
        H, W, prunable = layer(12, 21, seed)
        for name, method in METHODS.items():
            losses[name].append(loss(H, W, method(H, W, 72, prunable)))
    means = {name: np.mean(values) for name, values in losses.items()}
    assert means["ALPS"] < 0.8 * means["magnitude"] and means["OBC"] < 0.8 * means["magnitude"]


def test_alps_finds_the_best_support_of_a_separable_layer():
    W = np.array([[3.0, -1, 0.5, 2], [0.2, 4, -2, 0.1]])
    H = np.diag([1.0, 100, 1, 1])
    assert (alps(H, W, 4, np.ones(4, dtype=bool)) != 0).tolist() == (
        largest(abs(W) * np.sqrt(np.diag(H)), 4, np.ones(4, dtype=bool))).tolist()


# ---- students and networks ------------------------------------------------------------------


@pytest.fixture(scope="module")
def task() -> pruning.Task:
    found = pruning.random(1)
    return replace(found, train=found.train[:300], test=found.test[:200], labels=found.labels[:200])


def test_a_network_that_lost_nothing_is_the_teacher(task):
    row = task.judge(*task.pruned("OBC", 0.0))
    assert row["fidelity"] == pytest.approx(1, abs=1e-6) and row["accuracy"] == 1
    assert row["weights"] == 10 * 40 + 40 * 30 + 30 * 4 and row["norm"] <= KAPPA


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_student_has_as_many_weights_as_are_allowed(task, bounded, ordered):
    students, n = pruning.Students(task, bounded, ordered), task.n
    for most in (300, 700):
        rows = students.rows(most)
        first, *others = (W for W, _ in rows.values())
        assert 0.9 * most <= first.count_nonzero() <= most
        for W in others:
            assert not W[first == 0].any()
        for W in (first, *others):
            assert not bounded or W[:n, :n].abs().sum(dim=1).amax() <= KAPPA * (1 + 1e-9)
            read = [W[rows, :task.earlier(rows)].any() for rows in task.blocks]
            assert not (ordered and any(read))
        before, after = (task.judge(*student)["fidelity"] for student in list(rows.values())[:2])
        assert after > before or not ordered  # feedback can make more of any change


def test_refitted_rows_stay_in_the_ball_and_go_down(task):
    Phi, T = task.states
    T = 3 * T[:, :task.n]
    W = torch.zeros(task.n, Phi.shape[1]).double()
    W[:, :task.n + 5] = 0.9 / task.n
    V, bias = pruning.refitted(Phi, T, W, task.n)

    def fit(V: torch.Tensor, bias: torch.Tensor) -> float:
        return float((Phi @ V.mT + bias - T).square().sum())

    assert V[:, :task.n].abs().sum(dim=1).amax() <= KAPPA * (1 + 1e-9)
    assert fit(V, bias) < 0.9 * fit(W, (T - Phi @ W.mT).mean(dim=0))
    free, bias = pruning.refitted(Phi, T, W, 0)
    read = torch.cat([Phi[:, :task.n + 5], torch.ones(len(Phi), 1)], dim=1)
    wanted = read @ torch.linalg.lstsq(read, T, driver="gelsd").solution
    torch.testing.assert_close(Phi @ free.mT + bias, wanted)


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
                         "fidelity": [0.5, 0.7, 0.6], "norm": [1.0, 2, 3], "weights": [9, 9, 9]})
    found = sim_report.summary(rows)
    assert found == {"OBC": {"0.8": {"accuracy": [0.3, 0.1, 0.9], "fidelity": [0.6, 0.5, 0.7],
                                     "norm": [2, 1, 3], "weights": [9, 9, 9]}}}
    assert "| OBC | 30.0%, 0.60 | 3.00 |" in sim_report.pruning_table("a task", found)
    figure = draw_pruning({"a task": found}, ["OBC"])
    assert [ax.get_title() for ax in figure.axes] == ["a task: accuracy", "a task: fidelity"]


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
                             found["pruning"])):
        page = path.read_text(encoding="utf-8")
        assert of is None or write(page, of) == page
