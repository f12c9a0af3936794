"""The exact path: against scikit-learn's, on features that depend on each other, and its bounds."""

import numpy as np
import pytest
import torch
from helpers import mat
from scipy.linalg import hadamard
from sim_cases import CASES, data, problem
from sklearn.linear_model import lars_path_gram

from idl_lab.sim.solvers import ADMMSolver, CVXSolver, SolveStatus
from idl_lab.sim.solvers.active_set import finish
from idl_lab.sim.solvers.path import follow

QUIET = {"progress": False}


def gaps(Phi, T, W, lam, kappa=None, ball=0):
    """Each row's duality gap over its objective, by numpy on the samples.

    For every ν with |φ_jᵀν| ≤ λ_j outside the ball the optimum is at least −½‖ν‖² − νᵀt −
    κ max_j (|φ_jᵀν| − λ_j)₊; tried are multiples of the residual.
    """
    found = []
    for w, t, weights in zip(W, T.T, np.broadcast_to(lam, W.shape), strict=True):
        r = Phi @ w - t
        s = np.abs(Phi.T @ r)
        far = min([1.0, *(weights[ball:][s[ball:] > 0] / s[ball:][s[ball:] > 0])])
        thetas = far * np.linspace(0.0, 1.0, 2001) ** 0.1
        excess = np.maximum(np.outer(thetas, s[:ball]) - weights[:ball], 0).max(axis=1, initial=0)
        bound = -0.5 * thetas**2 * (r @ r) - thetas * (r @ t) - (kappa or 0) * excess
        objective = 0.5 * r @ r + weights @ np.abs(w)
        found.append((objective - bound.max()) / max(objective, 5e-7 * t @ t))
    return np.array(found)


