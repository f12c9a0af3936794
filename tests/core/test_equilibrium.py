"""The differentiable equilibrium: its three gradients, warm starts, warnings, refusals."""

import warnings

import numpy as np
import pytest
import torch
from helpers import PHI, central_difference, draw, mat, rejects, unrolled
from hypothesis import given
from hypothesis import strategies as st

from idl_lab.equilibrium import Implicit, Neumann, OneStep, Phantom, Unrolled, equilibrium
from idl_lab.fixed_point import Anderson, Newton, Picard
from idl_lab.fixed_point.solution import ConvergenceError, ConvergenceWarning, Status

TIGHT = Picard(rtol=1e-13)


def problem(seed=0, n=5, m=3, norm=0.8):
    """A, an injection and weights of a scalar loss."""
    A = draw(seed, n, n)
    A = A * norm / A.abs().sum(1).max()
    return A, draw(seed + 1, m, n, scale=1.5), draw(seed + 2, m, n)


def gradients(A, b, W, phi, **options):
    A, b = A.clone().requires_grad_(), b.clone().requires_grad_()
    (equilibrium(A, b, phi, **options).value * W).sum().backward()
    return A.grad, b.grad


@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize("solver", [TIGHT, Picard(1e-13, damping=0.8), Anderson(rtol=1e-13)])
def test_value_is_the_plain_loops(phi, solver):
    A, b, _ = problem()
    solution = equilibrium(A, b, phi, solver=solver)
    assert solution.value.numpy() == pytest.approx(unrolled(A.numpy(), b.numpy(), phi), abs=1e-11)
    assert not solution.value.requires_grad


@given(st.integers(0, 10**6), st.sampled_from(["tanh", "sigmoid", "softplus", "identity"]))
def test_implicit_gradient_is_the_implicit_function_theorem(seed, phi):
    """v = (I − (DA)ᵀ)⁻¹ g by a direct solve, dA = Σ (D v) xᵀ, db = D v."""
    A, b, W = problem(seed)
    X = unrolled(A.numpy(), b.numpy(), phi, 2000)
    S = X @ A.numpy().T + b.numpy()
    slope = (PHI[phi](S + 1e-6) - PHI[phi](S - 1e-6)) / 2e-6
    dA, db = np.zeros(A.shape), np.zeros(b.shape)
    for k in range(len(S)):
        DA = slope[k][:, None] * A.numpy()
        db[k] = slope[k] * np.linalg.solve(np.eye(len(DA)) - DA.T, W[k].numpy())
        dA += np.outer(db[k], X[k])
    gA, gb = gradients(A, b, W, phi, solver=TIGHT)
    assert gA.numpy() == pytest.approx(dA, rel=1e-6, abs=1e-7)
    assert gb.numpy() == pytest.approx(db, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize("solver", [TIGHT, Picard(1e-13, damping=0.7), Anderson(rtol=1e-13)],
                         ids=["picard", "damped", "anderson"])
def test_unrolled_equals_implicit_at_tight_tolerance(phi, solver):
    A, b, W = problem(4)
    implicit = gradients(A, b, W, phi, solver=solver)
    through = gradients(A, b, W, phi, solver=solver, adjoint=Unrolled())
    for one, other in zip(implicit, through, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9) and one.abs().max() > 1e-3


@pytest.mark.parametrize("early", [(1.0, -20.0), (30.0, 30.0), (1e-120, 0.0)])
def test_a_sample_that_is_done_early_does_not_spoil_andersons_unrolled_gradient(early):
    """Its residuals are 0, or so small that their squares' inverse roots overflow when cubed."""
    A, b, W = mat([[0, 0], [0, 0.9]]), mat([[1, 1], early]), mat([[1, 1], [1, 0]])
    solver = Anderson(rtol=1e-12)
    through = gradients(A, b, W, "tanh", solver=solver, adjoint=Unrolled())
    for one, other in zip(gradients(A, b, W, "tanh", solver=TIGHT), through, strict=True):
        assert torch.allclose(one, other, atol=1e-6) and one.abs().max() > 0.1


def test_a_singular_newton_system_does_not_spoil_the_unrolled_gradient():
    """At slope 1, I − A is singular in the first sample: a Picard step takes its place."""
    A, b = mat([[1, 0], [0, 0.5]]).requires_grad_(), mat([[1, 1], [-1, 1]])
    with pytest.warns(ConvergenceWarning):
        s = equilibrium(A, b, X0=torch.ones_like(b), solver=Newton(max_steps=9),
                        adjoint=Unrolled())
    s.value[1].sum().backward()
    assert A.grad.numpy() == pytest.approx(np.array([[0, 0], [0, 4]]))  # of 1/(1 − a) at a = 1/2


def test_unrolled_is_the_gradient_of_the_truncated_loop():
    A, b, W = problem(2)

    def loss(A):
        X = np.zeros(b.shape)
        for _ in range(2):  # the point that the third evaluation measures
            X = np.tanh(X @ A.T + b.numpy())
        return float((X * W.numpy()).sum())

    with pytest.warns(ConvergenceWarning, match="max_steps"):
        gA, _ = gradients(A, b, W, "tanh", solver=Picard(1e-12, max_steps=3), adjoint=Unrolled())
    wanted = central_difference(loss, A.numpy(), h=1e-3)
    assert gA.numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-8)
    exact, _ = gradients(A, b, W, "tanh", solver=TIGHT)
    assert not torch.allclose(gA, exact, rtol=1e-2)


