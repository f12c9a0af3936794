"""Compositions compute what composing the models as functions computes, and say when they can't."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from helpers import draw, mat, rejects
from hypothesis import given
from hypothesis import strategies as st

from idl_lab import ImplicitModel, ImplicitRNN
from idl_lab.activations import Activation
from idl_lab.compose import add, cascade, feedback, multiply, parallel, precompose
from idl_lab.equilibrium import OneStep
from idl_lab.fixed_point import GaussSeidel, Picard
from idl_lab.networks import blockwise
from idl_lab.well_posedness import Condition

SOLVER = Picard(rtol=1e-13, max_steps=2000)


def make(seed, p, q, n, phi="relu", bias=False, feedthrough=True, norm=0.6, **options):
    """A model with random matrices and ‖A‖∞ = norm."""
    A = draw(seed, n, n)
    A *= norm / A.abs().sum(1).max()
    biases = {"state_bias": draw(seed + 4, n), "output_bias": draw(seed + 5, q)} if bias else {}
    D = draw(seed + 3, q, p) if feedthrough else None
    return ImplicitModel.from_matrices(
        A, draw(seed + 1, n, p), draw(seed + 2, q, n), D, activation=phi,
        **{"solver": SOLVER, **biases, **options})


# Every way to have or not have a bias and a feedthrough, with one activation and with two.
TWO = list(itertools.product([False, True], repeat=2))
CASES = list(itertools.product([("relu", "relu"), ("relu", "tanh"), ("sigmoid", "elu")], TWO, TWO))


def pair(case, sizes, seed=0):
    return [make(seed + 10 * k, *size, phi, bias, feedthrough)
            for k, (size, phi, bias, feedthrough) in enumerate(zip(sizes, *case, strict=True))]


def close(one, two, tol=1e-10):
    return one.shape == two.shape and torch.allclose(one, two, rtol=0, atol=tol)


# ---- equal to composing the functions -------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_cascade(case):
    one, two = pair(case, [(3, 4, 5), (4, 2, 6)])
    both, U = cascade(one, two), draw(99, 7, 3)
    assert close(both(U), two(one(U)))
    X1, X2 = one.equilibrium(U).value, two.equilibrium(one(U)).value
    assert close(both.equilibrium(U).value, torch.cat([X2, X1], 1))
    assert (both.D is not None) == all(case[2]) and (both.state_bias is not None) == any(case[1])


@pytest.mark.parametrize("case", CASES)
def test_parallel_and_add(case):
    one, two = pair(case, [(3, 4, 5), (3, 4, 6)])
    beside, total, U = parallel(one, two), add(one, two), draw(99, 7, 3)
    assert close(beside(U), torch.cat([one(U), two(U)], 1))
    assert close(total(U), one(U) + two(U))
    for model in (beside, total):
        assert (model.D is not None) == any(case[2])
        assert (model.output_bias is not None) == any(case[1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("feedthrough", [False, True])
def test_products_with_a_matrix(bias, feedthrough):
    model, U = make(0, 3, 4, 5, "tanh", bias, feedthrough), draw(99, 7, 3)
    M, N, V = draw(1, 2, 4), draw(2, 3, 6), draw(3, 7, 6)
    assert close(multiply(M, model)(U), model(U) @ M.T)
    assert close(precompose(model, N)(V), model(V @ N.T))
    assert (multiply(M, model).D is None) == (precompose(model, N).D is None) == (not feedthrough)
    assert (multiply(M, model).state_bias is None) == (not bias)


def outputs_by_looping(model, F, U, steps=400):
    """ŷ ← the model's output at u + Fŷ until nothing moves: numbers in, numbers out."""
    Y = torch.zeros_like(U[..., :1]).expand(*U.shape[:-1], len(F.T))
    for _ in range(steps):
        Y, before = model(U + Y @ F.T).detach(), Y
        if torch.equal(Y, before):
            break
    return Y


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("feedthrough", [False, True])
@pytest.mark.parametrize("phi", ["relu", "tanh"])
def test_feedback_is_the_loop(bias, feedthrough, phi):
    model, U = make(0, 3, 2, 5, phi, bias, feedthrough, norm=0.3), draw(99, 7, 3)
    F = 0.02 * draw(1, 3, 2)
    closed = feedback(model, F)
    assert closed.certificate().well_posed
    Y = closed(U)
    assert close(Y, model(U + Y @ F.T)) and close(Y, outputs_by_looping(model, F, U))
    assert (closed.D is None) == (not feedthrough) and (closed.state_bias is None) == (not bias)
    assert close(feedback(model, 0 * F)(U), model(U), 1e-13)


