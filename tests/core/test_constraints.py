"""Each constraint against numpy, its guarantee, and its gradient with the constraint active."""

import copy

import numpy as np
import pytest
import torch
from helpers import CONSTRAIN, PHI, central_difference, draw, mat, rejects, unrolled
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.func import functional_call

from idl_lab import ImplicitModel, constraints
from idl_lab.constraints import CONSTRAINTS
from idl_lab.equilibrium import Unrolled
from idl_lab.fixed_point import Anderson, PeacemanRachford, Picard
from idl_lab.well_posedness import inf_norm, perron_frobenius

KAPPA = 0.5
NORM_BOUND = ["scale", "row", "project"]


def model_with(constraint, phi="tanh", n=4, p=2, kappa=KAPPA, solver=Picard(rtol=1e-13), **options):
    return ImplicitModel(p, 3, n, activation=phi, kappa=kappa, constraint=constraint, solver=solver,
                         device="cpu", dtype=torch.float64, **options)


# ---- values ---------------------------------------------------------------------------------


@given(hnp.arrays(float, st.integers(1, 5).map(lambda n: (n, n)), elements=st.one_of(
    st.just(0.0), st.floats(-5, 5))), st.sampled_from(list(CONSTRAIN)),
    st.sampled_from([0.0, 0.3, 0.99]))
def test_values_are_numpys_and_the_guarantee_holds(M, constraint, kappa):
    A = constraints.constraint(constraint, kappa)(mat(M)).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.nan_to_num(CONSTRAIN[constraint](M, kappa))
    if constraint != "perron":  # numpy's eigenvalue of a nearly defective matrix is not exact
        assert A == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    if constraint in NORM_BOUND:
        assert np.abs(A).sum(1).max() <= kappa * (1 + 1e-14)
    if constraint == "perron":
        assert perron_frobenius(mat(A)).lower <= kappa * (1 + 1e-12)
    if constraint == "triangular":
        assert perron_frobenius(mat(A)).upper == 0


@pytest.mark.parametrize("constraint", [c for c in CONSTRAIN if c])
def test_what_is_inside_stays(constraint):
    A = np.triu(draw(0, 4, 4, scale=0.05).numpy(), 1)
    model = model_with(constraint)
    model.A = mat(A)
    assert np.array_equal(model.A.detach().numpy(), A)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e20])
@pytest.mark.parametrize("constraint", NORM_BOUND)
def test_assignment_cannot_leave_the_ball(constraint, scale, dtype):
    model = ImplicitModel(2, 2, 30, constraint=constraint, kappa=0.9, device="cpu", dtype=dtype)
    model.A = draw(1, 30, 30, scale=scale).to(dtype)
    bound = 0.9 * (1 + 40 * torch.finfo(dtype).eps)
    assert float(model.A.detach().double().abs().sum(1).max()) <= bound < 1


def test_perron_keeps_the_eigenvalue_not_the_norm():
    model = model_with("perron", n=2)
    model.A = mat([[0.0, 100.0], [1.0, 0.5]])
    A = model.A.detach()
    assert perron_frobenius(A).value == pytest.approx(KAPPA) and float(A.abs().sum(1).max()) > 1
    model.A = mat([[0.0, 100.0], [0.0, 0.5]])  # inside already
    assert float(model.A[0, 1].detach()) == pytest.approx(100.0, rel=1e-13)


def test_project_makes_zeros_where_scale_does_not():
    zeros = {}
    for name in ("project", "scale"):
        model = model_with(name, n=20)
        model.A = draw(0, 20, 20)
        zeros[name] = int((model.A == 0).sum())
    assert zeros["scale"] == 0 and zeros["project"] > 200


# ---- gradients ------------------------------------------------------------------------------


