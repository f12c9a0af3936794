"""Low rank, sparse, monotone, triangular A: each equal to a dense oracle, values and gradients."""

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from helpers import PHI, draw, mat, rejects, unrolled
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from idl_lab import ImplicitModel, norms
from idl_lab.constraints import Factors, Monotone
from idl_lab.equilibrium import Implicit, OneStep, Unrolled, equilibrium
from idl_lab.fixed_point import Anderson, Broyden, Newton, PeacemanRachford, Picard
from idl_lab.fixed_point.solution import ConvergenceWarning, Status
from idl_lab.operators import LowRank
from idl_lab.well_posedness import Condition, units

CONSTRAINTS = ["scale", "row", "project", "perron", "triangular", "monotone", None]


def model_with(seed=0, p=3, q=2, n=6, **options):
    generator = torch.Generator("cpu").manual_seed(seed)
    options = {"device": "cpu", "dtype": torch.float64, **options}
    options.setdefault("solver", PeacemanRachford(rtol=1e-13)
                       if options.get("constraint") == "monotone" else Picard(rtol=1e-13))
    model = ImplicitModel(p, q, n, generator=generator, **options)
    if options.get("constraint", "scale") is None:
        with torch.no_grad():
            for M in free(model):
                M.mul_(0.3)
    return model


def free(model):
    """The free parameters of A."""
    return [M for name, M in model.named_parameters() if name in ("free_A", "free_L", "free_R")]


def grown(model, factor=5.0):
    """The model with its free A so large that the constraint is active."""
    with torch.no_grad():
        for M in free(model):
            M.mul_(factor)
    return model


def every(model, U, W):
    """Gradients of Σ W∘ŷ for each parameter and the input, by gradcheck's own oracle."""
    names, tensors = zip(*model.named_parameters(), strict=True)

    def f(U, *tensors):
        return functional_call(model, dict(zip(names, tensors, strict=True)), (U,))

    inputs = [T.detach().clone().requires_grad_() for T in (U, *tensors)]
    return torch.autograd.gradcheck(f, inputs, atol=1e-6)


# ---- every model ----------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("phi", ["tanh", "relu"])
def test_gradcheck_of_every_constraint(constraint, phi):
    model = model_with(constraint=constraint, activation=phi, bias=True, kappa=0.7, n=4)
    if constraint not in (None, "triangular"):
        grown(model, 3.0)
    assert every(model, draw(1, 3, 3), None)


@pytest.mark.parametrize("constraint", ["scale", "row", None])
@pytest.mark.parametrize("adjoint", [Implicit(), Unrolled()])
def test_gradcheck_of_low_rank(constraint, adjoint):
    model = model_with(constraint=constraint, rank=2, n=5, kappa=0.7, adjoint=adjoint,
                       activation="tanh", bias=True)
    if constraint:
        grown(model)
    assert every(model, draw(1, 3, 3), None)


# ---- low rank -------------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", ["scale", "row", None])
@pytest.mark.parametrize("phi", ["relu", "sigmoid"])
def test_low_rank_is_the_dense_model_of_its_product(constraint, phi):
    low = model_with(rank=2, constraint=constraint, activation=phi, kappa=0.8, n=8)
    if constraint:
        grown(low)
    A = low.A.detach()
    assert torch.linalg.matrix_rank(A) == 2
    full = ImplicitModel.from_matrices(A, low.B, low.C, low.D, activation=phi,
                                       solver=Picard(1e-13))
    U = draw(2, 5, 3)
    assert torch.allclose(low(U), full(U), atol=1e-11)
    for model in (low, full):
        model(U).square().sum().backward()
    assert torch.allclose(low.B.grad, full.B.grad, atol=1e-9)
    if constraint is None:  # dL/dL = dL/dA R
        L, R = low.free_L, low.free_R
        assert torch.allclose(L.grad, full.A.grad @ R, atol=1e-9)
        assert torch.allclose(R.grad, full.A.grad.mT @ L, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), rank=st.integers(1, 6),
       power=st.integers(-3, 3))