def test_feedback_with_a_loop_gain_above_one():
    """With a feedthrough of 3 and F = −1 the loop by hand diverges; the closed form does not."""
    one = torch.ones(1, 1, device="cpu", dtype=torch.float64)
    model = ImplicitModel.from_matrices(0 * one, one, one, 3 * one, activation="relu",
                                        solver=SOLVER)
    U = mat([[4.0], [-4.0]])
    # y = max(u − y, 0) + 3(u − y): 4(u − y) where u > y, so y = 4u/5; else y = 3u/4.
    assert close(feedback(model, -one)(U), mat([[3.2], [-3.0]]), 1e-12)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 3), (0,)])
def test_leading_dimensions(lead):
    one, two, U = make(0, 3, 3, 4, bias=True), make(10, 3, 3, 5, "tanh"), draw(9, *lead, 3)
    F = 0.02 * draw(1, 3, 3)
    for composed, wanted in ((cascade(one, two), two(one(U))), (add(one, two), one(U) + two(U)),
                             (parallel(one, two), torch.cat([one(U), two(U)], -1))):
        assert close(composed(U), wanted)
    closed = feedback(one, F)
    assert close(closed(U), one(U + closed(U) @ F.T))


@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
def test_any_sizes(widths, data):
    """A chain of any length and widths; what stands beside it; both with one matrix or another."""
    chain = [make(10 * k, p, q, data.draw(st.integers(1, 4)),
                  data.draw(st.sampled_from(["relu", "tanh"])), data.draw(st.booleans()),
                  data.draw(st.booleans()))
             for k, (p, q) in enumerate(zip(widths, widths[1:], strict=False))]
    U = draw(7, data.draw(st.integers(1, 3)), widths[0])
    Y = U
    for model in chain:
        Y = model(Y)
    whole = cascade(*chain)
    assert close(whole(U), Y, 1e-9)
    beside = make(77, widths[0], widths[-1], 2)
    assert close(add(whole, beside, beside)(U), Y + 2 * beside(U), 1e-9)
    assert close(multiply(draw(5, 2, 2 * widths[-1]), parallel(whole, beside))(U),
                 torch.cat([Y, beside(U)], 1) @ draw(5, 2, 2 * widths[-1]).T, 1e-8)


def test_cascade_is_associative():
    one, two, three = make(0, 3, 4, 5, bias=True), make(10, 4, 2, 3, "tanh"), make(20, 2, 6, 4)
    U = draw(9, 5, 3)
    left, right = cascade(cascade(one, two), three), cascade(one, cascade(two, three))
    at_once = cascade(one, two, three)
    for model in (left, right):
        assert close(model(U), three(two(one(U)))) and model.activation(draw(1, 12)).shape == (12,)
        for name in "ABCD":
            assert close(getattr(model, name), getattr(at_once, name), 1e-12)


def test_a_composition_with_itself():
    """Blocks of activations beside the same blocks: not one block twice as long."""
    both, U = cascade(make(0, 3, 2, 5, "relu"), make(10, 2, 3, 4, "tanh")), draw(9, 5, 3)
    assert close(cascade(both, both)(U), both(both(U)))
    assert close(add(both, both, both)(U), 3 * both(U))


# ---- gradients ------------------------------------------------------------------------------

COMPOSED = {
    "cascade": lambda one, two: cascade(one, two),
    "parallel": lambda one, two: parallel(one, two),
    "add": lambda one, two: add(one, two),
    "multiply": lambda one, _: multiply(draw(1, 3, 2), one),
    "precompose": lambda one, _: precompose(one, draw(1, 2, 3)),
    "feedback": lambda one, _: feedback(one, 0.02 * draw(1, 2, 2)),
}