def problem(constraint, phi):
    """Raw A, B and U with the constraint active and no kink within 1e-3 of the solution."""
    for seed in range(200):
        raw = draw(seed, 4, 4).numpy()
        if constraint is None:
            raw = CONSTRAIN["row"](raw, KAPPA)
        B, U = draw(seed + 1000, 4, 2).numpy(), draw(seed + 2000, 2, 2, scale=1.5).numpy()
        A = CONSTRAIN[constraint](raw, KAPPA)
        b = U @ B.T
        S = unrolled(A, b, phi) @ A.T + b
        kink = {"relu": [0.0], "leaky_relu": [0.0], "elu": [0.0], "hardtanh": [-1.0, 1.0]}
        distances = [np.abs(S - k).min() for k in kink.get(phi, [])]
        sums = np.sort(np.abs(raw).sum(1))
        active = constraint in ("triangular", None) or sums[0] > 1.5 * KAPPA
        if constraint == "perron":
            active = sums[0] > 2 * KAPPA  # the eigenvalue is at least the smallest row sum
        if constraint == "scale":
            distances.append(sums[-1] - sums[-2])
        if constraint == "project":
            theta = (np.abs(raw) - np.abs(A)).max(1, keepdims=True)
            distances.append(np.abs(np.abs(raw) - theta).min())
        both = phi not in kink or phi == "elu" or 0.2 < (S > kink[phi][-1]).mean() < 0.8
        if active and both and min([*distances, 1.0]) > 1e-2 and np.abs(raw).min() > 1e-2 * (
                constraint is not None):
            return raw, B, U
    raise AssertionError("no seed without a kink nearby")


GRID = [(c, phi) for c in CONSTRAIN for phi in PHI]


@pytest.mark.parametrize(("constraint", "phi"), GRID)
def test_gradcheck(constraint, phi):
    raw, B, U = (mat(T).requires_grad_() for T in problem(constraint, phi))
    model = model_with(constraint, phi)

    def predictions(raw, B, U):
        return functional_call(model, {"free_A": raw, "B": B}, (U,))

    assert torch.autograd.gradcheck(predictions, (raw, B, U), atol=1e-7, rtol=1e-5,
                                    check_undefined_grad=False)


