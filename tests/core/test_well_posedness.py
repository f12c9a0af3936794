"""Norms, the Perron–Frobenius eigenvalue, certificates, rescaling and projection."""

from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import PHI, draw, mat, perron_is_below, rejects, spectral_radius, unrolled
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idl_lab.activations import Activation, activation
from idl_lab.constraints import project_rows
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Anderson, PeacemanRachford, Picard
from idl_lab.perron import perron_frobenius, perron_root
from idl_lab.well_posedness import (
    Condition,
    certificate,
    inf_norm,
    rescale,
)

entries = st.one_of(st.just(0.0), st.floats(0.01, 5), st.floats(1e-12, 1e-6), st.floats(1e3, 1e6))
signs = st.sampled_from([-1.0, 1.0])


@st.composite
def square_matrices(draw_, largest=5, values=entries):
    n = draw_(st.integers(1, largest))
    return draw_(hnp.arrays(float, (n, n), elements=values)) * draw_(
        hnp.arrays(float, (n, n), elements=signs))


NAMED = {
    "zero": np.zeros((3, 3)),
    "scalar": np.array([[-0.3]]),
    "nilpotent": np.triu(np.full((5, 5), 100.0), 1),
    "hidden nilpotent": np.triu(np.ones((5, 5)), 1)[[3, 0, 4, 1, 2]][:, [3, 0, 4, 1, 2]],
    "identity": np.eye(4),
    "permutation": np.roll(np.eye(5), 1, axis=1),
    "two cycles": np.kron(np.eye(2), [[0.0, 1.0], [1.0, 0.0]]),
    "periodic": np.array([[0.0, 4.0], [1.0, 0.0]]),
    "reducible": np.array([[0.5, 9.0, 1.0], [0.0, 0.2, 7.0], [0.0, 0.3, 0.9]]),
    "defective": np.array([[0.5, 1.0], [0.0, 0.5]]),
    "weakly coupled": np.array([[1.0, 1e-13], [1e-13, 1.0]]),
    "weakly coupled, uneven": np.array([[1.0, 1e-9, 0], [1e-9, 1 - 1e-9, 1e-12], [1e-12, 0, 1.0]]),
    "badly scaled": np.array([[0.1, 1e8], [1e-9, 0.2]]),
    "tiny": np.full((3, 3), 1e-305),
    "huge": np.full((3, 3), 1e300),
}


def encloses(M, low, high):
    """Whether low ≤ λ_PF(M) ≤ high, in exact arithmetic."""
    above = Fraction(high) * (1 + Fraction(1, 10**30)) + Fraction(1, 10**400)
    return not perron_is_below(M, Fraction(low)) and perron_is_below(M, above)


# ---- norm -----------------------------------------------------------------------------------


@given(hnp.arrays(float, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
                  elements=st.floats(-1e6, 1e6)))
def test_inf_norm_is_numpys(M):
    assert float(inf_norm(mat(M))) == pytest.approx(np.linalg.norm(M, np.inf), rel=1e-14)


def test_inf_norm_keeps_dtype_and_has_a_gradient():
    A = mat([[1, -2], [3, 4]]).float().requires_grad_()
    norm = inf_norm(A)
    norm.backward()
    assert norm.dtype == torch.float32 and A.grad.tolist() == [[0, 0], [1, 1]]
    assert float(inf_norm(mat(np.zeros((3, 0))))) == 0


# ---- Perron–Frobenius -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_bounds_enclose_the_eigenvalue_of_named_matrices(name):
    M = NAMED[name]
    pf = perron_frobenius(mat(M))
    assert encloses(np.abs(M), pf.lower, pf.upper)
    assert pf.upper - pf.lower <= 1e-11 * pf.upper
    numpys = spectral_radius(np.abs(M))
    assert pf.value == pytest.approx(numpys, rel=1e-8, abs=1e-2 if "nilpotent" in name else 1e-14)