def test_the_bound_of_a_low_rank_is_that_of_the_product(dtype, seed, n, rank, power):
    rank = min(rank, n)
    L, R = draw(seed, n, rank, scale=10.0**power).to(dtype), draw(seed + 1, n, rank).to(dtype)
    norm = (L.double() @ R.double().mT).abs().sum(1)
    largest = float(norms.largest_row_sum(LowRank(L, R)))
    assert largest == pytest.approx(float(norm.max()), rel=1e-4)
    assert torch.allclose(norms.row_sums(LowRank(L, R)).double(), norm, rtol=1e-4)
    for constraint in ("scale", "row"):
        A = Factors(0.9, rank, constraint)(L, R)
        sums = (A.L.double() @ A.R.double().mT).abs().sum(1)
        assert float(sums.max()) <= 0.9
        over = norm > 0.901
        if constraint == "row":
            assert torch.allclose(sums[over], mat(np.full(int(over.sum()), 0.9)), rtol=1e-2)
        elif over.any():
            assert float(sums.max()) == pytest.approx(0.9, rel=1e-2)


def test_the_norm_is_found_among_rows_that_the_bound_ranks_wrongly():
    """Rows that touch one column have the largest bound and the smallest sums."""
    R = mat(np.eye(60, 6))
    R[6:, 5] = 1.0
    L = mat(np.zeros((60, 6)))
    L[:, 0], L[7] = 8.0, mat([0, 0, 0, 0, 0, 1.0])
    assert float(norms.largest_row_sum(LowRank(L, R), chunk=4)) == 55.0


def test_low_rank_is_never_formed():
    """n² numbers are nowhere: neither in a step, nor in what is saved, nor in the gradients."""
    n, seen = 3000, []
    model = ImplicitModel(2, 2, n, rank=2, device="cpu")
    assert sum(p.numel() for p in model.parameters()) < 13 * n

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(T.numel() for T in torch.utils._pytree.tree_leaves(out)
                        if isinstance(T, torch.Tensor))
            return out

    with Largest():
        model(draw(0, 4, 2).float()).sum().backward()
    assert max(seen) <= 70 * n


def test_a_low_rank_takes_a_matrix_by_its_best_approximation():
    model, A = model_with(rank=2, constraint=None, n=5), 0.1 * draw(3, 5, 5)
    model.A = A
    U, s, Vt = np.linalg.svd(A.numpy())
    assert model.A.detach().numpy() == pytest.approx((U[:, :2] * s[:2]) @ Vt[:2])
    assert "rank=2" in repr(model) and model.certificate().well_posed


def test_a_low_rank_travels():
    model, U = model_with(rank=2), draw(4, 3, 3)
    twin = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = model_with(seed=9, rank=2)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(twin(U), model(U)) and torch.equal(other(U), model(U))
    assert model.float()(U.float()).dtype == torch.float32


# ---- sparse ---------------------------------------------------------------------------------


def sparse_and_dense(seed=0, n=7, p=3, phi="relu"):
    A = draw(seed, n, n) * (draw(seed + 1, n, n).abs() > 1)
    A, B = A * 0.8 / A.abs().sum(1).max(), draw(seed + 2, n, p) * (draw(seed + 3, n, p) > 0)
    C, bias = draw(seed + 4, 2, n), (draw(seed + 5, n), draw(seed + 6, 2))
    models = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the layout young
        for to in (torch.Tensor.to_sparse_csr, torch.clone):
            models.append(ImplicitModel.from_matrices(
                to(A), to(B), C, activation=phi, solver=Picard(1e-13), state_bias=bias[0],
                output_bias=bias[1]))
    return models


