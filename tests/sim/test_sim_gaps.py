"""The reported gap is true: against gaps and optima of the samples, at any scale of the data."""

import functools

import numpy as np
import pytest
from sim_cases import data, penalties, problem, values

from idl_lab.sim.solvers import ADMMSolver, CVXSolver, SolveStatus

QUIET = {"progress": False}
USUAL = {"lam": 0.05, "kappa": 0.9, "ball": 7}


def own_gap(Phi, t, w, weights, radius, ball):
    """Objective less −½‖ν‖² − νᵀt − h*(−Φᵀν), the best of multiples of two residuals.

    One is the residual at w, the other that of a Newton step on w's support, which an optimum has.
    Columns without a weight are made orthogonal to both. The best multiple is found by thirds.
    """
    free = np.flatnonzero((weights == 0) & (np.arange(len(w)) >= ball))
    residual = Phi @ w - t
    on = np.flatnonzero(w)
    held, sign, pull = on < ball, np.sign(w[on]), Phi[:, on].T @ residual
    full = np.abs(w[:ball]).sum() > radius * (1 - 1e-9) and held.any()
    theta = max(np.median((-sign * pull - weights[on])[held]), 0) if full else 0.0
    wanted = -(weights[on] + theta * held) * sign
    found = [-np.inf]
    for r in (residual, residual + np.linalg.lstsq(Phi[:, on].T, wanted - pull)[0]):
        r = r - Phi[:, free] @ np.linalg.lstsq(Phi[:, free], r)[0]
        slope = np.abs(Phi.T @ r)
        slope[free] = 0

        def bound(theta, r=r, slope=slope):
            over = np.max(theta * slope[:ball] - weights[:ball], initial=0)
            return -0.5 * theta**2 * (r @ r) - theta * (r @ t) - radius * over

        outside = slope[ball:] > 0
        low, high = 0.0, np.min(weights[ball:][outside] / slope[ball:][outside], initial=2.0)
        for _ in range(120):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            low, high = (left, high) if bound(left) < bound(right) else (low, right)
        found.append(bound(low))
    return 0.5 * residual @ residual + weights @ np.abs(w) - max(max(found), 0)


def _problems():
    Phi, T = data(1, m=60, d=20)
    wide, targets = data(2, m=15, d=30)
    rng = np.random.default_rng(5)
    correlated = 0.05 * Phi + rng.standard_normal((60, 1))
    decay = Phi @ np.linalg.qr(rng.standard_normal((20, 20)))[0] * 10.0**np.linspace(0, -4, 20)
    low = Phi[:, :4] @ rng.standard_normal((4, 20))
    layers = np.maximum(Phi[:, :6] @ rng.standard_normal((6, 14)), 0)
    ones = np.c_[Phi[:, :-1] + 100, np.ones(60)]
    each = {"lam": np.array([1e-3, 0.05, 0.5, 5.0]), "kappa": np.array([0.0, 0.2, 0.9, 40.0])}
    found = {}
    for name, features, aims in (
            ("independent", Phi, T), ("correlated", correlated, T), ("decaying", decay, T),
            ("rank-deficient", low, T), ("functions of each other", np.c_[layers, Phi[:, :6]], T),
            ("fewer samples than columns", wide, targets),
            ("badly scaled", Phi * 10.0**np.resize([3, -3, 0], 20), T), ("offset", ones, T + 5)):
        bias = {"weights": np.r_[np.ones(19), 0.0]} if name == "offset" else {}
        for kind, options in (("ball", USUAL), ("no ball", {"lam": 0.05}),
                              ("tiny lambda", {**USUAL, "lam": 1e-5}),
                              ("rows of their own", {**USUAL, **each})):
            found[f"{name}, {kind}"] = features, aims, {**options, **bias}
    return found


PROBLEMS = _problems()


