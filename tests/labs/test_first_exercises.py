"""What labs 00 to 04 call right, by other ways than theirs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch

from idl_lab import ImplicitModel, compose
from idl_lab.constraints import Project
from idl_lab.equilibrium import OneStep, equilibrium
from idl_lab.fixed_point import Picard
from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Guess, Outcome
from idl_lab.labs.kit.problems import generator

SEEDS = range(5)


def given(lab: str, name: str, seed: int) -> tuple:
    """An exercise's function, and inputs for it."""
    exercise = getattr(check, lab).exercises[name].exercise
    return exercise.right, exercise.inputs(generator(seed))


# ---- lab 00 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_one_state_solves_its_equation(seed):
    right, (a, b) = given("start_here", "one_state", seed)
    x = right(a, b)
    torch.testing.assert_close((a * x + b).relu(), x)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_loop_ends_at_the_first_point_that_passes(seed):
    right, (A, B, U, tol) = given("start_here", "picard_loop", seed)
    states = [torch.zeros(5, 4, dtype=torch.float64, device="cpu")]
    for _ in range(200):
        states.append((states[-1] @ A.T + U @ B.T).relu())
    moves = [float((after - before).abs().max()) for before, after in itertools.pairwise(states)]
    first = next(k for k, move in enumerate(moves) if move <= tol)
    assert torch.equal(right(A, B, U, tol), states[first]) and first > 1