@pytest.mark.parametrize("phi", ["relu", "tanh"])
@pytest.mark.parametrize("adjoint", [Implicit(), Unrolled(), OneStep()])
def test_sparse_matrices_are_the_dense_ones(phi, adjoint):
    (thin, full), U = sparse_and_dense(phi=phi), draw(8, 2, 5, 3)
    assert thin.A.layout == thin.B.layout == torch.sparse_csr
    results = []
    for model in (thin, full):
        model.adjoint = adjoint
        u = U.clone().requires_grad_()
        Y = model(u)
        Y.square().sum().backward()
        results.append((Y, u.grad, model.C.grad, model.state_bias.grad))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    for name in "AB":
        values = getattr(thin, f"free_{name}").grad
        M = full.free_A if name == "A" else full.B
        assert torch.allclose(values, M.grad[M != 0], atol=1e-9)
    assert thin.certificate().condition is full.certificate().condition is Condition.NORM
    assert thin.certificate().inf_norm == pytest.approx(full.certificate().inf_norm)


def test_a_sparse_model_trains_travels_and_keeps_its_pattern():
    thin, _ = sparse_and_dense()
    U, pattern = draw(9, 4, 3), thin.A.detach().to_dense() != 0
    optimizer = torch.optim.Adam(thin.parameters(), lr=0.01)
    before = float(thin(U).detach().square().sum())
    for _ in range(5):
        optimizer.zero_grad()
        thin(U).square().sum().backward()
        optimizer.step()
    assert float(thin(U).detach().square().sum()) < before
    assert torch.equal(thin.A.detach().to_dense() != 0, pattern)
    twin = copy.deepcopy(thin)
    twin.load_state_dict(thin.state_dict())
    assert torch.equal(twin(U), thin(U))
    rejects(lambda: setattr(thin, "A", mat(np.eye(7))), ValueError, "keeps its pattern")


# ---- monotone -------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 0.95), st.floats(0.1, 4))
def test_monotone_is_exactly_the_set(seed, n, kappa, size):
    A = Monotone(kappa)(draw(seed, n, n, scale=size))
    top = np.linalg.eigvalsh((A + A.mT).numpy() / 2)[-1]
    assert top <= kappa + 1e-12 * (1 + size**2 * n)
    again = Monotone(kappa)(*Monotone(kappa).free(A))
    assert torch.allclose(again, A, atol=1e-9 * (1 + size**2))
    # A matrix outside goes to the nearest one inside: symmetric part's eigenvalues cut at κ.
    M = draw(seed + 1, n, n)
    values, vectors = np.linalg.eigh((M + M.mT).numpy() / 2)
    nearest = (vectors * np.minimum(values, kappa)) @ vectors.T + (M - M.mT).numpy() / 2
    assert Monotone(kappa)(*Monotone(kappa).free(M)).numpy() == pytest.approx(nearest)