@given(square_matrices())
@example(np.array([[0.0, 1e6, 0.0], [0.0, 0.0, 1e-12], [1e-12, 0.0, 0.0]]))
def test_bounds_enclose_the_eigenvalue(M):
    pf = perron_frobenius(mat(M))
    assert encloses(np.abs(M), pf.lower, pf.upper)
    assert pf.upper - pf.lower <= 1e-9 * pf.upper


@given(square_matrices(), st.integers(1, 30))
def test_bounds_hold_wherever_the_iteration_stops(M, max_steps):
    pf = perron_frobenius(mat(M), tol=0.5, max_steps=max_steps)
    assert encloses(np.abs(M), pf.lower, pf.upper)


@pytest.mark.parametrize("density", [1.0, 0.1, 0.02])
def test_large_random_matrices_agree_with_numpy(density):
    rng = np.random.default_rng(1)
    M = rng.standard_normal((80, 80)) * (rng.random((80, 80)) < density)
    assert perron_frobenius(mat(M)).value == pytest.approx(spectral_radius(np.abs(M)), rel=1e-9)


@pytest.mark.parametrize("M", [*NAMED.values(), draw(3, 6, 6).numpy()], ids=[*NAMED, "random"])
def test_right_and_left_are_eigenvectors(M):
    pf = perron_frobenius(mat(M))
    for vector, matrix in ((pf.right, M), (pf.left, M.T)):
        x = vector.numpy()
        on = x > 0
        assert x.min() >= 0 and x.max() == 1 and x.dtype == np.float64
        image = np.abs(matrix)[np.ix_(on, on)] @ x[on]
        assert image == pytest.approx(pf.value * x[on], rel=1e-8, abs=1e-300)
    assert torch.equal(pf.right > 0, pf.left > 0)


@given(square_matrices(values=st.floats(0.05, 5)))
def test_eigenvectors_of_positive_matrices_are_numpys(M):
    M = np.abs(M)
    pf = perron_frobenius(mat(M))
    values, vectors = np.linalg.eig(M)
    x = np.abs(vectors[:, np.argmax(np.abs(values))].real)
    assert pf.right.numpy() == pytest.approx(x / x.max(), abs=1e-7)


@pytest.mark.parametrize("name", ["periodic", "reducible", "badly scaled"])
def test_perron_root_has_the_eigenvalues_gradient(name):
    A = mat(NAMED[name] * [[-1.0] + [1.0] * (len(NAMED[name]) - 1)]).requires_grad_()
    root = perron_root(A)
    root.backward()
    base = A.detach().numpy()
    for i, j in np.argwhere(base != 0):  # at a zero entry |·| has a kink
        E = np.zeros_like(base)
        E[i, j] = 1e-6 * base[i, j]
        above, below = (spectral_radius(np.abs(base + sign * E)) for sign in (1, -1))
        assert float(A.grad[i, j]) * base[i, j] == pytest.approx((above - below) / 2e-6, rel=1e-5,
                                                                 abs=1e-7)
    assert float(root.detach()) == pytest.approx(perron_frobenius(A).upper, rel=1e-13)


# ---- certificates ---------------------------------------------------------------------------


def test_norm_certificate():
    c = certificate(mat([[0.2, -0.3], [0.0, 0.4]]))
    assert c.condition is Condition.NORM and c.well_posed
    assert c.margin == pytest.approx(0.5) and c.inf_norm == pytest.approx(0.5)
    assert "‖A‖∞ = 0.5 < 1" in c.sentence and "exactly one equilibrium" in c.sentence


def test_perron_certificate_where_the_norm_says_nothing():
    c = certificate(mat([[0.0, 10.0], [0.0, 0.4]]))
    assert c.condition is Condition.PERRON and c.well_posed
    assert c.margin == pytest.approx(0.6) and c.inf_norm == 10
    assert "λ_PF(|A|) = 0.4 < 1" in c.sentence and "‖A‖∞ = 10" in c.sentence