@pytest.mark.parametrize("adjoint", [OneStep(), Neumann(3), Phantom()], ids=repr)
def test_a_biased_gradient_says_that_it_has_no_derivative(adjoint):
    A, b, W = problem(3, n=2, m=1)
    A.requires_grad_()
    value = (equilibrium(A, b, "tanh", solver=TIGHT, adjoint=adjoint).value * W).sum()
    (gradient,) = torch.autograd.grad(value, A, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivatives.*Implicit\(\)"):
        gradient.sum().backward()


def test_unrolled_keeps_its_gradient_where_the_solve_fails():
    A = mat([[3.0, 0.0], [0.0, 0.5]]).requires_grad_()
    with pytest.warns(ConvergenceWarning):
        s = equilibrium(A, mat([[1.0, 1.0], [-1.0, 1.0]]), solver=Picard(max_steps=5),
                        adjoint=Unrolled())
    s.value.sum().backward()
    assert s.value.isfinite().all() and A.grad.isfinite().all() and A.grad.abs().max() > 0


@pytest.mark.parametrize("phi", PHI)
@pytest.mark.parametrize("warm", [False, True])
def test_one_step_is_the_gradient_of_one_application(phi, warm):
    A, b, W = problem(6)
    X = mat(unrolled(A.numpy(), b.numpy(), phi))
    start = X + 0.1 * draw(7, *X.shape) if warm else None
    gA, gb = gradients(A, b, W, phi, solver=TIGHT, adjoint=OneStep(), X0=start)
    S = X @ A.mT + b
    slope = mat((PHI[phi]((S + 1e-6).numpy()) - PHI[phi]((S - 1e-6).numpy())) / 2e-6)
    assert torch.allclose(gb, W * slope, atol=1e-8)
    assert torch.allclose(gA, (W * slope).mT @ X, atol=1e-7)
    assert (gA - gradients(A, b, W, phi, solver=TIGHT)[0]).abs().max() > 1e-3


# ---- warm starts ----------------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", [Implicit(), OneStep(), Unrolled()])
def test_a_warm_start_saves_steps_and_changes_neither_value_nor_gradient(adjoint):
    A, b, W = problem(8)
    cold = equilibrium(A, b, "tanh", solver=TIGHT)
    start = (cold.value + 1e-6).requires_grad_()
    warm = equilibrium(A, b, "tanh", X0=start, solver=TIGHT)
    assert warm.stats.steps < 0.7 * cold.stats.steps
    assert torch.allclose(warm.value, cold.value, atol=1e-12)
    for one, other in zip(gradients(A, b, W, "tanh", solver=TIGHT, adjoint=adjoint),
                          gradients(A, b, W, "tanh", solver=TIGHT, adjoint=adjoint, X0=W),
                          strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)
    A.requires_grad_()
    loose = equilibrium(A, b, "tanh", X0=start, solver=Picard(0.1), adjoint=adjoint)
    loose.value.sum().backward()
    assert start.grad is None and A.grad.abs().max() > 0  # the start is no parameter


@pytest.mark.parametrize("adjoint", [Implicit(), Unrolled()], ids=repr)
def test_starting_at_the_solution_keeps_the_gradient(adjoint):
    """An unrolled solve from there would be one step long and see almost nothing."""
    A, b, W = problem(9)
    X = equilibrium(A, b, "tanh", solver=TIGHT).value
    exact = gradients(A, b, W, "tanh", solver=TIGHT)[0]
    found = gradients(A, b, W, "tanh", solver=TIGHT, X0=X, adjoint=adjoint)[0]
    assert torch.allclose(found, exact, rtol=1e-9)


# ---- when solves stop early -----------------------------------------------------------------


def test_an_adjoint_solve_that_stops_early_warns_with_its_residual():
    A, b, W = problem(10, norm=0.99)
    A = A.abs().requires_grad_()
    few = Implicit(Picard(1e-10, max_steps=4))
    value = equilibrium(A, b.abs(), solver=TIGHT, adjoint=few).value
    with pytest.warns(ConvergenceWarning, match="adjoint solve stopped early") as caught:
        (value * W).sum().backward()
    message = str(caught[0].message)
    v = torch.zeros_like(W)
    for _ in range(4):  # four steps by hand: relu is all on
        v, before = W + v @ A.detach(), v
    residual = float(((v - before).abs().amax(1) / before.abs().amax(1)).max())
    assert f"{residual:.2e}" in message and "3 of 3 samples" in message
    assert "after 4 steps" in message and "Implicit(solver)" in message


def test_the_adjoint_has_its_own_solver():
    A, b, W = problem(11)
    exact = gradients(A, b, W, "tanh", solver=TIGHT)
    mixed = gradients(A, b, W, "tanh", solver=TIGHT, adjoint=Implicit(Anderson(1e-13)))
    loose = gradients(A, b, W, "tanh", solver=TIGHT, adjoint=Implicit(Picard(1e-2)))
    assert torch.allclose(mixed[0], exact[0], rtol=1e-10)
    assert 1e-8 < float((loose[0] - exact[0]).abs().max()) < 0.1


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_adjoint_tolerance_is_relative_to_the_gradient(size):
    A, b, W = problem(12)
    exact = gradients(A, b, W, "tanh", solver=TIGHT)[0]
    scaled = gradients(A, b, W * size, "tanh", solver=Picard(1e-12))[0]
    assert torch.allclose(scaled / size, exact, rtol=1e-8, atol=1e-10)


def test_a_zero_gradient_is_zero():
    A, b, W = problem(13)
    assert all((g == 0).all() for g in gradients(A, b, 0 * W, "tanh"))


def test_a_forward_solve_that_stops_early_warns_or_throws():
    A, b, _ = problem(14, norm=0.99)
    with pytest.warns(ConvergenceWarning, match="max_steps was reached"):
        s = equilibrium(A, b, solver=Picard(max_steps=2))
    assert s.status is Status.MAX_STEPS
    rejects(lambda: equilibrium(A, b, solver=Picard(max_steps=2), throw=True), ConvergenceError,
            "in 2 steps")


def test_an_ill_posed_matrix_reports_and_does_not_die():
    A = mat([[1.0]]).requires_grad_()
    with pytest.warns(ConvergenceWarning):
        s = equilibrium(A, mat([[1.0]]), solver=Picard(max_steps=50))
    assert not s.status.ok and s.value.isfinite().all()
    with pytest.warns(ConvergenceWarning, match="adjoint"):
        s.value.sum().backward()
    assert A.grad.isfinite().all()


# ---- gradients where they are wanted --------------------------------------------------------


def test_no_graph_without_grad():
    A, b, _ = problem()
    with torch.no_grad():
        for adjoint in (Implicit(), Unrolled(), OneStep()):
            assert not equilibrium(A.requires_grad_(), b, adjoint=adjoint).value.requires_grad


@pytest.mark.parametrize("adjoint", [Implicit(), Unrolled(), OneStep()])
def test_only_what_asks_gets_a_gradient(adjoint):
    A, b, W = problem()
    both = gradients(A, b, W, "tanh", solver=TIGHT, adjoint=adjoint)
    for k in range(2):
        inputs = [A.clone(), b.clone()]
        inputs[k].requires_grad_()
        (equilibrium(*inputs, "tanh", solver=TIGHT, adjoint=adjoint).value * W).sum().backward()
        assert torch.allclose(inputs[k].grad, both[k]) and inputs[1 - k].grad is None


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (0,)])
def test_leading_dimensions_have_gradients(lead):
    A, b, W = problem(0, m=6)
    count = int(np.prod(lead))
    b, W = b[:count].reshape(*lead, 5), W[:count].reshape(*lead, 5)
    gA, gb = gradients(A, b, W, "tanh", solver=TIGHT)
    flat = gradients(A, b.reshape(-1, 5), W.reshape(-1, 5), "tanh", solver=TIGHT)
    assert gb.shape == b.shape
    assert torch.allclose(gA, flat[0]) and torch.allclose(gb.reshape(-1, 5), flat[1])