@pytest.mark.parametrize("phi", ["relu", "leaky_relu", "tanh", "sigmoid", "elu", "hardtanh"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_peaceman_rachford_finds_what_picard_cannot(phi, alpha):
    A, b = Monotone(0.5)(draw(0, 6, 6)), draw(1, 4, 6)
    if alpha != 1 and phi not in ("relu", "leaky_relu"):
        rejects(lambda: equilibrium(A, b, phi, solver=PeacemanRachford(alpha=alpha)), ValueError,
                "alpha=0.5", "homogeneous", phi)
        return
    assert float(A.abs().sum(1).max()) > 5
    solution = equilibrium(A, b, phi, solver=PeacemanRachford(1e-12, alpha=alpha))
    X = solution.value.numpy()
    assert solution.status is Status.CONVERGED
    assert PHI[phi](X @ A.numpy().T + b.numpy()) == pytest.approx(X, abs=1e-10)
    slow = unrolled(0.02 * A.numpy() + 0.98 * np.eye(6), 0.02 * b.numpy(), phi, 20_000)
    if phi in ("relu", "leaky_relu"):  # forward-backward splitting: x ← φ((1 − α)x + α(Ax + b))
        if phi == "relu":
            assert X == pytest.approx(slow, abs=1e-6)


def test_a_monotone_model_is_certified_trains_and_chooses_its_solver():
    model = ImplicitModel(3, 2, 6, constraint="monotone", kappa=0.5, dtype=torch.float64,
                          device="cpu")
    model.A = 3 * draw(0, 6, 6)
    assert model.solver == PeacemanRachford()
    c = model.certificate()
    assert c.condition is Condition.MONOTONE and c.margin == pytest.approx(0.5, abs=1e-9)
    U = draw(1, 5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model(U).square().sum().backward()
        optimizer.step()
    assert model.certificate().well_posed


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: PeacemanRachford(alpha=0.0), ValueError, ["alpha", "> 0"]),
    (lambda: equilibrium(mat([[0.5]]), mat([[1.0]]), torch.sin, solver=PeacemanRachford()),
     ValueError, ["increasing", "sin"]),
    (lambda: __import__("idl_lab.fixed_point").fixed_point.fixed_point(
        torch.tanh, mat([[1.0]]), PeacemanRachford()), TypeError, ["equilibrium", "StateMap"]),
])
def test_peaceman_rachford_refuses(call, error, fragments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rejects(call, error, *fragments)


# ---- Newton and Broyden ---------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Newton(1e-12), Broyden(1e-12), Newton(1e-12, damping=0.5),
                                    Broyden(1e-12, damping=0.5)], ids=repr)
@pytest.mark.parametrize("phi", PHI)
def test_newton_and_broyden_find_the_equilibrium_and_its_gradient(solver, phi):
    A, b, W = draw(0, 6, 6), draw(1, 4, 6), draw(2, 4, 6)
    A *= 0.9 / A.abs().sum(1).max()
    wanted = unrolled(A.numpy(), b.numpy(), phi, 2000)
    grads = []
    for s in (solver, Picard(1e-13)):
        M = A.clone().requires_grad_()
        solution = equilibrium(M, b, phi, solver=s)
        assert solution.value.detach().numpy() == pytest.approx(wanted, abs=1e-10)
        (solution.value * W).sum().backward()
        grads.append(M.grad)
    assert torch.allclose(*grads, atol=1e-9)


def test_newton_doubles_the_digits_and_needs_no_state_map():
    A, b = draw(0, 5, 5), draw(1, 3, 5)
    A *= 0.95 / A.abs().sum(1).max()
    f = lambda X: torch.tanh(X @ A.mT + b)  # noqa: E731
    from idl_lab.fixed_point import fixed_point
    s = fixed_point(f, torch.zeros_like(b), Newton(1e-13))
    assert s.stats.steps <= 8 and (s.trace.worst[-2] < 10 * s.trace.worst[-3] ** 1.5)
    constant = fixed_point(lambda X: torch.ones_like(X), torch.zeros_like(b), Newton())
    assert torch.equal(constant.value, torch.ones_like(b))
    assert equilibrium(A, b, "tanh", solver=Newton(1e-13)).stats.steps <= 8


@pytest.mark.parametrize("solver", [Newton(max_steps=60), Broyden(max_steps=60),
                                    PeacemanRachford(max_steps=60)])
