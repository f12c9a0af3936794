"""ImplicitModel as a torch module: equal to what it claims to be, and nothing shared."""

import copy
import io

import numpy as np
import pytest
import torch
from helpers import PHI, draw, mat, rejects, unrolled
from torch import nn

import idl_lab
from idl_lab import ImplicitModel
from idl_lab.equilibrium import Implicit, OneStep, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.fixed_point.solution import ConvergenceError, Solution
from idl_lab.well_posedness import Condition

CONSTRAINTS = ["scale", "row", "project", "perron", "triangular", None]


def model_with(seed=0, p=3, q=2, n=6, **options):
    generator = torch.Generator("cpu").manual_seed(seed)
    options = {"device": "cpu", "dtype": torch.float64, "solver": Picard(rtol=1e-12), **options}
    return ImplicitModel(p, q, n, generator=generator, **options)


def numbers(tensor):
    return tensor.detach().numpy()


# ---- what it computes -----------------------------------------------------------------------


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("feedthrough", [False, True])
def test_prediction_is_the_two_equations(constraint, bias, feedthrough):
    model = model_with(constraint=constraint, bias=bias, feedthrough=feedthrough, kappa=0.8,
                       activation="elu")
    if constraint is None:
        with torch.no_grad():
            model.A.mul_(0.3)
    U = draw(1, 5, 3)
    b = U.numpy() @ numbers(model.B).T + (numbers(model.state_bias) if bias else 0)
    X = unrolled(numbers(model.A), b, "elu", 2000)
    Y = X @ numbers(model.C).T + (numbers(model.output_bias) if bias else 0)
    Y = Y + U.numpy() @ numbers(model.D).T if feedthrough else Y
    assert numbers(model(U)) == pytest.approx(Y, abs=1e-9)
    assert numbers(model.equilibrium(U).value) == pytest.approx(X, abs=1e-9)
    assert (model.D is None) == (not feedthrough)
    assert (model.state_bias is None) == (model.output_bias is None) == (not bias)


@pytest.mark.parametrize("phi", ["relu", "tanh", "elu"])
def test_block_triangular_a_is_the_two_layer_network(phi):
    """The last layer first: A = [[0, W2], [0, 0]], B = [0; W1], C = [W3, 0]."""
    torch.manual_seed(0)
    sizes = [(8, 3), (5, 8), (2, 5)]
    one, two, three = (nn.Linear(i, o, device="cpu", dtype=torch.float64) for o, i in sizes)
    act = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "elu": nn.ELU()}[phi]
    A, B, C = (mat(np.zeros(shape)) for shape in ((13, 13), (13, 3), (2, 13)))
    A[:5, 5:], B[5:], C[:, :5] = two.weight, one.weight, three.weight
    model = ImplicitModel.from_matrices(
        A.detach(), B.detach(), C.detach(), activation=phi,
        state_bias=torch.cat([two.bias, one.bias]).detach(), output_bias=three.bias.detach())
    U = draw(2, 20, 3)
    wanted = nn.Sequential(one, act, two, act, three)(U)
    solution = model.equilibrium(U)
    assert torch.allclose(model(U), wanted, rtol=0, atol=1e-6)
    assert torch.allclose(model(U), wanted, rtol=0, atol=1e-12)
    assert torch.allclose(solution.value[:, 5:], act(one(U)), atol=1e-12)
    assert solution.stats.steps <= 4 and model.certificate().perron.upper == 0


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 3), (0,)])
def test_leading_dimensions_as_linear_takes_them(lead):
    model, U = model_with(), draw(3, 6, 3)[:int(np.prod(lead))].reshape(*lead, 3)
    Y = model(U)
    assert Y.shape == nn.Linear(3, 2, device="cpu", dtype=torch.float64)(U).shape == (*lead, 2)
    assert torch.allclose(Y.reshape(-1, 2), model(U.reshape(-1, 3)), atol=1e-10)
    assert model.equilibrium(U).stats.converged.shape == lead


@pytest.mark.parametrize("phi", PHI)
def test_every_activation_by_name(phi):
    model, U = model_with(activation=phi, kappa=0.7), draw(4, 4, 3)
    X = unrolled(numbers(model.A), U.numpy() @ numbers(model.B).T, phi, 1000)
    assert numbers(model.equilibrium(U).value) == pytest.approx(X, abs=1e-10)


def test_equilibrium_passes_its_options_on():
    model, U = model_with(), draw(5, 4, 3)
    solution = model.equilibrium(U, keep_states=True)
    assert isinstance(solution, Solution) and solution.trace.states is not None
    again = model.equilibrium(U, X0=solution.value)
    assert again.stats.steps == 2 and again.trace.states is None
    with pytest.raises(ConvergenceError):
        model_with(solver=Picard(max_steps=1)).equilibrium(U, throw=True)


