"""What λ multiplies: the same for every unit; and least squares on the entries that it left."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import draw, mat
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import problem
from sim_students import batches_of, random_teacher, taught_sim

from idl_lab.sim.problem import state_matching
from idl_lab.sim.solvers import ADMMSolver, CVXSolver
from idl_lab.sim.states import gram_statistics
from idl_lab.sim.weighing import on_support, sizes, weighted

pytestmark = pytest.mark.filterwarnings("ignore:the student is poor")
SOLVER = ADMMSolver(device="cpu", progress=False, tol=1e-9)
M, D, K, BALL = 60, 7, 3, 3


def case(seed=0, feature=1.0, target=1.0, shift=0.0, **options):
    """Features [Φ 1] and targets that lean on them, in given units; ball columns first."""
    rng = np.random.default_rng(seed)
    Phi = rng.standard_normal((M, D)) @ (np.eye(D) + 0.4 * rng.standard_normal((D, D)))
    true = rng.standard_normal((D, K)) * (rng.random((D, K)) > 0.4)
    T = Phi @ true + rng.standard_normal((M, K))
    Phi = np.hstack([Phi * feature, np.ones((M, 1))])
    weights = np.append(np.ones(D), 0.0)
    return problem(Phi, T * target + shift, lam=0.3, weights=weights, **options), Phi


scale = st.lists(st.floats(-4, 4), min_size=D + K, max_size=D + K)


@settings(max_examples=12)
@given(scale, st.sampled_from(["standard", "adaptive"]), st.integers(0, 99),
       st.booleans())
def test_no_unit_changes_what_lambda_does(powers, how, seed, outputs):
    feature, target = 10.0 ** np.array(powers[:D]), 10.0 ** np.array(powers[D:])
    shift = 1e2 * target if outputs else 0.0
    ball = {} if outputs else {"ball": BALL, "kappa": 1e9}
    plain, moved = case(seed, **ball)[0], case(seed, feature, target, shift, **ball)[0]
    W, V = (SOLVER.solve(weighted(p, how, M)).W[:, :D] for p in (plain, moved))
    found = V * mat(feature) / mat(target)[:, None]
    torch.testing.assert_close(found, W, rtol=2e-3, atol=2e-3 * float(W.abs().max()))


def test_what_the_names_mean():
    plain, Phi = case(1)
    T = np.linalg.lstsq(Phi, np.zeros((M, K)), rcond=None)[0]
    assert weighted(plain, "uniform", M) is plain
    feature, target = sizes(plain, M)
    standard = weighted(plain, "standard", M).weights
    np.testing.assert_allclose(feature, np.sqrt((Phi ** 2).mean(0)))
    W = mat(np.linalg.lstsq(Phi.T @ Phi, plain.cross.mT.numpy(), rcond=None)[0].T)
    assert T.shape == W.mT.shape and not standard[:, -1].any()
    np.testing.assert_allclose(standard[:, :-1], np.outer(target, feature)[:, :-1])
    relative = (W.abs() * feature / target[:, None])[:, :-1]
    adaptive = weighted(plain, "adaptive", M).weights
    torch.testing.assert_close(adaptive[:, :-1], standard[:, :-1] / relative, rtol=1e-3, atol=0)
    assert not adaptive[:, -1].any()


def test_outputs_are_measured_about_their_means_where_a_bias_takes_these_up():
    rng = np.random.default_rng(0)
    Phi, T = rng.standard_normal((M, D)), 5 + rng.standard_normal((M, K))
    bare = problem(Phi, T)
    np.testing.assert_allclose(sizes(bare, M)[1], np.sqrt((T ** 2).mean(0)))
    ones = problem(np.hstack([Phi, np.ones((M, 1))]), T, weights=np.append(np.ones(D), 0.0))
    np.testing.assert_allclose(sizes(ones, M)[1], T.std(0), rtol=1e-9)
    states = replace(ones, ball=BALL, kappa=1.0)
    np.testing.assert_allclose(sizes(states, M)[1], np.sqrt((T ** 2).mean(0)))
    still = problem(np.hstack([0 * Phi, np.ones((M, 1))]), 0 * T + 5, weights=np.append(
        np.ones(D), 0.0))
    assert (sizes(still, M)[0] == 1).all() and (sizes(still, M)[1] == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_refit_is_least_squares_on_the_support(seed):
    wide, Phi = case(seed, kappa=1e3, ball=BALL)
    W = SOLVER.solve(weighted(wide, "standard", M)).W
    assert ((W == 0).sum() > 0) and ((W != 0).sum() > K)
    V = SOLVER.solve(on_support(weighted(wide, "standard", M), W), start=W).W
    assert not V[(W == 0)].any()
    Q, c = np.asarray(wide.gram), np.asarray(wide.cross)
    for row, w, target in zip(V, W, c, strict=True):
        S = np.append(np.flatnonzero(np.asarray(w[:-1])), D)
        wanted = np.linalg.solve(Q[np.ix_(S, S)], target[S])
        np.testing.assert_allclose(row[S], wanted, rtol=0, atol=2e-3 * np.abs(wanted).max())
    tight, _ = case(seed, kappa=0.5, ball=BALL)
    tight = weighted(tight, "standard", M)
    W = SOLVER.solve(tight).W
    V = SOLVER.solve(on_support(tight, W), start=W).W
    assert (V[:, :BALL].abs().sum(dim=1) <= 0.5).all()
    assert (tight.fit(V) <= tight.fit(W) * (1 + 1e-6)).all()


def test_a_refit_student_keeps_its_zeros_and_its_bound_and_is_better():
    teacher, U, fresh = random_teacher(3), draw(1, 400, 6), draw(2, 400, 6)
    lasso = taught_sim(teacher, U, lambda_z=3.0, lambda_y=3.0)
    refit = taught_sim(teacher, U, lambda_z=3.0, lambda_y=3.0, refit=True)
    for name in "ABCD":
        assert not getattr(refit.result, name)[getattr(lasso.result, name) == 0].any()
    assert refit.result.stats["inf_norm"] <= 0.99
    assert refit.fidelity(batches_of(fresh)) > lasso.fidelity(batches_of(fresh)) + 0.01


@pytest.mark.filterwarnings("ignore:(state|output) matching stopped early")
def test_a_lambda_means_the_same_for_every_layer():
    """Rescaled, a late layer's states are small numbers, on which a plain λ weighs more."""
    teacher, U = random_teacher(6, width=12), draw(1, 500, 6)
    fits, fidelity = {}, {}
    for how in ("uniform", "standard"):
        sim = taught_sim(teacher, U, weigh=how)
        fits[how] = list(sim.result.stats["fit"].values())
        fidelity[how] = sim.fidelity(batches_of(draw(2, 500, 6)))
    assert fits["uniform"][0] < 0.7 and min(fits["standard"]) > 0.99
    assert fidelity["uniform"] < 0.9 and fidelity["standard"] > 0.99