@pytest.mark.parametrize("value", [1.0, -2.0, 3.0, 0.0])
def test_no_method_dies_of_an_ill_posed_matrix(solver, value):
    A, b = mat(value * np.eye(2)), mat([[1.0, -1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        s = equilibrium(A, b, solver=solver)
    assert s.value.isfinite().all() and s.stats.steps <= 60
    if s.status.ok:
        assert torch.allclose((s.value @ A.mT + b).relu(), s.value, atol=1e-5)


def test_anderson_takes_a_fifth_of_picards_steps_on_a_hard_instance():
    A, b = draw(0, 100, 100).abs(), draw(1, 8, 100).abs()
    A *= 0.99 / A.sum(1, keepdim=True)
    steps = [equilibrium(A, b, solver=s).stats.steps
             for s in (Picard(1e-6, max_steps=5000), Anderson(1e-6))]
    assert steps[1] <= steps[0] / 5


# ---- triangular -----------------------------------------------------------------------------


def test_triangular_is_solved_exactly_in_as_many_steps_as_layers():
    A = mat(np.zeros((9, 9)))
    A[:3, 3:6], A[3:6, 6:] = draw(0, 3, 3), draw(1, 3, 3)  # three layers
    b = draw(2, 4, 9)
    exact = unrolled(A.numpy(), b.numpy(), "relu", 3)
    stepwise = equilibrium(A, b, keep_states=True)
    assert stepwise.stats.steps == 4 and float(stepwise.stats.residual.max()) == 0
    assert stepwise.value.numpy() == pytest.approx(exact, abs=1e-14)
    lean = equilibrium(A, b)
    assert lean.stats.steps <= 6 and torch.equal(lean.value, stepwise.value)


# ---- dtypes, transforms, bad input ----------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tol", "error"), [
    (torch.float64, 1e-12, 1e-10), (torch.float32, 1e-6, 2e-5), (torch.bfloat16, 0.05, 0.2),
    (torch.float16, 0.01, 0.05)])
@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"constraint": "row"}])
def test_every_dtype_within_its_stated_tolerance(dtype, tol, error, options):
    exact = model_with(kappa=0.8, bias=True, **options)
    model = copy.deepcopy(exact).to(dtype)
    model.solver = Picard(tol)
    U = draw(5, 16, 3)
    Y = model(U.to(dtype))
    assert Y.dtype == dtype
    assert torch.allclose(Y.double(), exact(U), atol=error, rtol=error)
    Y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == dtype for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", [Picard(1e-6), Anderson(1e-6), Newton(1e-6), Broyden(1e-6),
                                    PeacemanRachford(1e-6)], ids=repr)
def test_sixteen_bits_are_solved_in_float32_and_rounded_once(dtype, solver):
    model = model_with(dtype=dtype, solver=solver, kappa=0.5, constraint=None)
    with torch.no_grad():
        model.A = 0.5 * model.A / model.A.float().abs().sum(1).max()
    U = draw(5, 16, 3).to(dtype)
    solution = model.equilibrium(U)
    assert solution.status is Status.CONVERGED and solution.value.dtype == dtype
    exact = equilibrium(model.A.double(), model.injection(U).double(), "relu").value
    torch.testing.assert_close(solution.value.double(), exact,
                               rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_no_constraint_and_no_equilibrium_warns_and_ends():
    model = model_with(constraint=None, solver=Picard(max_steps=200))
    with torch.no_grad():
        model.A.copy_(3 * torch.eye(6, device="cpu", dtype=torch.float64))
    with pytest.warns(ConvergenceWarning, match="residual"):
        solution = model.equilibrium(draw(6, 4, 3).abs() + 1)
    assert not solution.status.ok and solution.value.isfinite().all()
    with pytest.warns(ConvergenceWarning, match="adjoint|residual"):
        model(draw(6, 4, 3).abs()).sum().backward()


@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"constraint": "row"}])
def test_compiled_and_functional_models_are_the_model(options):
    model, U = model_with(**options), draw(7, 5, 3)
    loss = lambda Y: Y.square().sum()  # noqa: E731
    loss(model(U)).backward()
    wanted = {name: p.grad for name, p in model.named_parameters()}
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    given = torch.func.grad(lambda P: loss(functional_call(model, P, (U,))))(parameters)
    model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(model, backend="aot_eager")
        Y = compiled(U)
        loss(Y).backward()
    assert torch.allclose(Y, model(U), atol=1e-10)
    for name, p in model.named_parameters():
        assert torch.allclose(given[name], wanted[name], atol=1e-9), name
        assert torch.allclose(p.grad, wanted[name], atol=1e-9), name