def test_certificate_is_of_the_matrix_in_use():
    for name, condition in (("scale", Condition.NORM), ("perron", Condition.PERRON)):
        model = model_with(constraint=name, kappa=0.9)
        model.A = 50 * draw(6, 6, 6)
        certificate = model.certificate()
        assert certificate.condition is condition and certificate.margin == pytest.approx(0.1)
    free = model_with(constraint=None)
    with torch.no_grad():
        free.A.fill_(1.0)
    assert free.certificate().condition is Condition.NONE


# ---- nothing is shared ----------------------------------------------------------------------


def test_two_models_share_no_settings():
    one = model_with(kappa=0.5, solver=Picard(rtol=1e-3), adjoint=OneStep(), activation="tanh")
    U = draw(7, 4, 3)
    one.A = 10 * draw(8, 6, 6)
    before, shown = numbers(one(U)).copy(), repr(one)
    two = model_with(kappa=0.95, solver=Anderson(rtol=1e-9), constraint="row", activation="relu")
    two.A = 10 * draw(8, 6, 6)
    assert (one.kappa, two.kappa) == (0.5, 0.95)
    norms = [float(m.A.detach().abs().sum(1).max()) for m in (one, two)]
    assert norms == pytest.approx([0.5, 0.95])
    assert one.solver == Picard(rtol=1e-3) and one.adjoint == OneStep()
    assert np.array_equal(numbers(one(U)), before) and repr(one) == shown


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_deepcopy_is_independent(constraint):
    model, U = model_with(constraint=constraint, kappa=0.6), draw(9, 4, 3)
    if constraint is None:
        model.A.data.mul_(0.3)
    twin, before = copy.deepcopy(model), numbers(model(U)).copy()
    assert np.array_equal(numbers(twin(U)), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    twin.kappa, twin.solver = 0.1, Picard(rtol=1.0)
    assert np.array_equal(numbers(model(U)), before) and model.solver == Picard(rtol=1e-12)
    assert not np.array_equal(numbers(twin(U)), before)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_state_dict_round_trip_without_unpickling(constraint):
    model, U = model_with(constraint=constraint, kappa=0.7, bias=True), draw(10, 4, 3)
    with torch.no_grad():
        next(model.parameters()).mul_(0.3 if constraint is None else 30)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = model_with(seed=99, constraint=constraint, kappa=0.7, bias=True)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.A, model.A) and torch.equal(other(U), model(U))


def test_double_and_to_reach_every_parameter():
    model = ImplicitModel(3, 2, 6, bias=True, device="cpu", dtype=torch.float32)
    assert model(draw(0, 4, 3).float()).dtype == torch.float32
    for convert in (model.double, lambda: model.to(torch.float64)):
        convert()
        assert {p.dtype for p in model.parameters()} == {torch.float64}
        assert model(draw(0, 4, 3)).dtype == torch.float64 and model.A.dtype == torch.float64
    without = ImplicitModel(3, 2, 6, feedthrough=False, device="cpu").double()
    assert without(draw(0, 4, 3)).dtype == torch.float64


# ---- A and its constraint -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constraint", ["scale", "row", "project"])
def test_norm_stays_in_the_ball_through_assignment_and_training(constraint, dtype):
    model = model_with(constraint=constraint, kappa=0.9, dtype=dtype, solver=Picard(), n=20)
    bound = 0.9 * (1 + 30 * torch.finfo(dtype).eps)
    norm = lambda: float(model.A.detach().double().abs().sum(1).max())  # noqa: E731
    assert norm() <= bound
    model.A = 1e6 * draw(11, 20, 20).to(dtype)
    assert 0.89 < norm() <= bound
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for step in range(8):
        optimizer.zero_grad()
        model(draw(step, 8, 3).to(dtype)).tanh().sum().backward()
        optimizer.step()
        assert norm() <= bound


def test_initial_parameters_are_drawn_from_the_generator_within_bounds():
    one, two, three = model_with(0), model_with(0), model_with(1)
    assert torch.equal(one.A, two.A) and not torch.equal(one.A, three.A)
    wide = model_with(constraint=None, n=400, p=100, bias=True)
    for M, fan_in in ((wide.A, 400), (wide.B, 100), (wide.C, 400), (wide.D, 100),
                      (wide.state_bias, 400), (wide.output_bias, 400)):
        bound = fan_in**-0.5
        assert bound * (0.9 if M.numel() > 50 else 0) < float(M.detach().abs().max()) <= bound