def test_no_certificate():
    c = certificate(mat([[1.5]]))
    assert c.condition is Condition.NONE and not c.well_posed
    assert c.margin == pytest.approx(-0.5) and "may be no equilibrium" in c.sentence


@pytest.mark.parametrize("value", [1.0, 1 + 1e-15, -1.0])
def test_the_border_is_not_certified(value):
    by_size = (Condition.NORM, Condition.PERRON)
    assert certificate(mat([[value]])).condition not in by_size
    assert certificate(mat(value * np.roll(np.eye(3), 1, 0))).condition not in by_size
    assert certificate(mat([[value]])).well_posed == (value < 0)  # I − A is monotone there


def test_the_slope_counts():
    A = mat([[3.0]])
    c = certificate(A, "sigmoid")
    assert c.condition is Condition.NORM and c.margin == pytest.approx(0.25)
    assert "0.25·‖A‖∞ = 0.75" in c.sentence
    steep = Activation("steep", lambda s: 2 * s, slope=2.0)
    assert not certificate(mat([[0.6]]), steep).well_posed


@given(square_matrices(values=st.one_of(st.just(0.0), st.floats(0, 2))),
       st.sampled_from(sorted(PHI)))
def test_certificate_says_what_numpy_says(M, name):
    L = activation(name).slope
    norm, root = L * np.abs(M).sum(1).max(), None
    c = certificate(mat(M), name)
    assume(abs(norm - 1) > 1e-9)
    assert (c.condition is Condition.NORM) == (norm < 1)
    if norm >= 1:
        root = perron_is_below(L * np.abs(M), Fraction(1) - Fraction(1, 10**9))
        if root or not perron_is_below(L * np.abs(M), Fraction(1) + Fraction(1, 10**9)):
            assert (c.condition is Condition.PERRON) == root
            top = L * np.linalg.eigvalsh((M + M.T) / 2)[-1]
            if not root and abs(top - 1) > 1e-9:
                assert (c.condition is Condition.MONOTONE) == (top < 1)


def relu_equilibria(A, b):
    """Every solution of x = max(Ax + b, 0), by trying each set of active states."""
    n, found = len(b), []
    for active in np.ndindex(*(2,) * n):
        D = np.diag(active).astype(float)
        if abs(np.linalg.det(np.eye(n) - D @ A)) > 1e-12:
            x = np.linalg.solve(np.eye(n) - D @ A, D @ b)
            new = not any(np.allclose(x, y) for y in found)
            if new and np.allclose(np.maximum(A @ x + b, 0), x):
                found.append(x)
    return found


@pytest.mark.parametrize(("A", "b", "count"), [
    ([[0.0, 10.0], [0.0, 0.4]], [1.0, 1.0], 1),  # ‖A‖∞ = 10, λ_PF = 0.4: one, as certified
    ([[1.0]], [1.0], 0),                         # λ_PF = 1: x = max(x + 1, 0) has none
    ([[2.0]], [-1.0], 2),                        # λ_PF = 2: x = 0 and x = 1
    ([[0.0, -2.0], [-2.0, 0.0]], [1.0, 1.0], 3),  # inhibition: either wins, or a draw
    ([[-2.0]], [1.0], 1),                        # λ_PF = 2, yet one for every input: not necessary
])
def test_counter_examples_in_each_direction(A, b, count):
    found = relu_equilibria(np.array(A), np.array(b))
    assert len(found) == count
    certified = certificate(mat(A)).well_posed
    assert not certified or count == 1
    if certified:
        x = equilibrium(mat(A), mat([b]), solver=PeacemanRachford(rtol=1e-12)).value
        assert x.numpy()[0] == pytest.approx(found[0])


@pytest.mark.parametrize("b", [-3.0, 0.0, 0.5, 100.0])
def test_well_posed_for_every_input_without_a_certificate(b):
    """I − A is a P-matrix, which is enough for ReLU and none of the three conditions."""
    A = [[0.0, 4.0], [-1.0, 0.0]]
    assert len(relu_equilibria(np.array(A), np.array([b, 1.0]))) == 1
    assert not certificate(mat(A)).well_posed