def checked(Phi, T, options, found, resolved=True):
    """Each row's reported gap over its objective, after it was compared with the samples'.

    Where λ is not resolved, less than the rounding of φᵀt, the oracle is the optimum alone.
    """
    W, half = found.W.numpy(), 0.5 * (T**2).sum(axis=0)
    objective, reported, room = found.stats.objective.numpy(), found.stats.gap.numpy(), 1e-9 * half
    np.testing.assert_array_less(np.abs(objective - values(Phi, T, W, **options)), room)
    best = CVXSolver(tol=1e-10, **QUIET).solve(problem(Phi, T, **options)).W.numpy()
    above = objective - values(Phi, T, best, **options)
    np.testing.assert_array_less(above, reported + room)
    if resolved:
        weights = penalties(W.shape, options["lam"], options.get("weights", 1.0))
        radii, ball = np.broadcast_to(options.get("kappa", 0.0), len(W)), options.get("ball", 0)
        own = np.array([own_gap(Phi, t, w, *rest, ball)
                        for t, w, *rest in zip(T.T, W, weights, radii, strict=True)])
        np.testing.assert_array_less(own, reported + room)
        np.testing.assert_array_less(above, own + room)  # or the oracle itself is wrong
    return reported / np.maximum(objective, 1e-6 * half)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reported_gap_is_at_least_the_one_of_the_samples(name):
    Phi, T, options = PROBLEMS[name]
    p = problem(Phi, T, **options)
    found = ADMMSolver(**QUIET).solve(p)
    assert found.status is SolveStatus.SOLVED
    assert checked(Phi, T, options, found).max() <= 1e-6
    # On the way gaps are large, and one that is a little too small shows.
    early = ADMMSolver(max_steps=7, check_every=7, **QUIET).solve(p)
    checked(Phi, T, options, early)


@functools.cache
def scaled():
    """Columns, targets and offsets whose sizes are far apart."""
    (Phi, T), mixed = data(0), 10.0**np.resize([8, -8, 0, 8, 0, -8], 12)
    return {"columns by 1e8": (Phi * 1e8, T), "columns by 1e-8": (Phi * 1e-8, T),
            "columns mixed": (Phi * mixed, T), "targets by 1e8": (Phi, T * 1e8),
            "targets by 1e-8": (Phi, T * 1e-8), "targets mixed": (Phi, T * [1e8, 1e-8, 1, 1e4]),
            "columns by 1e8, targets by 1e-8": (Phi * 1e8, T * 1e-8)}


@pytest.mark.parametrize("kappa", [0.9, None])
@pytest.mark.parametrize("lam", [0.5, 1e-2, 1e-6])
@pytest.mark.parametrize("name", scaled())
def test_solved_at_any_scale(name, lam, kappa):
    """Columns × 1e8 at λ = 1e-6 were ENDED, targets of mixed size 100 % from their bound."""
    Phi, T = scaled()[name]
    options = {"lam": lam, **({} if kappa is None else {"kappa": kappa, "ball": 7})}
    found = ADMMSolver(**QUIET).solve(problem(Phi, T, **options))
    assert found.status is SolveStatus.SOLVED, found
    resolved = lam > 0.1 and "mixed" not in name
    assert checked(Phi, T, options, found, resolved).max() <= 1e-6


@pytest.mark.parametrize("lam", [0.5, 1e-2, 1e-6])
@pytest.mark.parametrize("offset", [1e2, 1e3, 1e4])
def test_an_offset_of_all_features_costs_digits_and_the_gap_says_so(offset, lam):
    """ΦᵀΦ of features at 1e4 has half of float64's digits left for what is not the offset."""
    Phi, T = data(0)
    far, options = np.c_[Phi + offset, np.ones(40)], {"lam": lam, "weights": np.r_[[1.0] * 12, 0]}
    found = ADMMSolver(**QUIET).solve(problem(far, T, **options))
    assert found.status.ok == (found.stats.worst_gap <= 1e-6)
    assert found.stats.worst_gap <= 1e-6 * max(1, (offset / 500)**2)
    near = ADMMSolver(tol=1e-10, **QUIET).solve(
        problem(Phi - Phi.mean(axis=0), T - T.mean(axis=0), lam=lam))
    best, gap = near.stats.objective.numpy(), found.stats.gap.numpy()
    above = values(far, T, found.W.numpy(), **options) - best
    np.testing.assert_array_less(above, gap)
    np.testing.assert_array_less(above, 1e-9 * best)
    np.testing.assert_array_less(np.abs(found.stats.objective.numpy() - above - best), gap)