@pytest.mark.parametrize(("constraint", "phi"), GRID)
def test_gradient_of_a_to_one_in_a_million(constraint, phi):
    """Against differences of a plain loop through numpy's own constraint."""
    raw, B, U = problem(constraint, phi)
    W = draw(9, 2, 4).numpy()
    model = model_with(constraint, phi)
    with torch.no_grad():
        model.free_A.copy_(mat(raw))
        model.B.copy_(mat(B))
    (model.equilibrium(mat(U)).value * mat(W)).sum().backward()
    grad = model.free_A.grad.numpy()

    def loss(raw):
        return float((unrolled(CONSTRAIN[constraint](raw, KAPPA), U @ B.T, phi) * W).sum())

    wanted = central_difference(loss, raw, h=1e-4)
    assert np.abs(wanted).max() > 1e-3
    assert np.abs(grad - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("constraint", ["scale", "row", "project", "perron"])
def test_ignoring_the_constraint_would_be_noticed(constraint):
    """The gradient with respect to the matrix in use is another one, by far."""
    raw, B, U = problem(constraint, "tanh")
    W = draw(9, 2, 4)
    model = model_with(constraint)
    with torch.no_grad():
        model.free_A.copy_(mat(raw))
        model.B.copy_(mat(B))
    free = ImplicitModel.from_matrices(model.A.detach(), model.B.detach(), model.C.detach(),
                                       activation="tanh", solver=Picard(rtol=1e-13))
    for m in (model, free):
        (m.equilibrium(mat(U)).value * W).sum().backward()
    right, wrong = model.free_A.grad, free.A.grad
    assert float((right - wrong).norm() / right.norm()) > 0.3


@pytest.mark.parametrize("solver", [Anderson(rtol=1e-13), Picard(1e-13, damping=0.7)])
def test_the_solver_does_not_change_the_gradient(solver):
    raw, B, U = problem("project", "tanh")
    grads = []
    for s in (Picard(rtol=1e-13), solver):
        model = model_with("project", solver=s)
        with torch.no_grad():
            model.free_A.copy_(mat(raw))
            model.B.copy_(mat(B))
            model.C.fill_(1.0)
            model.D.fill_(0.0)
        model(mat(U)).sum().backward()
        grads.append(model.free_A.grad)
    assert torch.allclose(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [
    *({"constraint": c} for c in CONSTRAIN), {"constraint": "monotone"},
    *({"constraint": c, "rank": 2} for c in ("scale", "row", None))], ids=str)
def test_second_derivatives_are_right(options):
    """A product with the Hessian against central differences of the gradient."""
    solver = PeacemanRachford(1e-14) if options["constraint"] == "monotone" else Picard(1e-14)
    model = model_with(**options, n=5, solver=solver, adjoint=Unrolled(),
                       generator=torch.Generator("cpu").manual_seed(0))
    free = [p for name, p in model.named_parameters() if name.startswith("free")]
    scale = 0.4 if options["constraint"] is None else 3.0  # outside, where there is a set
    direction = [draw(k, *p.shape) for k, p in enumerate(free)]

    def gradient(t, **create):
        with torch.no_grad():
            for p, at, v in zip(free, start, direction, strict=True):
                p.copy_(at + t * v)
        return torch.autograd.grad(model(draw(7, 6, 2)).square().sum(), free, **create)

    start = [scale * p.detach() for p in free]
    along = sum((g * v).sum() for g, v in zip(gradient(0.0, create_graph=True), direction,
                                              strict=True))
    found = torch.autograd.grad(along, free)
    high, low = gradient(1e-5), gradient(-1e-5)
    for one, up, down in zip(found, high, low, strict=True):
        wanted = (up - down) / 2e-5
        assert float((one - wanted).norm()) <= 1e-6 * float(wanted.norm()) and wanted.any()


# ---- the object -----------------------------------------------------------------------------


def test_each_instance_has_its_own_radius():
    one, two = constraints.Scale(0.5), constraints.Scale(0.95)
    assert (one.kappa, two.kappa) == (0.5, 0.95) and "kappa=0.5" in repr(one)
    assert copy.deepcopy(one).kappa == 0.5


@pytest.mark.parametrize("kind", [constraints.Scale, constraints.Row, constraints.Project,
                                  constraints.Perron])
@pytest.mark.parametrize(("kappa", "error", "fragments"), [
    (1.0, ValueError, ["kappa", "< 1", "1.0"]),
    (-0.1, ValueError, [">= 0", "-0.1"]),
    (float("nan"), ValueError, ["nan"]),
    ("0.5", TypeError, ["'0.5'"]),
])
def test_a_radius_outside_is_refused(kind, kappa, error, fragments):
    rejects(lambda: kind(kappa), error, *fragments)


@pytest.mark.parametrize(("constraint", "kappa", "error", "fragments"), [
    ("projekt", 0.5, ValueError, ["'projekt'", "scale, row, project", "'project'"]),
    ("rows", 0.5, ValueError, ["Did you mean 'row'?"]),
    (0.5, 0.5, ValueError, ["constraint=0.5"]),
    ("triangular", 2.0, ValueError, ["kappa", "2.0"]),
    (None, 2.0, ValueError, ["kappa", "2.0"]),
])
def test_an_unknown_constraint_is_refused(constraint, kappa, error, fragments):
    rejects(lambda: constraints.constraint(constraint, kappa), error, *fragments)


@pytest.mark.parametrize("name", ["scale", "row", "project"])
@pytest.mark.parametrize("kappa", [0.5, 0.99, 1 - 1e-7])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_the_bound_holds_to_the_last_digit_in_float32(name, kappa, size):
    for seed in range(20):
        raw = size * draw(seed, 64, 64).float()
        A = CONSTRAINTS[name](kappa)(raw)
        assert float(A.double().abs().sum(dim=1).max()) <= kappa
        assert float(A.abs().sum(dim=1).max()) <= kappa


def test_moving_kappa_moves_the_constraint_and_a_checkpoint_brings_it_along():
    model = ImplicitModel(3, 2, 6, kappa=0.9, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        model.A = draw(0, 6, 6)
    model.kappa = 0.1
    assert model.kappa == 0.1 and float(inf_norm(model.A.detach())) == pytest.approx(0.1)
    other = ImplicitModel(3, 2, 6, kappa=0.7, device="cpu", dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    assert other.kappa == 0.1 and torch.equal(other.A, model.A)
    with pytest.raises(ValueError, match="kappa must be >= 0 and < 1, got 1"):
        model.kappa = 1