def test_a_row_that_is_a_small_number_is_solved_too():
    """Targets of sizes 1 … 1e-7: the sum of the gaps knows the first alone."""
    teacher, U = random_teacher(2), draw(1, 300, 6)
    small = 10.0 ** torch.linspace(0, -7, 5).double()
    teacher[2].weight.data *= small[:, None]
    teacher[2].bias.data *= small
    teacher[4].weight.data /= small
    sim = taught_sim(teacher, U, rescale=False, weigh="uniform", lambda_z=1e-8, lambda_y=1e-8)
    assert sim.result.stats["worst_gap"]["state"] < 1e-2
    with torch.no_grad():
        hidden = teacher[1](teacher[0](U))
        last = teacher[2](hidden)
        states = torch.cat([teacher[3](last), hidden, U, torch.ones(300, 1)], dim=1)
    result = sim.result
    W = torch.cat([result.A, result.B, result.state_bias[:, None]], dim=1)[:5]
    missed = (states @ W.T - last).norm(dim=0) / (last - last.mean(0)).norm(dim=0)
    problem = state_matching(gram_statistics(teacher, [U], progress=False), 0.99, 1e-8)
    best = CVXSolver(progress=False).solve(problem.rows(torch.arange(5))).W
    wanted = (states @ best.T - last).norm(dim=0) / (last - last.mean(0)).norm(dim=0)
    assert (missed <= wanted + 1e-2).all()


def test_exact_matching_of_a_deep_teacher_that_is_itself_a_match():
    """No warning: of no row is there more than a ten-thousandth missed."""
    teacher, U = random_teacher(8), draw(1, 250, 6)
    sim = taught_sim(teacher, U, exact=True)
    assert min(sim.result.stats["fit"].values()) > 1 - 1e-6
    assert sim.result.stats["inf_norm"] <= 0.99
    assert sim.fidelity(batches_of(draw(2, 400, 6))) > 0.999