@pytest.mark.parametrize("rule", COMPOSED)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_every_parameter_and_the_input(rule, bias):
    model = COMPOSED[rule](make(0, 2, 2, 3, "tanh", bias, norm=0.4),
                           make(10, 2, 2, 2, "sigmoid", norm=0.4))
    names, values = zip(*model.named_parameters(), strict=True)
    assert all(value.requires_grad for value in values)

    def outputs(U, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (U,))

    U = draw(9, 2, model.B.shape[1]).requires_grad_()
    assert torch.autograd.gradcheck(outputs, (U, *values), atol=1e-6)


# ---- well-posedness -------------------------------------------------------------------------


def test_a_cascade_is_certified_by_its_perron_root_whatever_its_norm():
    one = make(0, 8, 8, 12, norm=0.9)
    two, U = make(10, 8, 8, 12, "tanh", norm=0.5), draw(9, 6, 8)
    both = cascade(one, two)
    parts = [model.certificate() for model in (one, two)]
    whole = both.certificate()
    assert all(part.condition is Condition.NORM for part in parts)
    assert whole.condition is Condition.PERRON and whole.inf_norm > 10
    assert whole.perron.value == pytest.approx(max(part.perron.value for part in parts), rel=1e-9)
    assert close(both(U), two(one(U)), 1e-9)


@pytest.mark.parametrize("rule", [parallel, add])
def test_side_by_side_the_norm_is_the_larger(rule):
    both = rule(make(0, 3, 2, 4, norm=0.3), make(10, 3, 2, 5, norm=0.8))
    assert both.certificate().inf_norm == pytest.approx(0.8)


def test_feedback_may_lose_well_posedness_and_says_so():
    model = make(0, 3, 2, 5, feedthrough=False)
    assert feedback(model, 0.001 * draw(1, 3, 2)).certificate().well_posed
    assert feedback(model, draw(1, 3, 2)).certificate().condition is Condition.NONE


@pytest.mark.parametrize("rule", [cascade, parallel, add])
def test_networks_read_off_are_composed_although_their_solvers_blocks_are_their_own(rule):
    torch.manual_seed(0)
    nets = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
            .double() for _ in range(2)]
    one, two = (ImplicitModel.from_network(net, solver=GaussSeidel(1e-9, blocks=(8,), max_steps=50))
                for net in nets)
    together, U = rule(one, two), draw(3, 5, 8)
    first, second = (net(U) for net in nets)
    wanted = {cascade: nets[1](first), parallel: torch.cat([first, second], dim=1),
              add: first + second}[rule]
    assert together.solver == Picard(1e-9, max_steps=50)
    assert torch.allclose(together(U), wanted, atol=1e-8)


# ---- nothing is shared ----------------------------------------------------------------------


@pytest.mark.parametrize("rule", COMPOSED)
def test_models_are_left_alone_and_share_nothing(rule):
    one, two = make(0, 2, 2, 3, bias=True, adjoint=OneStep()), make(10, 2, 2, 2, "tanh")
    before = [M.detach().clone() for m in (one, two) for M in m.parameters()]
    composed, alone = COMPOSED[rule](one, two), cascade(one)
    for model in (composed, alone):
        assert model.solver == SOLVER and model.adjoint == OneStep() and model.constraint is None
        with torch.no_grad():
            for M in model.parameters():
                M.fill_(7.0)
    after = [M for m in (one, two) for M in m.parameters()]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_the_constraint_is_applied_before():
    model = ImplicitModel(3, 3, 4, kappa=0.2, device="cpu", dtype=torch.float64)
    model.A = draw(0, 4, 4)
    both = cascade(model, model)
    assert torch.equal(both.A[4:, 4:], model.A) and torch.equal(both.A[:4, :4], model.A)
    assert both.constraint is None


def test_the_parts_dtype_is_the_compositions():
    one, two = make(0, 3, 2, 4).float(), make(10, 2, 3, 5, "tanh").float()
    F = 0.01 * draw(1, 3, 2).float()
    for model in (cascade(one, two), parallel(one, one), feedback(one, F)):
        assert {M.dtype for M in model.parameters()} == {torch.float32}


# ---- refusals -------------------------------------------------------------------------------

M34 = make(0, 3, 4, 5)  # three inputs, four outputs


def spoilt(name):
    """M34 with a NaN in one of its matrices or biases."""
    model = make(0, 3, 4, 5, bias=True)
    with torch.no_grad():
        getattr(model, name).view(-1)[0] = torch.nan
    return model