def test_x0_is_a_warm_start_of_the_whole_model():
    model, U = model_with(), draw(8, 2, 3, 3)
    X = model.equilibrium(U).value
    assert torch.allclose(model(U, X0=X), model(U), atol=1e-12)
    assert model.equilibrium(U, X0=X).stats.steps == 2


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: model_with(rank=7), ValueError, ["rank", "hidden_dim=6", "7"]),
    (lambda: model_with(rank=0), ValueError, ["rank", "at least 1"]),
    (lambda: model_with(rank=2, constraint="project"), ValueError, ["'project'", "rank=2", "row"]),
    (lambda: model_with(rank=2, constraint="monotone"), ValueError, ["'monotone'", "never"]),
    (lambda: units(mat([[0.9]]), 0.5), ValueError, ["λ_PF", "0.5", "0.9"]),
    (lambda: units(mat([[0.9]]), 1.0), ValueError, ["kappa", "1"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


# ---- networks -------------------------------------------------------------------------------


class Residual(nn.Module):
    """A stem, a block with a strided shortcut and a head, as residual nets have them."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.one, self.two = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.short, self.head = nn.Conv2d(4, 6, 1, 2), nn.Linear(6 * 4 * 4, 5)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = torch.relu(self.two(torch.relu(self.one(x))) + self.short(x))
        return self.head(x.flatten(1))


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 20),
        nn.ReLU(), nn.Dropout(), nn.Linear(20, 10))


def mlp():
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 20), nn.LeakyReLU(0.1),
                         nn.Linear(20, 10))


NETS = {"mlp": (mlp, (20,)), "lenet": (lenet, (1, 16, 16)), "residual": (Residual, (1, 8, 8))}


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_from_network_predicts_what_the_network_predicts(name, rescale):
    make, shape = NETS[name]
    net, m = make(), 12
    for seed in range(3):  # running statistics that are not trivial
        net(draw(seed, 32, *shape).float())
    net.eval()
    model = ImplicitModel.from_network(net, shape, rescale=rescale, kappa=0.9)
    X = draw(9, m, *shape).float()
    Y = model(X.flatten(1))
    assert (Y - net(X)).abs().max() <= 1e-5 and Y.dtype == torch.float32
    c = model.certificate()
    assert c.condition is (Condition.NORM if rescale else Condition.PERRON)
    assert c.inf_norm <= 0.9 if rescale else c.perron.upper == 0
    assert sum(block.size for block in model.blocks) == len(model.A)
    assert (model.A.layout == torch.sparse_csr) == (name != "mlp")
    U = X.flatten(1).double().requires_grad_()
    model.double()(U).square().sum().backward()
    V = X.double().requires_grad_()
    net.double()(V).square().sum().backward()
    assert torch.allclose(U.grad, V.grad.flatten(1), atol=1e-6)


def test_units_in_the_millions_do_not_loosen_the_solve():
    sizes = [20, 24, 24, 24, 24, 24, 24]
    layers = [m for i, o in zip(sizes, sizes[1:], strict=False)
              for m in (nn.Linear(i, o), nn.ReLU())]
    net, U = nn.Sequential(*layers, nn.Linear(24, 10)), draw(0, 50, 20).float()
    wanted = net(U)
    errors = [float((ImplicitModel.from_network(net, rescale=True, kappa=0.1, **options)(U)
                     - wanted).detach().abs().max()) for options in ({}, {"solver": Picard(1e-6)})]
    assert errors[0] <= 1e-5 < errors[1]


@pytest.mark.parametrize(("call", "fragments"), [
    (lambda: ImplicitModel.from_network(nn.Sequential(
        nn.Linear(3, 4, device="cpu"), nn.Tanh(), nn.Linear(4, 2, device="cpu")), rescale=True),
     ["rescale=True", "homogeneous", "tanh"]),
    (lambda: ImplicitModel.from_network(nn.Sequential(
        nn.Linear(4, 4, device="cpu"), nn.ReLU(), nn.LayerNorm(4, device="cpu"))), ["LayerNorm"]),
])
def test_from_network_refuses(call, fragments):
    rejects(call, ValueError, *fragments)