def dependent(seed=0, m=300, k=9):
    """ReLU layers one after the other, and pixels that 9 numbers explain: rank 45 of 84 columns."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((m, 9)) @ rng.standard_normal((9, 48))
    layers = [U]
    for width in (16, 12, 8):
        layers.append(np.maximum(layers[-1] @ rng.standard_normal((layers[-1].shape[1], width))
                                 / layers[-1].shape[1]**0.5, 0))
    Phi = np.hstack([*layers[:0:-1], U])
    W = rng.standard_normal((84, k)) * (rng.random((84, k)) < 0.3)
    return Phi, Phi @ W * 0.2, 36


def last(p, spread=0.0):
    *_, W = follow(p, spread)
    return p.project(W)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.5])
@pytest.mark.parametrize(("m", "d"), [(60, 20), (15, 40)])
def test_the_path_ends_where_that_of_scikit_learn_does(m, d, spread):
    Phi, T = data(1, m=m, d=d, k=5)
    Phi = Phi + 2 * Phi[:, :1]
    W = last(problem(Phi, T, lam=0.3), spread).numpy()
    for w, t in zip(W, T.T, strict=True):
        _, _, path = lars_path_gram(Phi.T @ t, Phi.T @ Phi, n_samples=1, alpha_min=0.3,
                                    method="lasso")
        np.testing.assert_allclose(w, path[:, -1], atol=1e-8)
        # Of either, rounding may leave next to nothing where a zero belongs.
        assert ((np.abs(w) > 1e-7) == (np.abs(path[:, -1]) > 1e-7)).all()


@pytest.mark.parametrize("name", CASES)
def test_what_rounding_leaves_of_the_path_on_degenerate_data_the_finish_puts_right(name):
    Phi, T, options = CASES[name]
    if "weights" in options:
        options = {**options, "weights": mat(options["weights"])}
    p = problem(Phi, T, **options)
    *_, W = follow(p)
    size = torch.maximum(p.objective(p.project(W)), p.scale).clamp(min=1e-300)
    assert (p.objective(p.project(W)) <= p.objective(p.zeros()) + 1e-9 * size).all()
    W = p.project([V for _, V in zip(range(5), finish(p, W, 1e-8), strict=False)][-1])
    size = torch.maximum(p.objective(W), p.scale).clamp(min=1e-300)
    assert float((p.gap(W) / size).amax()) < 1e-6


def tied(name, seed):
    """Features and targets with which many columns come in, or leave, at the same λ."""
    rng = np.random.default_rng(seed)
    if name == "signs":
        Phi = rng.choice([-1.0, 1.0], (12, 40))
    elif name == "images of few greys":
        grey = np.kron(rng.choice([0, 0.5, 1], (30, 4, 4)), np.ones((2, 2))).reshape(30, 64)
        Phi = np.c_[np.maximum(grey @ rng.choice([-1.0, 1.0], (64, 10)) / 4, 0), grey]
    else:
        H = hadamard(32) * 1.0
        Phi = np.c_[H[:, :20], H[:, :16], H[:, :20]]
        return Phi, H @ rng.choice([-1.0, 0, 1], (32, 6))
    return Phi, Phi @ rng.choice([-1.0, 0, 1], (Phi.shape[1], 6)) / 4


@pytest.mark.parametrize("kappa", [0.9, None])
@pytest.mark.parametrize("name", ["signs", "images of few greys", "orthogonal, in copies"])
def test_tied_kinks_are_no_circle(name, kappa):
    """A path whose weights fall alike stops in them, one with spread weights at the copies."""
    for seed in range(3):
        Phi, T = tied(name, seed)
        options = {"lam": 1e-6, **({} if kappa is None else {"kappa": kappa, "ball": 10})}
        assert ADMMSolver(**QUIET).solve(problem(Phi, T, **options)).status is SolveStatus.SOLVED


@pytest.mark.parametrize("lam", [1.0, 1e-3, 1e-5])
def test_columns_that_are_functions_of_each_other_are_no_obstacle(lam):
    Phi, T, ball = dependent()
    p = problem(Phi, T, lam=lam, kappa=0.9, ball=ball)
    found = ADMMSolver(**QUIET).solve(p)
    assert found.status is SolveStatus.SOLVED and found.stats.worst_gap <= 1e-6
    W = found.W.numpy()
    assert (gaps(Phi, T, W, lam, 0.9, ball) < 1e-4).all()  # multiples on a grid: a rough bound
    best = CVXSolver(**QUIET).solve(p).stats.objective
    torch.testing.assert_close(found.stats.objective, best, rtol=3e-6,
                               atol=3e-6 * float(p.scale.max()))
    assert (np.count_nonzero(W, axis=1) <= np.linalg.matrix_rank(Phi) + 1).all()  # a vertex


def test_each_row_has_its_own_weights_and_radius():
    Phi, T = data(3, m=12, d=20, k=3)
    lam, kappa = np.array([0.01, 0.1, 1.0]), np.array([0.2, 3.0, 0.0])
    weights = 1 + np.random.default_rng(0).random((3, 20))
    p = problem(Phi, T, lam=mat(lam),
                kappa=mat(kappa), ball=8,
                weights=mat(weights))
    W = last(p).numpy()
    assert (np.abs(W[:, :8]).sum(axis=1) <= kappa).all() and (W[2, :8] == 0).all()
    for i in range(3):
        row = gaps(Phi, T[:, i:i + 1], W[i:i + 1], lam[i] * weights[i], kappa[i], 8)
        assert row[0] < 1e-3
    best = torch.stack([CVXSolver(**QUIET).solve(p.rows(slice(i, i + 1))).stats.objective[0]
                        for i in range(3)])
    torch.testing.assert_close(p.objective(mat(W)), best, rtol=1e-6,
                               atol=1e-7)


@pytest.mark.parametrize("solver", [ADMMSolver(**QUIET), ADMMSolver(splitting_steps=0, **QUIET)])
def test_solved_means_every_row_however_small(solver):
    Phi, T = data(2, m=40, d=12, k=4)
    sizes = np.array([1.0, 1e-5, 1.0, 1e-3])
    p = problem(Phi, T * sizes, lam=mat(0.5 * sizes), kappa=0.9, ball=7)
    found = solver.solve(p)
    size = torch.maximum(found.stats.objective, p.scale)
    assert found.status is SolveStatus.SOLVED
    assert float((found.stats.gap / size).max()) == pytest.approx(found.stats.worst_gap)
    assert found.stats.worst_gap <= 1e-6 and "worst row" in repr(found)
    one = ADMMSolver(max_steps=10, check_every=1, tol=1e-12, **QUIET).solve(p)
    if one.stats.worst_gap > 1e-12:
        assert one.status is not SolveStatus.SOLVED