# What is no matrix, whichever rule is given it.
NO_MATRIX = [
    ([[1.0]], TypeError, ["torch.Tensor", "list"]),
    (np.ones((4, 4)), TypeError, ["torch.Tensor", "ndarray"]),
    (None, TypeError, ["torch.Tensor", "NoneType"]),
    ("M", TypeError, ["torch.Tensor", "str"]),
    (0.1, TypeError, ["torch.Tensor", "float"]),
    ((row for row in [1.0]), TypeError, ["torch.Tensor", "generator"]),
    (torch.ones(4, 4, dtype=torch.int64), TypeError, ["floating-point", "int64"]),
    (torch.ones(4, 4, dtype=torch.bool), TypeError, ["floating-point", "bool"]),
    (torch.ones(4, 4, dtype=torch.complex128), TypeError, ["floating-point", "complex128"]),
    (torch.nested.nested_tensor([draw(0, 4), draw(1, 3)], layout=torch.jagged), TypeError,
     ["one matrix", "nested"]),
    (draw(0, 4), ValueError, ["shape", "(4,)"]),
    (draw(0, 1, 4, 4), ValueError, ["shape", "(1, 4, 4)"]),
    (torch.ones(4, 4).double().to("meta"), ValueError, ["on meta", "wanted on cpu"]),
    (torch.inf * draw(0, 4, 4), ValueError, ["finite"]),
]


@pytest.mark.parametrize(("value", "error", "fragments"), NO_MATRIX)
@pytest.mark.parametrize(("name", "call"), [
    ("M", lambda M, model: multiply(M, model)), ("M", lambda M, model: precompose(model, M)),
    ("F", lambda F, model: feedback(model, F))], ids=["multiply", "precompose", "feedback"])
def test_no_matrix(name, call, value, error, fragments):
    rejects(lambda: call(value, make(0, 4, 4, 5)), error, name, *fragments)


@pytest.mark.parametrize("value", [
    None, 3, "model", draw(0, 3, 3), np.ones((3, 3)), torch.nn.ReLU(), ImplicitModel,
    ImplicitRNN(3, 3, 4, 4, device="cpu")], ids=lambda value: type(value).__name__)
def test_no_model(value):
    name = type(value).__name__
    for rule in (cascade, parallel, add):
        rejects(lambda rule=rule: rule(value), TypeError, "model must be", f"got {name}")
        rejects(lambda rule=rule: rule(M34, value), TypeError, "model 2", f"got {name}")
    for call in (lambda: multiply(draw(0, 3, 3), value), lambda: precompose(value, draw(0, 3, 3)),
                 lambda: feedback(value, draw(0, 3, 3))):
        rejects(call, TypeError, "model must be", f"got {name}")


@pytest.mark.parametrize("name", ["free_A", "B", "C", "D", "state_bias", "output_bias"])
def test_a_model_that_holds_nan_is_named(name):
    letter = {"free_A": "A", "state_bias": "b", "output_bias": "c"}.get(name, name)
    rejects(lambda: parallel(M34, spoilt(name)), ValueError, f"{letter} of model 2", "1 NaN")


