"""The SIM problem: its objective, gradient, prox, projection, and the bound of its dual."""

import numpy as np
import pytest
import torch
from helpers import central_difference, draw, mat, project_row
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import CASES, data, optimum, problem, values

from idl_lab.sim.duality import pseudo_inverse
from idl_lab.sim.problem import Problem


@pytest.mark.parametrize("name", CASES)
def test_objective_is_that_of_the_samples(name):
    Phi, T, options = CASES[name]
    W = 0.1 * np.random.default_rng(3).standard_normal((T.shape[1], 12))
    W = W * options.get("support", True)
    found = problem(Phi, T, **options).objective(mat(W)).numpy()
    np.testing.assert_allclose(found, values(Phi, T, W, **options), rtol=1e-11, atol=1e-12)


def test_gradient_is_the_finite_difference_of_the_fit():
    Phi, T = data(k=2)
    p = problem(Phi, T, lam=0.3, ridge=0.7)
    W = draw(1, 2, 12).numpy()
    numeric = central_difference(lambda V: float(p.fit(mat(V)).sum()), W, h=1e-3)
    np.testing.assert_allclose(p.gradient(mat(W)).numpy(), numeric, rtol=1e-9, atol=1e-8)


@settings(max_examples=30)
@given(st.integers(0, 99), st.floats(0, 2), st.floats(0.01, 3), st.floats(0.05, 2))
def test_prox_is_the_soft_threshold_with_the_balls_multiplier_added(seed, lam, kappa, step):
    rng = np.random.default_rng(seed)
    W, penalised = rng.standard_normal((3, 6)), rng.random(6) < 0.6
    p = problem(*data(d=6, k=3), lam=lam, kappa=kappa, ball=4, weights=1.0 * penalised)
    soft = np.sign(W) * np.maximum(np.abs(W) - step * lam * penalised, 0)
    for row in soft:
        row[:4] = project_row(row[:4], kappa)
    found = p.prox(mat(W), step)
    np.testing.assert_allclose(found.numpy(), soft, atol=1e-12)
    # And no point nearby does better, which is what a prox is.
    def cost(V):
        return step * lam * np.abs(V) @ penalised + 0.5 * ((V - W)**2).sum(axis=1)
    for _ in range(20):
        V = found.numpy() + 0.1 * rng.standard_normal(W.shape)
        V[:, :4] *= np.minimum(1, kappa / np.abs(V[:, :4]).sum(axis=1, keepdims=True))
        assert (cost(V) >= cost(found.numpy()) - 1e-12).all()


@settings(max_examples=30)
@given(st.integers(0, 99), st.floats(0, 3), st.sampled_from([1e-9, 1.0, 1e9]))
def test_projection_is_the_nearest_point_and_exactly_feasible(seed, kappa, size):
    W = draw(seed, 3, 8, scale=size)
    p = problem(*data(d=8, k=3), kappa=kappa, ball=6)
    V = p.project(W)
    for before, after in zip(W.numpy(), V.numpy(), strict=True):
        np.testing.assert_allclose(after[:6], project_row(before[:6], kappa),
                                   atol=1e-14 * max(size, 1))
        assert all(sum(abs(x) for x in order) <= kappa
                   for order in (after[:6], after[5::-1], np.sort(after[:6])))
    assert torch.equal(V[:, 6:], W[:, 6:]) and (p.violation(V) == 0).all()
    assert torch.equal(p.violation(W) > 0, W[:, :6].abs().sum(dim=1) > kappa)


@pytest.mark.parametrize("name", CASES)
def test_dual_value_never_exceeds_the_optimum(name):
    """The optimum by cvxpy on the samples; W anything, from zero to far outside the ball."""
    Phi, T, options = CASES[name]
    if "badly scaled" in name:
        Phi, T, options = data(3)[0] * 10.0**np.repeat([1, -1, 0], 4), data(3)[1], options
    p = problem(Phi, T, **options)
    best = optimum(Phi, T, **options)
    slack = 1e-6 * (1 + np.abs(best))
    for seed, size in enumerate([0, 1e-3, 0.1, 1, 10, 1e3]):
        W = draw(seed, *p.shape, scale=size)
        assert (p.dual(W).numpy() <= best + slack).all()
        V = p.project(W)
        above = p.objective(V).numpy() - best
        assert (p.gap(V).numpy() >= above - slack).all()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 3), st.floats(0, 2), st.integers(0, 6),
       st.booleans(), st.floats(0, 1))
def test_gap_is_at_least_the_true_suboptimality(seed, lam, kappa, ball, some, ridge):
    rng = np.random.default_rng(seed)
    Phi, T = data(seed, m=int(rng.integers(1, 12)), d=6, k=2)
    options = {"lam": lam, "ridge": ridge, "kappa": kappa, "ball": ball}
    if some:
        options["weights"] = 1.0 * (rng.random(6) < 0.5)
    p = problem(Phi, T, **options)
    best = optimum(Phi, T, **options)
    for size in (1e-2, 0.3, 3):
        V = p.project(mat(size * rng.standard_normal((2, 6))))
        above = p.objective(V).numpy() - best
        assert (p.gap(V).numpy() >= above - 1e-6 * (1 + best)).all()


def test_a_problem_of_some_rows_and_of_another_device_is_the_same_problem():
    p = problem(*data(), lam=0.5, kappa=0.9, ball=7)
    W = draw(2, 4, 12)
    at = torch.tensor([2, 0], device="cpu")
    torch.testing.assert_close(p.rows(at).objective(W[at]), p.objective(W)[at])
    torch.testing.assert_close(p.rows(at).dual(W[at]), p.dual(W)[at])
    torch.testing.assert_close(p.to("cpu").gap(W), p.gap(W))
    assert p.shape == (4, 12) and p.rows(at).shape == (2, 12)


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 6))
def test_pseudo_inverse_is_numpys_on_well_scaled_columns(seed, rank):
    F = draw(seed, rank, 6).numpy()
    M = F.T @ F
    P = pseudo_inverse(mat(M)).numpy()
    np.testing.assert_allclose(M @ P @ M, M, atol=1e-8 * np.abs(M).max())


def test_no_bound_is_claimed_where_rounding_hides_a_direction():
    """Two columns are alike to 3e-6 and explain all: eigenvalues of ΦᵀΦ do not show it."""
    rng = np.random.default_rng(0)
    Phi = rng.random((300, 40)) + 0.5
    t = rng.standard_normal(300)
    Phi[:, 1] = Phi[:, 0] + 3e-6 * t
    p = problem(Phi, t[:, None])
    for W in (p.zeros(), p.cross @ pseudo_inverse(p.Q)):
        assert float(p.dual(W).sum()) <= 1e-3  # the optimum is 0


def test_the_bound_with_a_multiplier_is_one_for_every_matrix_orthogonal_to_it():
    p = Problem(mat([[1.0]]), mat([[1.0], [-3.0]]), mat([1.0, 9.0]), kappa=10.0, ball=1)
    bound = p.dual(mat([[0.0], [-2.0]]), mat([[1.0], [-1.0]])).sum()
    assert bound <= p.objective(mat([[-1.0], [-1.0]])).sum()
    one = Problem(mat([[1.0]]), mat([[1.0]]), mat([1.0]), kappa=1.0, ball=1)
    assert one.dual(mat([[0.3]]), mat([[10.0]])).sum() <= -8  # 1/2 (a - 1)^2 + 10 a at a = -1


def test_numbers_of_numpy_become_plain_ones():
    p = problem(*data(), lam=np.float64(0.5), kappa=np.float64(0.9), ball=3)
    assert type(p.lam) is float and type(p.kappa) is float
