"""Every constraint's map alone: under torch's transforms, in 16 bits, at a dtype's ends."""

import itertools

import numpy as np
import pytest
import torch
from helpers import CONSTRAIN, draw, mat, rejects
from pretend_device import device_waits, pretend_device
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from idl_lab import ImplicitModel
from idl_lab.constraints import Constraint, constraint, shrink_rows
from idl_lab.operators import LowRank, dense
from idl_lab.perron import perron_frobenius, perron_root
from idl_lab.unwatched import Unwatched
from idl_lab.well_posedness import certificate, rescale

# torch compiles its rules for forward mode at the first use, and warns of its own compiler.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

NAMES = [*CONSTRAIN, "monotone"]
LOW = ["rank 2, scale", "rank 2, row", "rank 2, None"]
HALVES = [torch.float16, torch.bfloat16]
N, KAPPA = 5, 0.9


def made(name, kappa=KAPPA) -> Constraint:
    """The constraint of a name, or of a rank and a name."""
    rank, _, last = (name or "").rpartition(", ")
    return constraint(None if last in ("", "None") else last, kappa, 2 if rank else None)


def map_of(name, kappa=KAPPA):
    """The map from the free numbers, one tensor (n, n) or (n, 4) for both factors, to A."""
    kind = made(name, kappa)
    if name not in LOW:
        return kind
    return lambda LR: dense(kind(LR[..., :2], LR[..., 2:]))


def free(name, seed, size, n=N):
    return draw(seed, n, 4 if name in LOW else n, scale=size)


def largest(A):
    return float(A.double().abs().sum(1).max())


def eigenvalue(A):
    """λ_max of (A + Aᵀ)/2, of what is stored."""
    S = A.double().numpy()
    return np.linalg.eigvalsh((S + S.T) / 2)[-1]


# ---- transforms -----------------------------------------------------------------------------

ACTIVE = pytest.mark.parametrize("size", [3.0, 0.05], ids=["active", "inactive"])
BOTH = pytest.mark.parametrize("name", [*NAMES, *LOW], ids=str)


@ACTIVE
@BOTH
def test_first_and_second_derivatives_in_every_mode(name, size):
    F, A = map_of(name), free(name, 0, size).requires_grad_()
    assert gradcheck(F, A, check_forward_ad=True, check_batched_grad=True,
                     check_batched_forward_grad=True)
    assert gradgradcheck(F, A, check_fwd_over_rev=True, check_batched_grad=True)
    same = torch.allclose(F(A), map_of(LOW[2] if name in LOW else None)(A))
    assert same == (size < 1 or name in (None, LOW[2])) or name in ("monotone", "triangular")


@ACTIVE
@BOTH
def test_derivatives_by_torch_func_are_those_of_autograd(name, size):
    F, A, W = map_of(name), free(name, 1, size), draw(2, N, N)
    jacobian = torch.autograd.functional.jacobian(F, A)
    for of in (jacrev, jacfwd):
        assert torch.allclose(of(F)(A), jacobian, rtol=1e-9, atol=1e-12)
    V = draw(3, *A.shape)
    assert torch.allclose(jvp(F, (A,), (V,))[1], (jacobian * V).sum((-1, -2)), atol=1e-11)

    def scalar(A):
        return (F(A) * W).sin().sum()

    wanted = torch.autograd.functional.hessian(scalar, A)
    for nested in (hessian, lambda f: jacrev(jacrev(f)), lambda f: jacrev(jacfwd(f))):
        assert torch.allclose(nested(scalar)(A), wanted, rtol=1e-8, atol=1e-10)


@ACTIVE
@BOTH
def test_an_ensemble_by_vmap_is_each_alone(name, size):
    F, W = map_of(name), draw(2, N, N)
    many = torch.stack([free(name, seed, size) for seed in range(4)])

    def scalar(A):
        return (F(A) * W).sum()

    for of in (F, grad(scalar), hessian(scalar)):
        assert torch.allclose(vmap(of)(many), torch.stack([of(A) for A in many]), atol=1e-12)
    both = many.reshape(2, 2, *many.shape[1:])
    assert torch.allclose(vmap(vmap(F))(both).flatten(0, 1), vmap(F)(many), atol=1e-14)
    last = vmap(F, in_dims=-1, out_dims=-1)(many.movedim(0, -1))
    assert torch.allclose(last.movedim(-1, 0), vmap(F)(many), atol=1e-14)