def test_memory_of_implicit_does_not_grow_with_the_steps():
    A, b, _ = problem(norm=0.99)
    sizes = {}
    for adjoint in (Implicit(), Unrolled()):
        for tol in (1e-1, 1e-9):
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(
                    lambda t, s=saved: (s.append(t.numel()), t)[1], lambda t: t):
                equilibrium(A.clone().requires_grad_(), b, "tanh", solver=Picard(tol),
                            adjoint=adjoint)
            sizes[type(adjoint), tol] = sum(saved)
    assert sizes[Implicit, 1e-1] == sizes[Implicit, 1e-9]
    assert sizes[Unrolled, 1e-9] > 3 * sizes[Unrolled, 1e-1]


def test_inputs_are_left_alone():
    A, b, _ = problem()
    X0 = torch.ones_like(b)
    copies = [T.clone() for T in (A, b, X0)]
    for phi in PHI:
        equilibrium(A, b, phi, X0=X0)
    assert all(torch.equal(T, c) for T, c in zip((A, b, X0), copies, strict=True))


def test_float32_and_a_users_own_activation():
    A, b, W = (T.float() for T in problem())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        s = equilibrium(0.5 * A, b, torch.nn.functional.silu)
    assert s.value.dtype == torch.float32 and s.status.ok
    grads = {phi: gradients(A, b, W, phi)[0]
             for phi in ("elu", torch.nn.ELU(), torch.nn.ELU(inplace=True))}
    first, *others = grads.values()
    assert all(torch.allclose(first, other) for other in others)


