"""What the exercises of labs 10 to 15 call right, against the library and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import CPU64, draw, mat, unrolled
from scipy import stats
from scipy.sparse.csgraph import shortest_path

from idl_lab import ImplicitModel
from idl_lab.labs import check
from idl_lab.labs.graphs import exercises as graphs
from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import generator
from idl_lab.labs.robustness import exercises as robustness
from idl_lab.labs.sparsity import exercises as sparsity
from idl_lab.labs.sweeps.problems import best_of
from idl_lab.layer import ImplicitGraph, normalised_adjacency
from idl_lab.robustness import bounds, fgsm, pgd, sensitivity

CPU = {"device": "cpu"}


def given(exercise: Exercise, seed: int = 0) -> tuple:
    return exercise.inputs(generator(seed))


def right(lab: str, name: str) -> Exercise:
    return getattr(check, lab).exercises[name].exercise


def states(A: torch.Tensor, B: torch.Tensor, U: torch.Tensor) -> torch.Tensor:
    return mat(unrolled(A.numpy(), (U @ B.mT).numpy(), "relu"))


# ---- 10 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 2, 5, 7])
def test_the_best_of_k_is_the_labs_curve(K):
    seen, unseen = draw(0, 2, 7)
    table = best_of(seen, unseen)
    assert float(right("sweeps", "expected_best").right(seen, unseen, K)) == pytest.approx(
        table["judged_by"][K])


def test_who_stops_at_the_first_difference_announces_one_in_a_fifth_of_the_courses():
    """21 of 100 is what the praise says; 0.21 ± 0.04 is three standard errors of 1,000."""
    t = mat([np.inf, *stats.t.ppf(0.975, np.arange(1, 13))])
    stopped = [right("sweeps", "announced").right(d, t) for d in draw(0, 1000, 12)]
    assert np.mean(np.array(stopped) > 0) == pytest.approx(0.21, abs=0.04)
    assert set(stopped) <= {0, *range(2, 13)}


# ---- 11 ---------------------------------------------------------------------------------------


def test_one_weight_after_the_other_does_and_the_largest_do_not():
    found = {answer: sparsity._choice(answer) for answer in (
        sparsity._one_by_one, lambda H, c, k: sparsity.refit(
            H, c, sparsity._of_largest(H, c, k) != 0))}
    good, largest = found.values()
    assert good.times < 1.7 and largest.times > 4  # 2 is asked for


# ---- 12 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "slope"), [("relu", 1.0), ("sigmoid", 0.25)])
def test_the_sensitivity_matrix_is_the_librarys(activation, slope):
    *parts, _ = given(robustness.sensitivity_matrix)
    S = sensitivity(ImplicitModel.from_matrices(*parts, activation=activation))
    torch.testing.assert_close(robustness.sensitivity_matrix.right(*parts, slope), S)


@pytest.mark.parametrize("seed", range(3))
def test_no_input_of_the_box_has_a_state_outside_its_interval(seed):
    A, B, low, high = given(robustness.states_in_a_box, seed)
    lower, upper = robustness.states_in_a_box.right(A, B, low, high)
    share = torch.rand(500, 3, generator=generator(seed), **CPU64)
    X = states(A, B, low + share * (high - low))
    assert (X >= lower - 1e-9).all() and (upper + 1e-9 >= X).all()
    model = ImplicitModel.from_matrices(A, B, torch.eye(4, **CPU64), torch.zeros(4, 3, **CPU64))
    known = bounds(model, (low + high)[None] / 2, (high - low)[None] / 2, method="interval",
                   progress=False)
    assert (known.state_lower >= lower - 1e-6).all() and (known.state_upper <= upper + 1e-6).all()


def test_where_nothing_is_negative_the_corners_are_the_bounds():
    A, B, low, high = given(robustness.states_in_a_box)
    A, B = A.abs(), B.abs()
    corners = states(A, B, torch.stack([low, high]))
    torch.testing.assert_close(robustness.states_in_a_box.right(A, B, low, high), corners)


@pytest.mark.parametrize(("attack", "share"), [(fgsm, 0.5), (pgd, 1.0)])
def test_the_librarys_attacks_would_do_but_are_to_be_written(attack, share):
    def answer(model, U, labels, eps):
        return attack(model, U, labels, eps, low=0.0, high=1.0)

    assert robustness.attack(answer).share == share
    verdict = check.robustness.attack.judged(answer)
    assert verdict.share == 0 and "of the library work" in verdict.sentence


# ---- 13 ---------------------------------------------------------------------------------------


def test_far_away_is_what_a_model_says_far_away():
    *parts, u = given(right("extrapolation", "far_away"))
    A, B, C, D, b, c = parts
    model = ImplicitModel.from_matrices(A, B, C, D, state_bias=b, output_bias=c)
    with torch.no_grad():
        far = model(1e9 * u[None])[0] / 1e9
    torch.testing.assert_close(right("extrapolation", "far_away").right(*parts, u), far,
                               rtol=1e-5, atol=1e-6)


# ---- 14 ---------------------------------------------------------------------------------------


def test_one_step_is_autograd_through_one_step():
    W, u, z, g = given(right("any_layer", "one_step"))
    W.requires_grad_()
    (slope,) = torch.autograd.grad(torch.tanh(W @ z + u), W, g)
    torch.testing.assert_close(right("any_layer", "one_step").right(W.detach(), u, z, g), slope)


def layer(W, u):
    return lambda z: torch.tanh(W @ z + u)


def test_many_probes_have_the_norm_of_the_jacobian():
    W, u, z, _ = given(right("any_layer", "frobenius"))
    J = torch.autograd.functional.jacobian(layer(W, u), z)
    estimate = right("any_layer", "frobenius").right(W, u, z, draw(0, 20_000, 4))
    assert float(estimate) == pytest.approx(float(J.square().sum()), rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_the_rate_is_what_the_error_shrinks_or_grows_by(seed):
    W, u, z, beta = given(right("any_layer", "rate"), seed)
    f = layer(W, u)
    torch.testing.assert_close(f(z), z)
    rate, start = float(right("any_layer", "rate").right(W, u, z, beta)), 1e-7 * draw(1, 5)
    J, e = torch.autograd.functional.jacobian(f, z), start
    for _ in range(1000):  # of one size, if the rate is right
        e = ((1 - beta) * e + beta * J @ e) / rate
    assert float((e.norm() / start.norm()).log()) / 1000 == pytest.approx(0, abs=0.01)
    x = z + start
    for _ in range(200):
        x = (1 - beta) * x + beta * f(x)
    assert (float((x - z).norm()) < float(start.norm())) == (rate < 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_safe_step_contracts_every_error_and_a_little_longer_one_is_promised_less(seed):
    (W,) = given(right("any_layer", "safe_step"), seed)
    alpha, factor = right("any_layer", "safe_step").right(W)
    M, E = torch.eye(5, **CPU64) - W, draw(seed, 5, 500)
    assert ((E - alpha * M @ E).norm(dim=0) <= factor * E.norm(dim=0) + 1e-12).all()
    m = torch.linalg.eigvalsh((M + M.mT) / 2)[0]
    L = torch.linalg.matrix_norm(M, 2)
    for other in (0.9 * alpha, 1.1 * alpha):
        assert (1 - 2 * other * m + other ** 2 * L ** 2).sqrt() > factor


@pytest.mark.parametrize("seed", range(3))
def test_the_phantom_gradient_is_autograd_through_damped_steps(seed):
    J, g, steps, beta = given(right("any_layer", "phantom"), seed)
    u = torch.zeros(4, **CPU64, requires_grad=True)
    z = torch.ones(4, **CPU64)
    for _ in range(steps):
        z = (1 - beta) * z + beta * (J @ z + u)
    (slope,) = torch.autograd.grad(z, u, g)
    torch.testing.assert_close(right("any_layer", "phantom").right(J, g, steps, beta), slope)


# ---- 15 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_graph_is_normalised_as_the_librarys_and_as_deep_as_its_longest_way(seed):
    (A,) = given(graphs.layers_needed, seed)
    A_hat = normalised_adjacency(A.nonzero().mT, len(A), dtype=torch.float64)
    torch.testing.assert_close(graphs.normalised.right(A), A_hat.to_dense())
    assert float(graphs.layers_needed.right(A)) == shortest_path(A.numpy(), unweighted=True).max()


def test_the_linear_state_is_an_implicit_graphs():
    A_hat, W, b = given(graphs.linear_state)
    layer = ImplicitGraph(3, 3, 3, activation="identity", kappa=0.95, dtype=torch.float64)
    with torch.no_grad():
        layer.free_W.copy_(W)
        layer.B.copy_(torch.eye(3, **CPU64))
        X = layer.equilibrium(b, A_hat.to_sparse_csr()).value
    torch.testing.assert_close(graphs.linear_state.right(A_hat, W, b), X, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("answer", "solves"), [
    (graphs._ring(8), True), (graphs._ring(7), False),
    ([[0, 1, 0], [1, 0, 1], [0, 1, 0]], True),  # a path of three
    (1 - torch.eye(4, **CPU), False),
    (torch.full((3, 3), float("nan"), **CPU), False),
    (torch.zeros(3, 3, **CPU), False),
    (torch.block_diag(graphs._ring(4), torch.zeros(1, 1, **CPU)), False),
])
def test_a_graph_never_settles_where_two_colours_do(answer, solves):
    assert graphs.restless(answer).right == solves