@pytest.mark.parametrize("name", ["perron", "rank 2, row"])
def test_forward_over_forward_is_refused_where_a_tangent_would_be_lost(name):
    rejects(lambda: jacfwd(jacfwd(map_of(name)))(free(name, 0, 3.0)), RuntimeError,
            "forward mode over forward mode", "jacrev")


@pytest.mark.parametrize("name", ["scale", "row", "project", "perron", "monotone"])
def test_the_matrices_of_an_ensemble_of_models(name):
    models = [ImplicitModel(2, 2, N, constraint=name, device="cpu", dtype=torch.float64,
                            generator=torch.Generator("cpu").manual_seed(k)) for k in range(3)]
    stacked, _ = stack_module_state(models)

    class Matrix(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self):
            return self.model.A

    parameters = {f"model.{k}": 4 * v.detach() for k, v in stacked.items()}
    A = vmap(lambda p: functional_call(Matrix(models[0]), p, ()))(parameters)
    for one, model in zip(A, models, strict=True):
        assert torch.allclose(one, model.constrain(4 * model.free_A), atol=1e-13)


# ---- λ_PF -----------------------------------------------------------------------------------

SPECIAL = {
    "triangular": np.triu(np.full((4, 4), 3.0), 1),
    "periodic": np.array([[0.0, 4.0], [1.0, 0.0]]),
    "reducible": np.array([[0.5, 9.0, 1.0], [0.0, 0.2, 7.0], [0.0, 0.3, 0.9]]),
    "cascade": np.array([[0.5, 2.0, 0.0], [0.0, 0.8, 3.0], [0.0, 0.0, 0.4]]),
    "badly scaled": np.array([[0.1, 1e8], [1e-9, 0.2]]),
    "weakly coupled": np.array([[1.0, 1e-3], [1e-3, 1.0]]),
    "random": draw(0, 6, 6).numpy(),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_the_second_derivative_of_the_eigenvalue_is_numpys(name):
    """Along ±directions that leave zeros zero, where |·| has no derivative."""
    M = np.abs(SPECIAL[name])
    V = M * draw(1, *M.shape).numpy()

    def root(t):
        values = np.linalg.eigvals(M + t * V)
        return np.abs(values).max() if np.triu(M, 1).tolist() != M.tolist() else 0.0

    h = 1e-5 if name == "weakly coupled" else 1e-3
    wanted = (16 * (root(h) + root(-h)) - root(2 * h) - root(-2 * h) - 30 * root(0)) / (12 * h * h)
    along = hessian(lambda t: perron_root(mat(M) + t * mat(V)))(torch.zeros((), dtype=torch.float64,
                                                                            device="cpu"))
    assert float(along) == pytest.approx(wanted, rel=1e-3, abs=1e-7)


def test_derivatives_of_a_tie_are_finite():
    """Two classes share the eigenvalue: their maximum has a kink there."""
    for M in (mat(np.eye(3)), mat([[1, 1], [0, 1]]), mat(np.kron(np.eye(2), np.ones((2, 2))))):
        first, second = grad(perron_root)(M), hessian(perron_root)(M)
        assert float((first * M).sum()) == pytest.approx(1 if M[0, 0] == M.sum() else float(
            perron_root(M)))  # λ is homogeneous: Σ A ∂λ/∂A = λ
        assert float(second.abs().max()) < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECIAL)
