"""The oracle: bounds of its own, data of any scale, nearly singular data, what it cannot solve."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from sim_cases import CASES, data, optimum, problem
from sklearn.datasets import load_digits

from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, CVXSolver, SolveStatus

QUIET = {"progress": False}


def lower(found):
    return found.stats.objective - found.stats.gap


def test_it_shares_no_step_with_admm_and_no_bound(monkeypatch):
    Phi, T, options = CASES["usual"]
    p, best = problem(Phi, T, **options), optimum(Phi, T, **options)

    def refused(*_):
        raise AssertionError("this is ADMM's")

    for name in ("dual", "prox", "gap", "spectrum", "free_inverse"):
        monkeypatch.setattr(Problem, name, refused)
    monkeypatch.setattr("idl_lab.sim.problem.lower_bound", refused)
    found = CVXSolver(**QUIET).solve(p)
    assert found.status is SolveStatus.SOLVED
    np.testing.assert_allclose(found.stats.objective, best, rtol=1e-8)
    assert (found.stats.gap.numpy() <= 1e-8 * best).all()


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-6, 0.5, 50.0]),
       st.sampled_from([0.0, 1e-3, 0.9, 1e3]), st.floats(0, 4), st.integers(1, 20),
       st.booleans())
def test_the_scale_of_the_data_does_not_matter(seed, lam, kappa, spread, m, repeated):
    Phi, T = data(seed, m=m, d=9, k=3)
    Phi[:, [4, 7]] = Phi[:, [1, 1]] if repeated else Phi[:, [4, 7]]
    rng = np.random.default_rng(seed)
    Phi = Phi * 10.0**rng.uniform(-spread, spread, 9)
    p = problem(Phi, T * 10.0**rng.uniform(-spread, spread, 3), lam=lam, kappa=kappa, ball=5)
    found = CVXSolver(**QUIET).solve(p)
    assert found.status is SolveStatus.SOLVED, found
    assert (p.violation(found.W) == 0).all()
    # A lower bound is below every feasible point, those that another method finds too.
    for W in (ADMMSolver(tol=1e-9, **QUIET).solve(p).W, p.zeros()):
        assert (lower(found) <= p.objective(W) + 1e-10 * p.norms).all()


def test_its_zeros_are_those_of_the_optimum():
    for seed in range(3):
        p = problem(*data(seed, m=50, d=20, k=4), lam=1.0, kappa=0.9, ball=12)
        one, other = CVXSolver(**QUIET).solve(p), ADMMSolver(tol=1e-10, **QUIET).solve(p)
        assert ((one.W == 0) == (other.W == 0)).all() and 0 < one.stats.nonzeros < 80


@pytest.mark.parametrize("lam", [1e-4, 1e-2, 1.0])
def test_digits_that_were_drawn_larger(lam):
    """196 pixels of 64 numbers: nearly singular, and each row a pixel that the others give."""
    images = np.stack([zoom(image / 16, 1.75, order=3) for image in load_digits().images[:300]])
    Phi = images.reshape(300, -1)
    T = np.maximum(Phi @ np.random.default_rng(0).standard_normal((196, 3)), 0)
    p = problem(Phi, T, lam=lam, kappa=5.0, ball=100)
    found = CVXSolver(**QUIET).solve(p)
    assert found.status is SolveStatus.SOLVED, found
    assert np.linalg.cond(Phi.T @ Phi) > 1e12


def test_columns_that_nothing_holds():
    """No λ and no ball: least squares, also where columns repeat or are zero."""
    Phi, T = data()
    Phi[:, 3], Phi[:, 5] = Phi[:, 1], 0
    residual = T - Phi @ np.linalg.lstsq(Phi, T)[0]
    found = CVXSolver(**QUIET).solve(problem(Phi, T))
    assert found.status is SolveStatus.SOLVED
    np.testing.assert_allclose(found.stats.objective, 0.5 * (residual**2).sum(axis=0))
    part = CVXSolver(**QUIET).solve(problem(Phi, T, kappa=0.5, ball=5))
    assert part.status is SolveStatus.SOLVED and part.stats.inf_norm <= 0.5


def test_a_row_without_an_answer_is_left_and_none_at_all_is_an_error(monkeypatch):
    p = problem(*data(), lam=0.5, kappa=0.9, ball=7)
    best = CVXSolver(**QUIET).solve(p).stats.objective
    calls, solve = [], cp.Problem.solve

    def fails(those):
        def solved(self, **options):
            calls.append(1)
            if len(calls) in those:
                raise cp.SolverError("no answer")
            return solve(self, **options)

        monkeypatch.setattr(cp.Problem, "solve", solved)

    fails([2, 3])  # both tries of the second row
    found = CVXSolver(**QUIET).solve(p)
    assert found.status is SolveStatus.ENDED and not found.W[1].any()
    others = torch.tensor([0, 2, 3], device="cpu")
    torch.testing.assert_close(found.stats.objective[others], best[others])
    assert found.stats.gap[1] == found.stats.objective[1] == 0.5 * p.norms[1]
    calls.clear()
    fails(range(1, 9))
    with pytest.raises(cp.SolverError, match="no answer"):
        CVXSolver(**QUIET).solve(p)
