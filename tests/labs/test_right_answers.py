"""What labs 05 to 09 call right, against oracles that know nothing of the formulas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import mat
from sim_cases import data, optimum, problem, values

from idl_lab import ImplicitModel, ImplicitRNNCell
from idl_lab.fixed_point import Picard
from idl_lab.labs import check
from idl_lab.labs.kit.problems import generator, normal, random_matrix
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.well_posedness import inf_norm

SOLVER = ADMMSolver(tol=1e-10, device="cpu", progress=False)


def right(name):
    """The right function of an exercise, and what it draws."""
    lab, exercise = name.split(".")
    found = getattr(check, lab).exercises[exercise].exercise
    return found.right, found.inputs(generator(5))


def test_the_size_of_a_factored_model_is_that_of_its_parameters():
    size, _ = right("training.factored_size")
    model = ImplicitModel(7, 3, 11, rank=2, device="cpu")
    assert size(11, 7, 3, 2) == sum(M.numel() for M in model.parameters())


@pytest.mark.parametrize("name", ["safe_tolerance", "sharper_tolerance"])
def test_below_a_safe_tolerance_no_state_in_reach_changes_a_class(name):
    """The worst states within e are e·sign(C_j − C_i) away; the sharper bound is met exactly."""
    tolerance, (scores, C, kappa, size) = right(f"training.{name}")
    reach = float(tolerance(scores, C, kappa, size)) * size / (1 - kappa)

    def turned(e):
        return any((y + e * C @ (C[j] - C[i]).sign()).argmax() != i
                   for y in scores for i in [int(y.argmax())] for j in range(len(C)))
    assert not turned(0.999 * reach)
    assert turned(1.001 * reach) == (name == "sharper_tolerance")


def test_a_step_of_the_recurrence_is_the_cells():
    step, (A, B, C, D, u, h) = right("implicit_rnn.rnn_step")
    cell = ImplicitRNNCell(2, 3, 4, activation="tanh", kappa=0.6, solver=Picard(1e-12),
                           device="cpu", dtype=torch.float64)
    with torch.no_grad():
        for name, M in zip("ABCD", (A, B, C, D), strict=True):
            setattr(cell.layer, name, torch.nn.Parameter(M) if name != "A" else M)
        torch.testing.assert_close(step(A, B, C, D, u, h), cell(u, h))


def test_up_to_the_kappa_that_forgets_nothing_grows_and_beyond_something_can():
    forgets, (B, C, D) = right("implicit_rnn.forgetting_kappa")
    memory, _ = right("implicit_rnn.memory_matrix")
    kappa, draws = float(forgets(B, C, D)), generator(6)
    assert 0 < kappa < 1
    for _ in range(50):
        A = random_matrix(6, kappa, generator=draws)
        slopes = torch.rand(1, 6, generator=draws, dtype=A.dtype, device="cpu")
        assert inf_norm(memory(A, B, C, D, slopes)) <= 1
    # Equal row sums and no signs: every inequality of the bound is an equation.
    even = [M.abs() * inf_norm(M) / M.abs().sum(dim=1, keepdim=True) for M in (B, C, D)]
    for k, norm in ((kappa, 1.0), (0.5 + kappa / 2, None)):
        J = memory(random_matrix(6, k, "positive", generator=draws), *even,
                   torch.ones(1, 6, dtype=B.dtype, device="cpu"))
        assert float(inf_norm(J)) == pytest.approx(norm) if norm else inf_norm(J) > 1




def test_the_misfits_are_those_of_the_samples():
    misfits, _ = right("sim_states.gram_objective")
    (Phi, T), W = data(), normal(4, 12, generator=generator(1))
    found = misfits(W, *map(mat, (Phi.T @ Phi, T.T @ Phi, (T**2).sum(axis=0))))
    np.testing.assert_allclose(found, values(Phi, T, W.numpy()))


def test_a_row_is_zero_from_that_lambda_on_and_not_before():
    smallest, _ = right("sim_states.row_of_zeros")
    Phi, T = data()
    lam = np.array([float(smallest(mat(Phi), z)) for z in mat(T).T])
    for share in (1.001, 0.999):
        W = SOLVER.solve(problem(Phi, T, lam=share * lam, kappa=0.9, ball=7)).W
        assert bool((W == 0).all(dim=1).all()) == (share > 1)
        assert bool((W != 0).any(dim=1).all()) == (share < 1)


def test_the_violation_and_the_gap_vanish_at_the_optimum_and_the_gap_bounds_the_distance():
    violation, _ = right("sim_states.optimality")
    gap, _ = right("sim_states.duality_gap")
    (Phi, T), lam, draws = data(), 3.0, generator(2)
    best = SOLVER.solve(problem(Phi, T, lam=lam)).W
    lowest = optimum(Phi, T, lam=lam)
    for k, beta in enumerate(best):
        z = mat(T[:, k])
        sums = mat(Phi.T @ Phi), mat(Phi.T @ T[:, k]), lam
        assert violation(beta, *sums) < 1e-6 and abs(gap(beta, mat(Phi), z, lam)) < 1e-6
        for size in (1e-3, 0.1, 1.0):
            other = beta + size * normal(12, generator=draws)
            above = values(Phi, T[:, k:k + 1], other[None].numpy(), lam=lam)[0] - lowest[k]
            assert float(gap(other, mat(Phi), z, lam)) >= above - 1e-6
            assert violation(other, *sums) > 1e-3


@pytest.mark.parametrize("kappa", [0.5, 50.0])
def test_the_proximal_operators_are_the_nearest_points_that_cvxpy_finds(kappa):
    threshold, _ = right("sim_solvers.soft_threshold")
    prox, _ = right("sim_solvers.prox_in_ball")
    w, eye = 2 * normal(9, generator=generator(3)), np.eye(9)
    target = w[:, None].numpy()
    for v, limits in ((threshold(w, 0.7), {}),
                      (prox(w, 5, 0.7, kappa), {"kappa": kappa, "ball": 5})):
        assert not limits or v[:5].abs().sum() <= kappa + 1e-9
        np.testing.assert_allclose(values(eye, target, v[None].numpy(), lam=0.7),
                                   optimum(eye, target, lam=0.7, **limits), rtol=1e-6)


def test_steps_of_admm_end_at_the_optimum_and_stay_there():
    step, _ = right("sim_solvers.admm_step")
    Phi, T = data()
    given = problem(Phi, T, lam=0.5, kappa=0.9, ball=7)
    zeta = mu = given.zeros()
    for _ in range(500):
        beta, zeta, mu = step(given, zeta, mu, 20.0)
    torch.testing.assert_close(beta, zeta)
    np.testing.assert_allclose(given.objective(zeta),
                               optimum(Phi, T, lam=0.5, kappa=0.9, ball=7), rtol=1e-6)


def test_sums_take_less_room_from_that_number_of_samples_on():
    number, _ = right("sim_at_scale.break_even")
    for n, p in itertools.product((1, 7, 30), (1, 12)):
        d = n + p
        room = 8 * (d * d + n * d + n)
        assert number(n, p) == next(m for m in itertools.count(1) if 4 * m * (n + n + p) >= room)


def test_sums_in_other_units_and_of_two_shards_are_those_of_the_samples():
    units, (_, v) = right("sim_at_scale.gram_in_units")
    merged, _ = right("sim_at_scale.merged_scatter")
    Phi = 3 + normal(30, 5, generator=generator(4))
    other = torch.cat([Phi[:, :3] / v, Phi[:, 3:]], dim=1)
    torch.testing.assert_close(units(Phi.T @ Phi, v), other.T @ other)
    parts = [(len(S), S.mean(dim=0), S.T.cov(correction=0) * len(S)) for S in Phi.split([7, 23])]
    torch.testing.assert_close(merged(*parts[0], *parts[1]), Phi.T.cov(correction=0) * 30)