# ---- bad input ------------------------------------------------------------------------------

A, B, _ = problem()


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: equilibrium(A[:2], B), ValueError, ["A", "(n, n)", "(2, 5)"]),
    (lambda: equilibrium(A / 0, B), ValueError, ["A must be finite", "25"]),
    (lambda: equilibrium(A.long(), B), TypeError, ["A", "int64"]),
    (lambda: equilibrium(A, B[:, :4]), ValueError, ["injection", "(..., n=5)", "(3, 4)"]),
    (lambda: equilibrium(A, B.float()), TypeError, ["injection", "float32", "float64"]),
    (lambda: equilibrium(A, B * float("nan")), ValueError, ["injection", "15 NaN"]),
    (lambda: equilibrium(A, B.to("meta")), ValueError, ["injection is on meta", "wanted on cpu"]),
    (lambda: equilibrium(A, B, X0=B[:2]), ValueError, ["X0", "(3, 5)", "(2, 5)"]),
    (lambda: equilibrium(A, B, X0=B.float()), TypeError, ["X0", "float32"]),
    (lambda: equilibrium(A, B, X0=B / 0), ValueError, ["X0 must be finite"]),
    (lambda: equilibrium(A, B, "rlu"), ValueError, ["'rlu'", "'relu'"]),
    (lambda: equilibrium(A, B, solver="picard"), TypeError, ["Picard()", "'picard'"]),
    (lambda: equilibrium(A, B, adjoint="implicit"), TypeError, ["Implicit()", "'implicit'"]),
    (lambda: equilibrium(A, B, adjoint=Implicit), TypeError, ["Implicit()", "class"]),
    (lambda: Implicit(Picard), TypeError, ["Picard()", "class"]),
    (lambda: Implicit(1e-6), TypeError, ["Picard()", "1e-06"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