@pytest.mark.parametrize("rule", COMPOSED)
def test_shapes_alone_compose_on_the_meta_device(rule):
    one, two = make(0, 2, 2, 3), make(10, 2, 2, 2, "tanh")
    wanted = COMPOSED[rule](one, two)
    with torch.device("meta"):
        M = torch.empty(3, 2, dtype=torch.float64)
    given = {"multiply": lambda m: multiply(M, m), "precompose": lambda m: precompose(m, M.mT),
             "feedback": lambda m: feedback(m, M[:2])}
    one, two = one.to("meta"), two.to("meta")
    found = given[rule](one) if rule in given else COMPOSED[rule](one, two)
    assert all(p.is_meta for p in found.parameters())
    assert [p.shape for p in found.parameters()] == [p.shape for p in wanted.parameters()]


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_a_sparse_matrix_is_as_good(layout):
    M, model = draw(0, 4, 4, scale=0.05), make(0, 4, 4, 5)
    with warnings.catch_warnings():  # sparse CSR says that it is in beta
        warnings.simplefilter("ignore")
        thin = M.to_sparse(layout=layout)
    for rule in (multiply, lambda M, model: precompose(model, M),
                 lambda M, model: feedback(model, M)):
        for one, other in zip(rule(M, model).parameters(), rule(thin, model).parameters(),
                              strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: cascade(M34, M34), ValueError, ["model 1 has 4 outputs", "model 2 takes 3 inputs"]),
    (lambda: cascade(M34, make(1, 4, 2, 3), M34), ValueError,
     ["model 2 has 2 outputs", "model 3 takes 3 inputs"]),
    (lambda: parallel(M34, M34, make(1, 5, 2, 3)), ValueError,
     ["number of inputs", "model 1 has 3", "model 3 has 5"]),
    (lambda: add(M34, make(1, 5, 4, 3)), ValueError,
     ["number of inputs", "model 1 has 3", "model 2 has 5"]),
    (lambda: add(M34, make(1, 3, 2, 3)), ValueError,
     ["number of outputs", "model 1 has 4", "model 2 has 2"]),
    (lambda: multiply(draw(0, 2, 3), M34), ValueError, ["M", "q=4", "(2, 3)"]),
    (lambda: multiply(draw(0, 4), M34), ValueError, ["M", "q=4", "(4,)"]),
    (lambda: precompose(M34, draw(0, 4, 2)), ValueError, ["M", "p=3", "(4, 2)"]),
    (lambda: feedback(M34, draw(0, 4, 3)), ValueError, ["F", "p=3, q=4", "(4, 3)"]),
    (lambda: feedback(M34, float("nan") * draw(0, 3, 4)), ValueError, ["F", "NaN"]),
    (lambda: multiply(M34, draw(0, 2, 4)), TypeError, ["model", "got Tensor"]),
    (lambda: precompose(draw(0, 3, 2), M34), TypeError, ["model", "got Tensor"]),
    (lambda: feedback(M34, 0.1), TypeError, ["F", "float"]),
    (lambda: cascade([M34, M34]), TypeError, ["got list", "*models"]),
    (lambda: add(M34, torch.nn.ReLU()), TypeError, ["model 2", "got ReLU"]),
    (lambda: add(), TypeError, ["first"]),
    (lambda: cascade(M34, make(1, 4, 2, 3).float()), TypeError,
     ["A of model 2", "float32", "float64"]),
    (lambda: multiply(draw(0, 2, 4).float(), M34), TypeError, ["M", "float32", "float64"]),
    (lambda: parallel(M34, make(1, 3, 4, 5).to("meta")), ValueError,
     ["A of model 2", "meta", "cpu"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_feedback_that_leaves_the_output_undetermined_is_refused(dtype, size):
    """DF has the eigenvalue 1, to rounding, whatever the sizes of D and F."""
    D = size * draw(0, 3, 3)
    F = torch.linalg.inv(D) @ mat(np.diag([1.0, 0.5, -2.0]))
    model = ImplicitModel.from_matrices(0 * D, D, D, D).to(dtype)
    rejects(lambda: feedback(model, F.to(dtype)), ValueError, "I − DF", "singular value",
            str(dtype), "feedthrough")
    assert feedback(model, (0.9 * F).to(dtype)).D is not None


def test_feedback_that_cancels_exactly_is_refused():
    one = torch.ones(1, 1, device="cpu", dtype=torch.float64)
    model = ImplicitModel.from_matrices(0 * one, one, one, one)
    rejects(lambda: feedback(model, one), ValueError, "0.00e+00")


def test_a_users_own_activation_in_the_middle():
    half = Activation("half", lambda S: S / 2, 0.5, True)
    one, two = make(0, 3, 2, 4, half), make(10, 2, 3, 5, blockwise([("relu", 2), (half, 3)]))
    U = draw(9, 5, 3)
    assert close(cascade(one, two)(U), two(one(U)))
    assert cascade(one, two).activation.name == "relu ×2, half ×7"


def test_where_slopes_differ_the_certificate_takes_the_steepest():
    """sigmoid (slope 1/4) and a norm of 3 is certified by it alone, but not beside a ReLU."""
    steep, flat = make(0, 3, 2, 4, norm=0.5), make(10, 3, 2, 4, "sigmoid", norm=3.0)
    assert steep.certificate().well_posed and flat.certificate().well_posed
    by_size = (Condition.NORM, Condition.PERRON)
    assert add(steep, flat).certificate().condition not in by_size