# ---- lab 01 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_so_many_steps_are_left_and_no_fewer(seed):
    right, (residuals, tol) = given("fixed_points", "steps_left", seed)
    rate, k = float(residuals[-1] / residuals[-2]), right(residuals, tol)
    assert float(residuals[-1]) * rate ** k <= tol < float(residuals[-1]) * rate ** (k - 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_andersons_weights_are_the_best(seed):
    right, (X, F) = given("fixed_points", "anderson_step", seed)
    R = (F - X).numpy()
    found = scipy.optimize.minimize(lambda a: np.square(a @ R).sum(), np.full(3, 1 / 3),
                                    constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
                                    tol=1e-14)
    np.testing.assert_allclose(right(X, F), found.x @ F.numpy(), atol=1e-5)


def test_anderson_solves_a_linear_equation_from_enough_points():
    """As its praise says: n + 1 points in general position."""
    draws = generator(3)
    M = torch.randn(4, 4, generator=draws, dtype=torch.float64, device="cpu") / 4
    c, X = (torch.randn(*shape, generator=draws, dtype=torch.float64, device="cpu")
            for shape in ((4,), (5, 4)))
    x = check.fixed_points.anderson_step.exercise.right(X, X @ M.T + c)
    torch.testing.assert_close(M @ x + c, x)


@pytest.mark.parametrize(("A", "words", "share"), [
    ([[0.0, -0.95], [-0.95, 0.0]], "Right", 1),  # slopes ±0.95, but the even start meets −0.95 only
    ([[-0.3, 0.0], [0.0, -0.9]], "Right", 1),
    ([[-0.4, 0.0], [0.0, -0.4]], "that is only", 0.5),
    ([[0.9, 0.0], [0.0, 0.9]], "Which s are made smaller", 0),
    ([[0.9, 0.2], [0.0, 0.9]], "must be below 1", 0),
    ([[float("nan"), 0.0], [0.0, 0.0]], "of finite numbers", 0),
])
def test_where_damping_pays(A, words, share):
    verdict = check.fixed_points.damping_pays.judged(A)
    assert words in repr(verdict) and verdict.share == share


# ---- lab 02 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bounds_enclose_the_pf_eigenvalue(seed):
    right, (A, v) = given("well_posedness", "collatz_wielandt", seed)
    low, high = right(A, v)
    assert low < np.abs(np.linalg.eigvals(A.abs().numpy())).max() < high


@pytest.mark.parametrize("seed", SEEDS)
def test_the_projection_is_the_librarys(seed):
    right, (v, kappa) = given("well_posedness", "project_row", seed)
    torch.testing.assert_close(right(v, kappa), Project(kappa)(v[None])[0], rtol=0, atol=1e-12)


def count_solutions(A: torch.Tensor, b: tuple[float, float]) -> int:
    """Of x = max(0, Ax + b) with two states: the second put into the first's equation leaves a
    piecewise linear function of x₁, whose changes of sign are counted."""
    x = np.linspace(-1, 30, 31_013)
    (_, p), (q, _) = A.tolist()
    signs = np.sign(x - np.maximum(0, p * np.maximum(0, q * x + b[1]) + b[0]))
    return int((signs[:-1] * signs[1:] < 0).sum() + (signs == 0).sum())


@pytest.mark.parametrize(("p", "q"), [
    (3.0, -2.0), (-2.2, 1.9), (3.0, 2.0), (-3.0, -2.0), (4.0, 1.0)])
def test_one_solution_for_every_b_just_where_the_checker_says_so(p, q):
    A = torch.tensor([[0.0, p], [q, 0.0]], dtype=torch.float64, device="cpu")
    verdict = check.well_posedness.unique_without_pf.exercise(A)
    tried = itertools.product([-1.03, -0.31, 0.41, 1.07], repeat=2)
    counts = [count_solutions(A, b) for b in tried]
    assert verdict.right == all(count == 1 for count in counts)


@pytest.mark.parametrize("A", [[[0.0, 3.0], [2.0, 0.0]], [[0.0, -3.0], [-2.0, 0.0]],
                               [[0.0, 4.0], [4.0, 0.0]]])
def test_the_witness_has_not_one_solution_and_all_that_are_shown_are(A):
    A = torch.tensor(A, dtype=torch.float64, device="cpu")
    found = check.well_posedness.unique_without_pf.exercise.look(A)
    b = torch.tensor(found["b"], dtype=torch.float64, device="cpu")
    assert len(found["solutions"]) > 1
    for x in torch.tensor(found["solutions"], dtype=torch.float64, device="cpu"):
        torch.testing.assert_close((A @ x + b).relu(), x, rtol=0, atol=1e-2)  # shown rounded


# ---- lab 03 -----------------------------------------------------------------------------------


def model(A, B, C, D=None, phi="relu") -> ImplicitModel:
    return ImplicitModel.from_matrices(A, B, C, D, activation=phi, solver=Picard(1e-13))


def outputs(M: torch.Tensor, states: int, U: torch.Tensor) -> torch.Tensor:
    """Of the model [A B; C D] without feedback, by as many steps as it has states."""
    A, B, C, D = M[:states, :states], M[:states, states:], M[states:, :states], M[states:, states:]
    X = U.new_zeros(len(U), states)
    for _ in range(states + 1):
        X = (X @ A.T + U @ B.T).relu()
    return X @ C.T + U @ D.T


@pytest.mark.parametrize("seed", SEEDS)
def test_in_other_units_the_predictions_are_the_same(seed):
    right, (A, B, C, D, v) = given("networks_as_implicit_models", "model_in_units", seed)
    A, U = A.triu(1), torch.randn(6, 2, generator=generator(seed), device="cpu").double()
    M = torch.cat([torch.cat([A, B], 1), torch.cat([C, D], 1)])
    torch.testing.assert_close(outputs(right(A, B, C, D, v), 3, U), outputs(M, 3, U))
    torch.testing.assert_close(right(A, B, C, D, v)[:3, :3],
                               torch.diag(1 / v) @ A @ torch.diag(v))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_network_read_off_is_the_network(seed):
    right, weights = given("networks_as_implicit_models", "read_off", seed)
    U = torch.randn(6, 2, generator=generator(seed), device="cpu").double()
    W0, W1, W2, W3, W4 = weights
    h1 = (U @ W0.T).relu()
    h2 = h1 + (h1 @ W1.T).relu()
    wanted = (h2 @ W2.T).relu() @ W3.T + U @ W4.T
    torch.testing.assert_close(outputs(right(*weights), 10, U), wanted)


def test_the_cascades_numbers_are_composes():
    answer = ((0.5, 1e-5, -1e4), (-0.4, 0.5, 1.0))
    found = check.networks_as_implicit_models.norm_of_a_cascade.exercise.look(answer)
    one, two = (model(*(torch.tensor([[x]], dtype=torch.float64, device="cpu") for x in part))
                for part in answer)
    certificate = compose.cascade(one, two).certificate()
    assert found["norm"] == pytest.approx(certificate.inf_norm)
    assert found["pf"] == pytest.approx(certificate.perron.value) == pytest.approx(0.5)
    A = torch.tensor([[-0.4, 0.5 * -1e4], [0.0, 0.5]], device="cpu").double()
    v = torch.tensor([1.0, 1 / found["units"]], device="cpu").double()
    assert float((A.abs() @ v / v).max()) == pytest.approx(0.9)


@pytest.mark.parametrize("seed", SEEDS)
def test_feedback_is_composes(seed):
    right, (A, B, C, D, F) = given("networks_as_implicit_models", "feedback_matrix", seed)
    closed = compose.feedback(model(A, B, C, D), F)
    torch.testing.assert_close(right(A, B, C, D, F), closed.A.detach())


# ---- lab 04 -----------------------------------------------------------------------------------


def by_loop(A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    X = torch.zeros_like(b)
    for _ in range(500):
        X = (X @ A.T + b).tanh()
    return X


@pytest.mark.parametrize("seed", SEEDS)
def test_the_slope_is_autograds(seed):
    right, (a, x) = given("implicit_gradients", "slope_in_a", seed)
    x = 0.9 * x  # tanh is steep to invert near ±1
    b = x.atanh() - a * x
    leaf = torch.full((1, 1), a, dtype=torch.float64, device="cpu").requires_grad_()
    found = [torch.autograd.grad(by_loop(leaf, s.reshape(1, 1)).sum(), leaf)[0] for s in b]
    torch.testing.assert_close(right(a, x), torch.stack(found).flatten(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_adjoint_of_a_batch_is_a_linear_solve_for_each(seed):
    right, (A, S, G) = given("implicit_gradients", "adjoint_of_a_batch", seed)
    eye = torch.eye(4, dtype=torch.float64, device="cpu")
    W = torch.stack([torch.linalg.solve(eye - (torch.diag(s) @ A).T, g)
                     for s, g in zip(S, G, strict=True)])
    torch.testing.assert_close(right(A, S, G), W)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_repaired_gradient_is_autograds(seed):
    right, (A, X, G) = given("implicit_gradients", "repaired_gradient", seed)
    X = 0.9 * X
    leaf = A.clone().requires_grad_()
    found = by_loop(leaf, X.atanh() - X @ A.T)
    torch.testing.assert_close(found.detach(), X)
    (wanted,) = torch.autograd.grad((found * G).sum(), leaf)
    torch.testing.assert_close(right(A, X, G), wanted)


def test_the_example_points_uphill_in_a_model_too():
    """Of ReLU states that are all active, by the library's one-step gradient."""
    A, g = (torch.tensor(part, dtype=torch.float64, device="cpu")
            for part in check.implicit_gradients.uphill.exercise.right)
    found = []
    for how in ({"adjoint": OneStep()}, {}):
        b = torch.full((1, 2), 1.0, dtype=torch.float64, device="cpu").requires_grad_()
        X = equilibrium(A, b, "relu", solver=Picard(1e-13), **how).value
        assert (X > 0).all()
        found.append(torch.autograd.grad((X * g).sum(), b)[0])
    cosine = float(torch.cosine_similarity(*found))
    said = check.implicit_gradients.uphill.exercise.look((A, g))
    assert cosine < 0 and said["cosine"] == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize(("A", "may"), [
    ([[0.9, 0.0], [0.9, 0.0]], True), ([[0.0, 0.95], [0.0, 0.95]], True),
    ([[0.0, 0.9], [0.5, 0.0]], False),  # ‖A‖₂ is below 1
    ([[0.3, 0.6], [-0.9, 0.0]], False),  # ‖A‖₂ may be what it likes: the symmetric part counts
])
def test_no_g_does_just_where_the_checker_says_so(A, may):
    A = torch.tensor(A, dtype=torch.float64, device="cpu")
    angles = torch.linspace(0, 2 * torch.pi, 2000, dtype=torch.float64, device="cpu")
    g = torch.stack([angles.cos(), angles.sin()], 1)
    beta = torch.linalg.solve(torch.eye(2, device="cpu").double() - A.T, g.T).T
    assert bool(((g * beta).sum(1) < 0).any()) == may
    verdict = check.implicit_gradients.uphill.exercise((A, [1.0, 1.0]))
    assert verdict.right or ("With this A no g does" in verdict.sentence) != may


# ---- guesses ----------------------------------------------------------------------------------

GUESSES = {
    "start_here.prediction_settles": (4, (6, 30), "from step 6 on, the state moves until step 30"),
    "fixed_points.half_way_to_one": (3, [2.04, 1.1], "2.0 times as many steps, Anderson 1.1 times"),
    "well_posedness.tanh_past_one": ("diverges", "several equilibria", "a; you said 'diverges'"),
    "networks_as_implicit_models.halving_kappa": (2, 30.61, "grows by 30.6; you said 2"),
    "implicit_gradients.more_steps": (1.0, -0.34, "cosine is -0.34; you said 1.0")}


@pytest.mark.parametrize(("name", "case"), GUESSES.items(), ids=GUESSES)
def test_a_guess_is_put_beside_the_truth(name, case):
    lab, guess = name.split(".")
    guess, (mine, truth, words) = getattr(getattr(check, lab), guess), case
    assert isinstance(guess, Guess)
    assert guess(..., truth).outcome is Outcome.NO_GUESS and guess.what in repr(guess(..., truth))
    verdict = guess(mine, truth)
    assert verdict.outcome is Outcome.GUESSED and words in repr(verdict) and not verdict.points