def test_minus_two_is_certified_by_monotonicity_alone():
    c = certificate(mat([[-2.0]]))
    assert c.condition is Condition.MONOTONE and c.margin == pytest.approx(3.0)
    assert "PeacemanRachford" in c.sentence
    falling = Activation("falling", lambda s: -s, slope=1.0)
    assert not certificate(mat([[-2.0]]), falling).well_posed


@settings(max_examples=80)
@given(square_matrices(values=st.floats(0, 1)), st.sampled_from(sorted(PHI)),
       st.sampled_from([Picard(1e-11, max_steps=5000),
                        Picard(1e-11, max_steps=10_000, damping=0.6),
                        Anderson(rtol=1e-11), Anderson(rtol=1e-11, window=2, damping=0.5)]),
       st.floats(0.05, 0.9), st.booleans(), st.integers(0, 2**32 - 1))
def test_unique_equilibrium_from_any_start_whenever_a_certificate_holds(
        M, name, solver, level, by_norm, seed):
    rng, n = np.random.default_rng(seed), len(M)
    if by_norm:
        M = M * (level / max(np.abs(M).sum(1).max(), 1e-3))
    else:  # a norm up to about a hundred, the eigenvalue below 1
        v = 10.0 ** rng.uniform(-1, 1, n)
        M = M * (level / max(np.abs(M).sum(1).max(), 1e-3)) * v / v[:, None]
    assert certificate(mat(M), name).well_posed
    b = rng.standard_normal((3, n))
    wanted = unrolled(M, b, name, steps=5000)
    for size in (0, 1e-3, 100):
        start = size * rng.standard_normal((3, n))
        solution = equilibrium(mat(M), mat(b), name, X0=mat(start), solver=solver, throw=True)
        assert solution.stats.converged.all()
        assert solution.value.numpy() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


# ---- rescaling ------------------------------------------------------------------------------


@st.composite
def perron_below_one(draw_):
    """Matrices with λ_PF(|A|) < 1, reducible and nilpotent ones among them."""
    M = draw_(square_matrices(values=st.one_of(st.just(0.0), st.floats(0.01, 5))))
    root = max(perron_frobenius(mat(M)).upper, 0.0)
    return M * (draw_(st.floats(0.01, 0.95)) / root if root > 0 else 1.0)


@given(perron_below_one(), st.sampled_from(["relu", "leaky_relu", "identity"]), st.integers(0, 999))
@example(np.triu(np.full((5, 5), 30.0), 1), "relu", 0)
@example(np.array([[0.5, 9.0, 1.0], [0.0, 0.2, 0.7], [0.0, 0.3, 0.4]]), "leaky_relu", 0)
def test_rescale_keeps_predictions_and_brings_the_norm_below_one(M, name, seed):
    rng, n = np.random.default_rng(seed), len(M)
    B, C, U = rng.standard_normal((n, 2)), rng.standard_normal((3, n)), rng.standard_normal((4, 2))
    A2, B2, C2 = (T.numpy() for T in rescale(mat(M), mat(B), mat(C)))
    assert np.abs(A2).sum(1).max() < 1
    assert A2.shape == M.shape and B2.shape == B.shape and C2.shape == C.shape
    before = unrolled(M, U @ B.T, name, 3000) @ C.T
    after = unrolled(A2, U @ B2.T, name, 3000) @ C2.T
    assert after == pytest.approx(before, rel=1e-7, abs=1e-7 * max(1, np.abs(before).max()))


