"""SIM solvers: against cvxpy on the samples, KKT by numpy, degenerate data, cancel and limits."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import CASES, data, optimum, problem
from torch import Tensor

from idl_lab.labs.sim_solvers.exercises import Momentum as Fista  # a solver of one's own
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, CVXSolver, LeastSquareSolver, SolveStatus
from idl_lab.sim.solvers.active_set import finish

QUIET = {"progress": False}


def made(name):
    Phi, T, options = CASES[name]
    return problem(Phi, T, **options)


@functools.cache
def solved(name, kind, **options):
    """A case and its answer, solved once for all tests."""
    return kind(**QUIET, **options).solve(made(name))


def check_kkt(p: Problem, W: np.ndarray, rel: float) -> None:
    """Stationarity and complementarity by numpy, in units of ‖φ_j‖ ‖t‖."""
    Q = p.gram.numpy() + p.ridge * np.eye(len(p.gram))
    rows = (p.cross, p.norms, p.penalty, p.radius)
    for w, c, norm, lam, room in zip(W, *(T.numpy() for T in rows), strict=True):
        s, ball = c - Q @ w, slice(0, p.ball)
        unit = np.sqrt(np.diag(Q) * norm)
        size = np.abs(w[ball]).sum()
        excess = np.abs(s) - lam
        theta = max(excess[ball].max(initial=0), 0) if size > room - 1e-9 else 0.0
        limit = lam + theta * (np.arange(len(w)) < p.ball)
        assert (np.abs(s) <= limit + rel * unit + 1e-9).all()
        on = w != 0
        np.testing.assert_array_less(np.abs(s - limit * np.sign(w))[on], (rel * unit + 1e-9)[on])


@pytest.mark.parametrize("solver", [ADMMSolver(**QUIET), CVXSolver(**QUIET)],
                         ids=["ADMM", "CVX"])
@pytest.mark.parametrize(("shape", "ball", "kappa"), [
    ((20, 40), 25, 0.9), ((20, 40), 25, 5.0), ((20, 40), 0, None), ((60, 30), 20, 0.9)])
def test_exact_matching_finds_the_smallest_norm_that_matches(solver, shape, ball, kappa):
    rng = np.random.default_rng(0)
    Phi = rng.standard_normal(shape)
    W = rng.standard_normal((3, shape[1])) * (rng.random((3, shape[1])) < 0.3)
    W[:, :ball] *= 0.8 / np.maximum(np.abs(W[:, :ball]).sum(axis=1, keepdims=True), 0.8)
    T = Phi @ W.T
    p = problem(Phi, T, kappa=kappa, ball=ball)
    found = solver.solve(p.exact())
    assert found.status is SolveStatus.SOLVED
    assert np.abs(Phi @ found.W.numpy().T - T).max() < 1e-6 and (p.violation(found.W) == 0).all()
    for w, t in zip(found.W, T.T, strict=True):
        v = cp.Variable(shape[1])
        limits = [Phi @ v == t] + ([cp.norm1(v[:ball]) <= kappa] if ball else [])
        smallest = cp.Problem(cp.Minimize(cp.norm1(v)), limits).solve(solver="HIGHS")
        assert float(w.abs().sum()) == pytest.approx(smallest, rel=2e-5)


# ---- every solver on every problem ----------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", [ADMMSolver, CVXSolver])
def test_solved_to_the_gap(kind, name):
    p, found = made(name), solved(name, kind)
    stats = found.stats
    if p.support is not None:
        assert not found.W[~p.support].any()
    assert found.status is SolveStatus.SOLVED and found.status.ok, found
    assert stats.relative_gap <= 1e-6
    torch.testing.assert_close(stats.objective, p.objective(found.W))
    if p.ball:
        sums = [sum(abs(x) for x in row[:p.ball]) for row in found.W.tolist()]
        assert (np.array(sums) <= p.radius.numpy()).all()
        norm = max(sums)
        assert stats.inf_norm == pytest.approx(norm, rel=1e-14)
    assert stats.nonzeros == np.count_nonzero(found.W.numpy())
    assert list(found.history.columns) == ["step", "seconds", "objective", "gap"]
    assert (np.diff(found.history["gap"]) <= 0).all()
    if "badly scaled" not in name:  # which is beyond what the samples' oracle resolves
        Phi, T, options = CASES[name]
        best = optimum(Phi, T, **options)
        assert float(stats.objective.sum()) <= best.sum() + 2e-6 * (best.sum() + 1e-3)


@pytest.mark.parametrize("name", CASES)
def test_admm_and_cvx_agree_on_the_objective(name):
    p = made(name)
    one, other = (found.stats.objective.sum() for found in (
        solved(name, ADMMSolver, tol=1e-8), solved(name, CVXSolver)))
    assert abs(one - other) <= 1e-6 * max(one, other, 2 * p.scale.sum())


@pytest.mark.parametrize("name", ["usual", "no ball", "elastic net", "bias", "kappa = 0",
                                  "rank-deficient", "duplicates", "zero features", "a support",
                                  "a support, without feedback", "a support, duplicates"])
def test_the_finish_meets_the_optimality_conditions(name):
    p = made(name)
    if name == "kappa = 0":  # the multiplier of an empty ball is any large number
        p = Problem(p.gram, p.cross, p.norms, p.lam, kappa=1e-9, ball=p.ball)
    steps = list(zip(range(60), finish(p, p.zeros(), 1e-13), strict=False))
    check_kkt(p, p.project(steps[-1][1]).numpy(), rel=1e-7)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 3), st.floats(0.05, 2), st.integers(1, 15))
def test_admm_reaches_the_gap_on_random_problems(seed, lam, kappa, m):
    p = problem(*data(seed, m=m, d=8, k=3), lam=lam, kappa=kappa, ball=5)
    found = ADMMSolver(tol=1e-7, splitting_steps=seed % 40, **QUIET).solve(p)
    assert found.status is SolveStatus.SOLVED, found
    size = torch.maximum(p.objective(found.W), p.scale).sum()
    assert float(p.gap(found.W).sum()) <= 1e-6 * float(size)


def test_zeros_are_exact_and_those_of_the_optimum():
    Phi, T = data(5, m=60, d=10, k=1)
    T = Phi[:, [1, 6]] @ np.array([[0.4], [-1.0]])
    W = ADMMSolver(tol=1e-10, **QUIET).solve(problem(Phi, T, lam=0.5, kappa=0.9, ball=5)).W
    assert np.flatnonzero(W.numpy()).tolist() == [1, 6]


def test_a_nearly_singular_gram_matrix_is_solved_too():
    """Features of a network are functions of each other: condition 1e16 and λ small."""
    rng = np.random.default_rng(0)
    U = np.abs(rng.standard_normal((300, 12)))
    layers = [U]
    for width in (16, 12, 8):
        layers.append(np.maximum(layers[-1] @ rng.standard_normal((layers[-1].shape[1], width))
                                 / 4, 0))
    Phi = np.hstack([*layers[:0:-1], U, U[:, :3] + 1e-8 * rng.standard_normal((300, 3))])
    T = layers[-1] @ rng.standard_normal((8, 6)) + layers[1][:, :6]
    for lam in (1e-4, 1e-2, 1.0):
        p = problem(Phi, T, lam=lam, kappa=0.99, ball=36)
        admm, cvx = ADMMSolver(**QUIET).solve(p), CVXSolver(**QUIET).solve(p)
        assert admm.status.ok and cvx.status.ok, (admm, cvx)
        assert float(admm.stats.objective.sum()) == pytest.approx(
            float(cvx.stats.objective.sum()), rel=1e-6)


def test_a_solver_of_ones_own_is_one_generator():
    p = made("usual")
    found, best = Fista(max_steps=20_000, **QUIET).solve(p), ADMMSolver(**QUIET).solve(p)
    assert found.status is SolveStatus.SOLVED and found.stats.solver == "Momentum"
    torch.testing.assert_close(found.stats.objective, best.stats.objective, rtol=3e-6, atol=0)


# ---- least squares --------------------------------------------------------------------------


def test_least_squares_is_numpys_of_minimum_norm_and_says_that_it_ignores_kappa():
    Phi, T, _ = CASES["usual"]
    found = LeastSquareSolver(**QUIET).solve(problem(Phi, T, lam=0.1, kappa=0.5, ball=7))
    np.testing.assert_allclose(found.W.numpy(), np.linalg.lstsq(Phi, T)[0].T, atol=1e-10)
    assert not LeastSquareSolver.honours_kappa and ADMMSolver.honours_kappa
    assert found.status is SolveStatus.IGNORES_KAPPA and not found.status.ok
    assert found.stats.inf_norm > 0.5 and "κ" in found.status.value
    one = LeastSquareSolver(**QUIET).solve(problem(Phi[:1], T[:1]))
    assert one.status is SolveStatus.SOLVED


@pytest.mark.parametrize("seed", range(3))
def test_the_finish_is_not_held_up_by_entries_that_are_rounding(seed):
    Phi, T = data(seed, d=30)
    Phi = Phi * 10.0**np.linspace(0, -1.5, 30) + 3 * Phi[:, :1]
    p = problem(Phi, T, lam=0.5, kappa=0.9, ball=20)
    W = p.project(draw(seed, 4, 30))
    assert (W == 0).any()
    W = torch.where(W == 0, 1e-17 * draw(seed + 9, 4, 30).sign(), W)
    for _, V in zip(range(300), finish(p, W, 1e-9), strict=False):
        found = p.project(V)
    assert float(p.gap(found).sum()) <= 1e-6 * float(p.objective(found).sum())


# ---- limits and cancellation ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Interrupted(Fista):
    """Presses Ctrl-C after some steps."""

    after: ClassVar[int] = 25

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        for step, W in enumerate(super().iterates(problem)):
            if step == self.after:
                raise KeyboardInterrupt
            yield 100 * W if step == self.after - 3 else W


def test_an_interrupt_keeps_the_best_feasible_point():
    p = made("usual")
    found = Interrupted(**QUIET).solve(p)
    assert found.status is SolveStatus.CANCELLED and not found.status.ok
    assert (p.violation(found.W) == 0).all()
    assert (p.objective(found.W) < p.objective(p.zeros())).all()
    assert found.stats.steps == 25 and len(found.history) == 2
    assert "CANCELLED" in repr(found) and "relative gap" in repr(found)


@pytest.mark.parametrize("solver", [Fista(**QUIET), CVXSolver(**QUIET)], ids=["FISTA", "CVX"])
def test_who_watches_a_solve_sees_its_history_and_can_end_it(solver):
    p, seen = problem(*data(k=12), lam=0.5, kappa=0.9, ball=7), []
    found = solver.solve(p, watch=seen.append)
    assert found.status is SolveStatus.SOLVED and len(seen) > 1
    assert seen == found.history.to_dict("records")
    torch.testing.assert_close(found.W, solver.solve(p).W)
    ended = solver.solve(p, watch=lambda row: row["step"] >= seen[0]["step"])
    assert ended.status is SolveStatus.CANCELLED and len(ended.history) == 1
    assert (p.violation(ended.W) == 0).all()
    assert float(ended.stats.objective.sum()) == pytest.approx(seen[0]["objective"], rel=1e-9)


def test_limits_end_a_solve_and_the_status_says_which():
    p = made("usual")
    steps = Fista(max_steps=7, **QUIET).solve(p)
    assert steps.status is SolveStatus.MAX_STEPS and steps.stats.steps == 7
    late = Fista(seconds=1e-9, **QUIET).solve(p)
    assert late.status is SolveStatus.SECONDS and late.stats.steps == 1
    assert (p.violation(late.W) == 0).all() and late.stats.relative_gap > 1e-6


def test_rounding_ends_a_solve_that_asks_for_too_much():
    found = ADMMSolver(tol=1e-17, **QUIET).solve(made("usual"))
    assert found.status in (SolveStatus.ENDED, SolveStatus.SOLVED)
    assert found.stats.relative_gap < 1e-11


def test_a_solve_leaves_the_problem_as_it_was_and_repeats_itself():
    p = made("bias")
    before = [T.clone() for T in (p.gram, p.cross, p.norms)]
    one, two = (ADMMSolver(**QUIET).solve(p).W for _ in range(2))
    torch.testing.assert_close(one, two)
    assert all(map(torch.equal, before, (p.gram, p.cross, p.norms)))


# ---- cvxpy ----------------------------------------------------------------------------------


def test_the_oracle_says_which_solver_it_used():
    p = made("usual")
    assert "CLARABEL" in solved("usual", CVXSolver, solver="CLARABEL").stats.solver
    other = CVXSolver(solver="SCS", tol=1e-4, **QUIET).solve(p)
    assert "SCS" in other.stats.solver and other.status.ok


def test_processes_give_the_same_rows():
    one, two = (solved("usual", CVXSolver, n_jobs=n) for n in (1, 2))
    torch.testing.assert_close(one.W, two.W, rtol=1e-6, atol=1e-8)  # threads differ, so roundings