def test_the_bound_is_above_the_eigenvalue_by_rounding_alone(name, dtype):
    A = mat(SPECIAL[name], dtype)
    pf, bound = perron_frobenius(A), float(perron_root(A))
    assert pf.lower <= bound <= pf.upper * (1 + 64 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", SPECIAL)
def test_perron_keeps_the_eigenvalue_in_every_dtype(name, dtype):
    if dtype == torch.float16 and name == "badly scaled":
        return  # its 1e8 does not fit
    for kappa in (0.3, 0.9):
        A = made("perron", kappa)(mat(SPECIAL[name], dtype))
        assert A.dtype == dtype and perron_frobenius(A).lower <= kappa
        if perron_frobenius(mat(SPECIAL[name], dtype)).upper > kappa:
            assert perron_frobenius(A).upper >= kappa * (1 - 4 * torch.finfo(dtype).eps) - 1e-4


# ---- 16 bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("n", [3, 40, 300])
@pytest.mark.parametrize("name", [*NAMES, *LOW], ids=str)
def test_bounds_hold_in_16_bits(name, n, dtype):
    kind = made(name)
    for seed, size in itertools.product(range(3), (3.0, 1e-3, 200.0)):
        if name == "monotone" and size > 100:
            continue  # its square does not fit into float16
        A = free(name, seed, size, n).to(dtype)
        made_of = kind(A[:, :2], A[:, 2:]) if name in LOW else kind(A)
        stored = (made_of.L, made_of.R) if isinstance(made_of, LowRank) else (made_of,)
        assert all(T.dtype == dtype and T.isfinite().all() for T in stored)
        wide = dense(LowRank(*(T.double() for T in stored))) if name in LOW else made_of
        if name in ("scale", "row", "project", *LOW[:2]):
            assert largest(wide) <= KAPPA
            full = free(name, seed, size, n)
            if size == 3.0 and name not in LOW:
                assert largest(wide) >= 0.98 * min(KAPPA, largest(full))
        if name == "perron":
            assert perron_frobenius(wide).lower <= KAPPA
        if name == "monotone":
            assert eigenvalue(wide) <= KAPPA


def test_a_long_row_of_numbers_that_float16_rounds_coarsely():
    """All alike, and below 6e-5, where it has no eleven digits left: all are rounded one way."""
    for n in range(39_900, 40_000, 9):
        row = torch.ones(1, n, device="cpu", dtype=torch.float16)
        assert KAPPA * 0.995 <= largest(shrink_rows(row, KAPPA)) <= KAPPA


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", [*NAMES, *LOW], ids=str)
def test_gradients_in_16_bits_are_those_of_the_same_numbers(name, dtype):
    A, W = free(name, 4, 3.0, 20).to(dtype), draw(5, 20, 20)
    grads = []
    for M in (A.clone(), A.double()):
        M.requires_grad_()
        (map_of(name)(M).double() * W).sum().backward()
        assert M.grad.dtype == M.dtype
        grads.append(M.grad.double())
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 6 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", NAMES, ids=str)
def test_what_is_inside_is_kept_in_16_bits(name, dtype):
    A = torch.triu(draw(6, 20, 20, scale=0.01).to(dtype), 1)
    kind = made(name)
    again = kind(*(T.to(dtype) for T in kind.free(A)))
    error = float((again.double() - A.double()).abs().max())
    assert error <= (1e-2 if name == "monotone" else 0.0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("constraint", ["scale", "row", None])
def test_factors_are_found_in_16_bits(constraint, dtype):
    low = draw(0, 12, 2, scale=0.2) @ draw(1, 2, 12, scale=0.2)
    L, R = made(f"rank 2, {constraint}").free(low.to(dtype))
    assert torch.allclose(L.double() @ R.double().mT, low, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_certificates_and_rescaling_in_16_bits(dtype):
    A = mat([[0.0, 10.0], [0.0, 0.25]], dtype)
    assert certificate(A).margin == pytest.approx(0.75) and perron_root(A).dtype == torch.float32
    A2, B2, _ = rescale(A, A, A)
    assert A2.dtype == B2.dtype == dtype and largest(A2) < 1


# ---- autocast -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *LOW], ids=str)
def test_autocast_changes_nothing(name):
    A = free(name, 0, 3.0, 30).float()
    plain = map_of(name)(A)
    with torch.autocast("cpu", torch.bfloat16):
        kind = made(name)
        cast = kind(A[:, :2], A[:, 2:]) if name in LOW else kind(A)
    cast = dense(cast)
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)


# ---- the ends of a dtype --------------------------------------------------------------------

LARGE = [(torch.float16, 6e4), (torch.bfloat16, 3e38), (torch.float32, 3e38),
         (torch.float64, 1e308)]


@pytest.mark.parametrize(("dtype", "size"), LARGE, ids=str)
@pytest.mark.parametrize("name", ["scale", "row", "project", "perron"])
def test_sums_that_overflow(name, dtype, size):
    """The matrix of such entries is that of the same entries in another unit."""
    A = (draw(7, 30, 30).clamp(-1, 1).to(dtype).double() * size).to(dtype).requires_grad_()
    unit, W = (A.detach().double() / size).requires_grad_(), draw(8, 30, 30)
    found, wanted = made(name)(A), made(name)(unit)
    if name == "project":  # so far outside, the largest entries of a row share it
        wanted = (unit.detach().abs() == unit.detach().abs().amax(1, keepdim=True)).double()
        wanted = KAPPA * wanted * unit.sign() / wanted.sum(1, keepdim=True)
    eps = torch.finfo(dtype).eps
    assert torch.allclose(found.double(), wanted, rtol=0, atol=max(4 * eps, 1e-14))
    assert name == "perron" or largest(found.detach()) <= KAPPA
    (found.double() * W).sum().backward()
    assert A.grad.isfinite().all()
    if name != "project" and dtype == torch.float16:  # of the others, gradients underflow
        (wanted * W).sum().backward()
        assert torch.allclose(A.grad.double() * size, unit.grad, atol=0.05)


@pytest.mark.parametrize(("dtype", "size"), [
    (torch.float16, 6e-8), (torch.bfloat16, 1e-39), (torch.float32, 1e-44), (torch.float64, 1e-323),
], ids=str)
@pytest.mark.parametrize("name", ["scale", "row", "project", "perron"])
def test_numbers_next_to_zero_are_inside(name, dtype, size):
    A = (draw(7, 30, 30).sign() * size).to(dtype).requires_grad_()
    found = made(name)(A)
    found.sum().backward()
    assert torch.allclose(found, A, rtol=0, atol=0 if dtype == torch.float16 else size)
    assert torch.allclose(A.grad, torch.ones_like(A), atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("constraint", ["scale", "row"])
@pytest.mark.parametrize(("left", "right"), [(1e20, 1e20), (1e30, 1e-3), (1e-30, 1e36),
                                             (1e-25, 1e-25), (3e38, 1.0)])
def test_factors_whose_product_over_or_underflows(constraint, left, right):
    L = (draw(9, 30, 2).clamp(-1, 1) * left).float().requires_grad_()
    R = (draw(10, 30, 2).clamp(-1, 1) * right).float().requires_grad_()
    A = made(f"rank 2, {constraint}")(L, R)
    sums = (A.L.double() @ A.R.double().mT).abs().sum(1)
    full = (L.double() @ R.double().mT).abs().sum(1).detach()
    wanted = full * (KAPPA / (full if constraint == "row" else full.max())).clamp(max=1)
    assert torch.allclose(sums.detach(), wanted, rtol=1e-3) and (sums <= KAPPA).all()
    (A.L / A.L.detach().abs().max()).sum().backward()
    assert L.grad.isfinite().all() and R.grad.isfinite().all()


def test_kappa_zero_makes_zeros():
    for name in ("scale", "row", "project", "perron"):
        A = draw(0, 4, 4).requires_grad_()
        found = made(name, 0.0)(A)
        found.sum().backward()
        assert not found.any() and not A.grad.any()
        assert not made(name, 0.0)(torch.zeros_like(A)).any()


# ---- a device -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, *LOW], ids=str)
def test_the_host_waits_for_no_constraint_but_perrons(name):
    with pretend_device() as device:
        A = free(name, 0, 3.0, 30).to(device).requires_grad_()
        device_waits()
        kind = made(name)
        made_of = kind(A[:, :2], A[:, 2:]) if name in LOW else kind(A)
        (made_of.L if name in LOW else made_of).sum().backward()
        seen = device_waits()
    assert seen.total() <= (3 if name == "perron" else 0), seen


@pytest.mark.parametrize("name", SPECIAL)
def test_unwatched_the_eigenvalue_is_bounded_and_what_is_short_is_told(name):
    A, watch = mat(SPECIAL[name]), Unwatched()
    wanted = made("perron")(A)
    for _ in range(12):
        with watch.pass_through():
            found = made("perron")(A.requires_grad_())
        found.sum().backward()
        assert A.grad.isfinite().all() and perron_frobenius(found).lower <= KAPPA
        if watch.worst[0] <= 1:
            break
        watch.grow([0])
    settles = name in ("random", "badly scaled", "weakly coupled")
    assert (watch.worst[0] <= 1) == settles
    assert not settles or torch.allclose(found, wanted, rtol=1e-12)


def test_unwatched_nothing_waits():
    with pretend_device() as device:
        A = draw(0, 30, 30).to(device).requires_grad_()
        device_waits()
        with Unwatched().pass_through():
            made("perron")(A).sum().backward()
        assert not device_waits()