def test_rescale_changes_predictions_of_what_is_not_homogeneous():
    A, B, C = mat([[0.0, 5.0], [0.0, 0.5]]), mat([[1.0], [1.0]]), mat([[1.0, 1.0]])
    A2, B2, C2 = rescale(A, B, C)
    before = unrolled(A.numpy(), B.numpy().T, "tanh") @ C.numpy().T
    assert abs(before - unrolled(A2.numpy(), B2.numpy().T, "tanh") @ C2.numpy().T) > 0.1


def test_rescale_close_to_one_and_in_float32():
    M = mat([[0.0, 1e3], [0.999e-3, 0.0]])
    for A in (M, M.float()):
        A2, B2, _ = rescale(A, A, A)
        assert A2.dtype == B2.dtype == A.dtype and float(inf_norm(A2)) < 1


def test_rescale_says_when_no_units_fit():
    A = mat(np.triu(np.full((4, 4), 1e30), 1))
    rejects(lambda: rescale(A.float(), A.float(), A.float()), ValueError, "float32", "A.double()")
    A = mat(np.triu(np.full((4, 4), 1e150), 1))
    rejects(lambda: rescale(A, A, A), ValueError, "no finite change of units")


# ---- projection -----------------------------------------------------------------------------

rows = hnp.arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.one_of(
    st.just(0.0), st.just(1.0), st.just(-1.0), st.floats(-3, 3)))
scales = st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e12, 1e30])
kappas = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-6, 3))


@settings(max_examples=200)
@given(rows, scales, kappas, st.sampled_from([torch.float32, torch.float64]))
def test_projection_is_feasible_and_idempotent(M, scale, kappa, dtype):
    A, eps = mat(M * scale, dtype), torch.finfo(dtype).eps
    P = project_rows(A, kappa)
    n = A.shape[1]
    assert P.dtype == dtype
    # Feasible to the rounding of κ itself, however large A is.
    assert (P.abs().double().sum(1) <= kappa * (1 + 2 * n * eps)).all()
    assert torch.allclose(project_rows(P, kappa), P, rtol=0, atol=2 * n * eps * kappa)
    assert (P * A >= 0).all() and (P.abs() <= A.abs()).all()
    inside = A.abs().double().sum(1) <= kappa * (1 - 2 * n * eps)
    assert torch.equal(P[inside], A[inside])


@settings(max_examples=200)
@given(rows, st.sampled_from([1e-3, 1.0, 1e3, 1e15]), st.floats(1e-6, 3))
def test_projection_is_nearest_by_its_variational_inequality(M, scale, kappa):
    """P is nearest iff ⟨a − P, z − P⟩ ≤ 0 for all z in the ball: its vertices are enough."""
    A = M * scale
    P = project_rows(mat(A), kappa).numpy()
    for a, x in zip(A, P, strict=True):
        gap = kappa * np.abs(a - x).max() - (a - x) @ x  # the largest ⟨a − x, z − x⟩
        assert gap <= 1e-12 * max(kappa * np.abs(a).max(), 1e-300)


@settings(max_examples=15)
@given(rows, st.floats(0, 3))
@example(np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [2.0, -2.0, 0.0]]), 0.5)
@example(np.array([[1.0, -1.0]]), 0.0)
def test_projection_is_cvxpys(M, kappa):
    P = cp.Variable(M.shape)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(P - M)),
                         [cp.sum(cp.abs(P), axis=1) <= kappa])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert project_rows(mat(M), kappa).numpy() == pytest.approx(P.value, abs=1e-5)


def test_projection_of_ties_zero_rows_and_radius_zero():
    A = mat([[1, -1, 1, 1], [0, 0, 0, 0], [0.1, 0, 0, -0.1], [5, 0, 0, 0]])
    wanted = [[0.125, -0.125, 0.125, 0.125], [0, 0, 0, 0], [0.1, 0, 0, -0.1], [0.5, 0, 0, 0]]
    assert project_rows(A, 0.5).tolist() == wanted
    assert torch.equal(project_rows(A, 0.0), torch.zeros_like(A))
    assert project_rows(A[:, :0], 0.5).shape == (4, 0)