def test_a_new_model_never_looks_at_uninitialised_memory(monkeypatch):
    """A constraint that sees NaN refuses; parameters must be drawn before it is registered."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    for constraint in CONSTRAINTS:
        model = ImplicitModel(3, 2, 4, constraint=constraint, device="cpu")
        assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_from_matrices_copies_and_applies_the_constraint(constraint):
    A, B, C, D = 0.1 * draw(0, 6, 6), draw(1, 6, 3), draw(2, 2, 6), draw(3, 2, 3)
    model = ImplicitModel.from_matrices(A, B, C, D, constraint=constraint, kappa=0.2)
    kept = {"triangular": A.triu(1), None: A}.get(constraint)
    if kept is not None:
        assert torch.equal(model.A, kept)
    elif constraint != "perron":
        assert float(model.A.detach().abs().sum(1).max()) == pytest.approx(0.2)
    assert all(torch.equal(M, N) for M, N in ((model.B, B), (model.C, C), (model.D, D)))
    B.zero_()
    assert model.B.abs().min() > 0 and model.constraint == constraint and model.kappa == 0.2
    assert ImplicitModel.from_matrices(A.float(), A.float(), A.float()).D is None
    assert ImplicitModel.from_matrices(A.float(), A.float(), A.float()).A.dtype == torch.float32


# ---- a drop-in ------------------------------------------------------------------------------


@pytest.mark.parametrize("adjoint", [Implicit(), Unrolled(), OneStep()])
def test_a_plain_torch_loop_learns(adjoint):
    model = nn.Sequential(model_with(kappa=0.8, adjoint=adjoint, solver=Picard(1e-6), bias=True),
                          nn.Tanh(), nn.Linear(2, 1, device="cpu", dtype=torch.float64))
    U = draw(12, 64, 3)
    target = torch.sin(U.sum(1, keepdim=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(U), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_eval_keeps_values_and_gradients():
    model, U = model_with(), draw(13, 4, 3).requires_grad_()
    trained = model(U)
    model.eval()
    value = model(U)
    assert torch.equal(value, trained)
    value.sum().backward()
    assert U.grad.abs().min() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_an_infinite_gradient_is_handed_on_as_torch_does():
    """Loss scalers skip such a step by looking for it; the other samples are not harmed."""
    model, U = model_with(), draw(14, 3, 3).requires_grad_()
    model(U)[[0, 2]].sum().backward()
    wanted, U.grad = U.grad, None
    (model(U) * mat([[1.0], [np.inf], [1.0]])).sum().backward()
    assert torch.allclose(U.grad[[0, 2]], wanted[[0, 2]]) and not U.grad[1].isfinite().any()
    assert not model.B.grad.isfinite().all()


def test_repr_shows_every_option():
    shown = repr(model_with(kappa=0.5, activation="tanh", constraint="row", feedthrough=False))
    for fragment in ("ImplicitModel", "3, 2, 6", "activation='tanh'", "kappa=0.5",
                     "constraint='row'", "bias=False", "feedthrough=False", "Picard(rtol=1e-12",
                     "Implicit("):
        assert fragment in shown


def test_public_names():
    assert idl_lab.ImplicitModel is ImplicitModel and "ImplicitModel" in idl_lab.__all__


# ---- bad input ------------------------------------------------------------------------------

A, B, C, D = 0.1 * draw(0, 6, 6), draw(1, 6, 3), draw(2, 2, 6), draw(3, 2, 3)
BIAS = draw(4, 6), draw(5, 2)
NAN = float("nan")
MODEL = model_with()
U = draw(6, 4, 3)


def built(*sizes, **options):
    return ImplicitModel(*(sizes or (3, 2, 6)), **{"device": "cpu", **options})


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: built(0, 2, 6), ValueError, ["input_dim", "at least 1", "0"]),
    (lambda: built(3, 2.0, 6), TypeError, ["output_dim", "whole number", "2.0"]),
    (lambda: built(3, 2, -1), ValueError, ["hidden_dim", "-1"]),
    (lambda: built(kappa=1.0), ValueError, ["kappa", ">= 0 and < 1", "1.0"]),
    (lambda: built(kappa=-0.5), ValueError, ["kappa", "-0.5"]),
    (lambda: built(kappa=NAN, constraint=None), ValueError, ["kappa", "nan"]),
    (lambda: built(activation="rlu"), ValueError, ["'rlu'", "Did you mean 'relu'?"]),
    (lambda: built(activation=0), TypeError, ["activation", "0"]),
    (lambda: built(constraint="projekt"), ValueError, ["'projekt'", "Did you mean 'project'?"]),
    (lambda: built(solver="anderson"), TypeError, ["Anderson()", "'anderson'"]),
    (lambda: built(solver=Anderson), TypeError, ["Anderson()", "class"]),
    (lambda: built(adjoint="implicit"), TypeError, ["Implicit()", "'implicit'"]),
    (lambda: built(device="cuda:99"), ValueError, ["cuda:99", "torch sees"]),
    (lambda: built(device="gpu"), ValueError, ["'gpu'", "cpu, cuda"]),
    (lambda: built(dtype=torch.int64), TypeError, ["dtype", "floating-point", "int64"]),
    (lambda: built(mitr=3), TypeError, ["mitr"]),
    (lambda: MODEL(U[:, :2]), ValueError, ["U", "(..., p=3)", "(4, 2)"]),
    (lambda: MODEL(U.float()), TypeError, ["U is torch.float32", "float64"]),
    (lambda: MODEL(U.long()), TypeError, ["U", "int64", "U.float()"]),
    (lambda: MODEL(U * NAN), ValueError, ["U must be finite", "12 NaN"]),
    (lambda: MODEL(U.numpy()), TypeError, ["U must be a torch.Tensor", "ndarray"]),
    (lambda: MODEL(U.to("meta")), ValueError, ["U is on meta", "wanted on cpu"]),
    (lambda: MODEL.equilibrium(U, X0=U), ValueError, ["X0", "(4, 6)", "(4, 3)"]),
    (lambda: MODEL.output(U, U), ValueError, ["X", "(..., n=6)", "(4, 3)"]),
    (lambda: MODEL.output(draw(0, 4, 6), U[:, :2]), ValueError, ["U", "p=3", "(4, 2)"]),
    (lambda: MODEL.output(draw(0, 3, 6), U), ValueError, ["X and U", "(3,)", "(4,)"]),
    (lambda: ImplicitModel.from_matrices(A[:3], B, C, D), ValueError, ["A", "(n, n)", "(3, 6)"]),
    (lambda: ImplicitModel.from_matrices(A, B[:3], C, D), ValueError, ["B", "(n=6, p)", "(3, 3)"]),
    (lambda: ImplicitModel.from_matrices(A, B, C.mT, D), ValueError, ["C", "(q, n=6)", "(6, 2)"]),
    (lambda: ImplicitModel.from_matrices(A, B, C, D.mT), ValueError, ["D", "(q=2, p=3)", "(3, 2)"]),
    (lambda: ImplicitModel.from_matrices(A, B.float(), C), TypeError, ["B", "float32", "float64"]),
    (lambda: ImplicitModel.from_matrices(A * NAN, B, C), ValueError, ["A must be finite", "36"]),
    (lambda: ImplicitModel.from_matrices(A.tolist(), B, C), TypeError, ["A", "list"]),
    (lambda: ImplicitModel.from_matrices(A, None, C), TypeError, ["B", "NoneType"]),
    (lambda: ImplicitModel.from_matrices(A, B[:, :0], C), ValueError, ["B", "size 0", "(6, 0)"]),
    (lambda: ImplicitModel.from_matrices(A, B, C, state_bias=BIAS[0]), ValueError, ["both"]),
    (lambda: ImplicitModel.from_matrices(A, B, C, state_bias=BIAS[1], output_bias=BIAS[1]),
     ValueError, ["state_bias", "(n=6)", "(2,)"]),
    (lambda: ImplicitModel.from_matrices(A, B, C, constraint="rov"), ValueError, ["'row'"]),
    (lambda: ImplicitModel.from_matrices(A, B, C, kappa=2), ValueError, ["kappa", "2"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


@pytest.mark.parametrize("constraint", [c for c in CONSTRAINTS if c])
@pytest.mark.parametrize(("value", "error", "fragments"), [
    (mat(np.eye(3)), ValueError, ["A", "(n=6, n=6)", "(3, 3)"]),
    (mat(np.eye(6))[:, :5], ValueError, ["(n=6, n=6)", "(6, 5)"]),
    (mat(np.full((6, 6), np.inf)), ValueError, ["A must be finite", "36"]),
    (mat(np.eye(6)).float(), TypeError, ["float32", "float64"]),
])
def test_a_wrong_assignment_is_refused_and_changes_nothing(constraint, value, error, fragments):
    model = model_with(constraint=constraint)
    before = model.A.detach().clone()
    rejects(lambda: setattr(model, "A", value), error, *fragments)
    assert torch.equal(model.A, before)