def test_projection_loses_no_radius_to_cancellation():
    """κ must not drown in the rounding of a large row."""
    P = project_rows(mat([[1e20, 1e19], [3e9, 3e9]]), 0.5)
    assert P.tolist() == [[0.5, 0.0], [0.25, 0.25]]
    coarse = torch.zeros(1, 500, device="cpu", dtype=torch.bfloat16)
    coarse[0, 7] = 1e4
    P = project_rows(coarse, 0.5)
    assert float(P[0, 7]) == pytest.approx(0.5, rel=0.05) and float(P.abs().sum()) < 0.55


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kappa", [0.1, 0.3, 0.6, 0.7, 0.8, 0.99])
def test_projection_makes_exact_zeros_of_all_that_lies_kappa_below(kappa, dtype):
    """The n − 1 others are cut together: n κ added up and n κ multiplied round differently."""
    for n in range(2, 200):
        A = mat(np.linspace(-1, 1, n)[None], dtype)
        A[0, n // 3] = -5.0
        P = project_rows(A, kappa)
        assert torch.count_nonzero(P) == 1 and float(P[0, n // 3]) == pytest.approx(-kappa)


def test_projection_gradient():
    A = mat([[1.0, -2.0, 0.3], [0.1, 0.2, 0.1], [4.0, 3.8, -3.7]]).requires_grad_()
    assert torch.autograd.gradcheck(lambda M: project_rows(M, 0.9), A)


# ---- bad input ------------------------------------------------------------------------------

A3, NAN = draw(1, 3, 3, scale=0.1), mat([[np.nan]])
INTS = torch.ones(2, 2, device="cpu", dtype=torch.int64)


@pytest.mark.parametrize("fn", [inf_norm, perron_frobenius, perron_root, certificate,
                                lambda A: rescale(A, A, A), lambda A: project_rows(A, 0.5)])
@pytest.mark.parametrize(("A", "error", "fragments"), [
    ([[0.5]], TypeError, ["A must be a torch.Tensor", "list"]),
    (INTS, TypeError, ["int64", "floating-point"]),
    (NAN, ValueError, ["A must be finite", "1 NaN or infinite of 1"]),
    (mat([[np.inf]]), ValueError, ["finite"]),
    (mat([1.0, 2.0]), ValueError, ["A must have shape", "(2,)"]),
])
def test_every_function_refuses_what_is_not_a_finite_matrix(fn, A, error, fragments):
    rejects(lambda: fn(A), error, *fragments)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: perron_frobenius(A3[:2]), ValueError, ["(n, n)", "(2, 3)"]),
    (lambda: perron_frobenius(A3[:0, :0]), ValueError, ["at least one row"]),
    (lambda: perron_frobenius(A3, tol=-1.0), ValueError, ["tol", ">= 0", "-1.0"]),
    (lambda: perron_frobenius(A3, max_steps=0), ValueError, ["max_steps", "at least 1"]),
    (lambda: certificate(A3, "rlu"), ValueError, ["'rlu'", "'relu'"]),
    (lambda: certificate(A3, 7), TypeError, ["activation", "7"]),
    (lambda: project_rows(A3, -0.5), ValueError, ["kappa", ">= 0", "-0.5"]),
    (lambda: project_rows(A3, np.nan), ValueError, ["kappa", "nan"]),
    (lambda: project_rows(A3, "1"), TypeError, ["kappa", "'1'"]),
    (lambda: rescale(A3, A3[:2], A3), ValueError, ["B", "(n=3, p)", "(2, 3)"]),
    (lambda: rescale(A3, A3, A3[:, :2]), ValueError, ["C", "(q, n=3)", "(3, 2)"]),
    (lambda: rescale(A3, A3.float(), A3), TypeError, ["B is torch.float32", "float64"]),
    (lambda: rescale(mat([[2.0]]), mat([[1.0]]), mat([[1.0]])), ValueError, ["λ_PF(|A|) < 1", "2"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
