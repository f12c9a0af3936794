"""Implicit recurrent networks against an unrolled loop, and as torch code uses them."""

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
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import idl_lab
from idl_lab import ImplicitRNN, ImplicitRNNCell, rnn
from idl_lab.equilibrium import Implicit, OneStep, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.well_posedness import Condition

TORCH = {"relu": torch.relu, "tanh": torch.tanh}


def options_with(seed=0, **options):
    return {"device": "cpu", "dtype": torch.float64, "solver": Picard(rtol=1e-13),
            "generator": torch.Generator("cpu").manual_seed(seed), "kappa": 0.8, **options}


def cell_with(seed=0, p=2, hidden=3, n=5, **options):
    return ImplicitRNNCell(p, hidden, n, **options_with(seed, **options))


def rnn_with(seed=0, p=2, q=2, hidden=3, n=5, **options):
    return ImplicitRNN(p, q, hidden, n, **options_with(seed, **options))


def leaves(module):
    """Copies of the parameters, by the letter they have in the equations."""
    return {name.replace("free_A", "A").split(".")[-1]:
            M.detach().clone().requires_grad_() for name, M in module.named_parameters()}


def reference(P, u, h, phi, kappa, steps=200):
    """Plain torch, all of it in autograd: time outside, Picard's steps inside."""
    A = P["A"] * torch.clamp(kappa / P["A"].abs().sum(dim=1).amax(), max=1)
    outputs = []
    for t in range(u.shape[1]):
        v = torch.cat([u[:, t], h], dim=1)
        x = torch.zeros(len(u), len(A), device="cpu", dtype=u.dtype)
        for _ in range(steps):
            x = TORCH[phi](x @ A.T + v @ P["B"].T + P.get("state_bias", 0))
        h = x @ P["C"].T + P.get("output_bias", 0)
        h = h + v @ P["D"].T if "D" in P else h
        outputs.append(h)
    return torch.stack(outputs, dim=1), h


def gradients(loss, tensors):
    return torch.autograd.grad(loss, list(tensors))


def close(one, two, atol=1e-9):
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in zip(one, two, strict=True))


# ---- what it computes -----------------------------------------------------------------------


@pytest.mark.parametrize("phi", TORCH)
@pytest.mark.parametrize(("bias", "feedthrough"), [(False, True), (True, True), (True, False),
                                                   (False, False)])
def test_values_and_gradients_are_those_of_the_unrolled_network(phi, bias, feedthrough):
    cell = cell_with(activation=phi, bias=bias, feedthrough=feedthrough)
    u, h0 = draw(1, 4, 6, 2).requires_grad_(), draw(2, 4, 3).requires_grad_()
    P = leaves(cell)
    wanted, last = reference(P, u, h0, phi, 0.8)
    outputs, h = cell(u, h0)
    assert close([outputs, h], [wanted, last], 1e-11)
    weights = draw(3, 4, 6, 3)
    ours = gradients((outputs * weights).sum() + h.square().sum(), [*cell.parameters(), u, h0])
    theirs = gradients((wanted * weights).sum() + last.square().sum(), [*P.values(), u, h0])
    assert close(ours, theirs) and all(g.abs().max() > 1e-3 for g in ours)


def test_a_numpy_loop_gives_the_same():
    cell, u = cell_with(activation="elu", bias=True), draw(4, 3, 5, 2)
    A, B, C, D, b, c = (getattr(cell.layer, name).detach().numpy() for name in (
        "A", "B", "C", "D", "state_bias", "output_bias"))
    h = np.zeros((3, 3))
    for t in range(5):
        v = np.hstack([u.numpy()[:, t], h])
        h = unrolled(A, v @ B.T + b, "elu") @ C.T + v @ D.T + c
    assert cell(u)[1].detach().numpy() == pytest.approx(h, abs=1e-10)


def test_without_a_the_cell_is_torchs_own():
    """κ = 0, no feedthrough and C the identity: h = tanh(B[u; h] + b), which is torch.nn.RNN."""
    cell = cell_with(p=2, hidden=4, n=4, kappa=0.0, activation="tanh", bias=True,
                     feedthrough=False)
    theirs = nn.RNN(2, 4, batch_first=True, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        cell.layer.C.copy_(mat(np.eye(4)))
        cell.layer.output_bias.zero_()
        theirs.weight_ih_l0.copy_(cell.layer.B[:, :2])
        theirs.weight_hh_l0.copy_(cell.layer.B[:, 2:])
        theirs.bias_ih_l0.copy_(cell.layer.state_bias)
        theirs.bias_hh_l0.zero_()
    u, h0 = draw(5, 3, 7, 2), draw(6, 3, 4)
    wanted, last = theirs(u, h0[None])
    outputs, h = cell(u, h0)
    assert outputs.shape == wanted.shape and close([outputs, h], [wanted, last[0]], 1e-12)
    packed = pack_padded_sequence(u, mat([3, 7, 1]).long(), batch_first=True,
                                  enforce_sorted=False)
    (ours, h), (wanted, last) = cell(packed, h0), theirs(packed, h0[None])
    assert type(ours) is type(wanted) and torch.equal(ours.batch_sizes, wanted.batch_sizes)
    assert close([ours.data, h], [wanted.data, last[0]], 1e-12)


@pytest.mark.parametrize("constraint", ["scale", "row", "project", "perron", "triangular", None])
def test_gradcheck(constraint):
    model = rnn_with(hidden=2, n=3, activation="tanh", constraint=constraint, bias=True)
    if constraint is None:
        model.recurrent.layer.A.data.mul_(0.3)
    u, h0 = draw(7, 2, 3, 2).requires_grad_(), draw(8, 2, 2).requires_grad_()
    names = [name for name, _ in model.named_parameters()]

    def call(u, h0, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)),
                                          (u, h0), {"lengths": [3, 2]})

    P = [M.detach().clone().requires_grad_() for M in model.parameters()]
    assert torch.autograd.gradcheck(call, (u, h0, *P))


@pytest.mark.parametrize("options", [
    {"adjoint": Unrolled()}, {"solver": Anderson(rtol=1e-13)},
    {"adjoint": Implicit(Anderson(rtol=1e-13))}])
def test_other_solvers_and_adjoints_give_the_same(options):
    u, results = draw(9, 3, 5, 2), []
    for given_options in ({}, options):
        cell = cell_with(**given_options)
        outputs, _ = cell(u)
        results.append([outputs, *gradients(outputs.square().sum(), cell.parameters())])
    assert close(*results)


def test_one_step_gradients_differ():
    u, results = draw(9, 3, 5, 2), []
    for adjoint in (Implicit(), OneStep()):
        cell = cell_with(adjoint=adjoint)
        results.append(gradients(cell(u)[0].square().sum(), [cell.layer.B])[0])
    assert not torch.allclose(*results, atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5),
                                                  (torch.bfloat16, 0.1)])
def test_dtypes(dtype, tolerance):
    exact, u = rnn_with(), draw(10, 3, 6, 2)
    model = copy.deepcopy(exact).to(dtype)
    # Rounding ends the solve; 16 bits say that they cannot do better, so they are not asked to.
    model.recurrent.layer.solver = Picard(0.04 if dtype == torch.bfloat16 else 1e-12)
    prediction = model(u.to(dtype))
    assert prediction.dtype == dtype
    assert torch.allclose(prediction.double(), exact(u), rtol=0, atol=tolerance)
    prediction.square().sum().backward()
    assert all(M.grad.dtype == dtype and M.grad.isfinite().all() for M in model.parameters())


@pytest.mark.parametrize("constraint", ["scale", "row"])
def test_a_low_rank_step_is_the_dense_one(constraint):
    low = cell_with(rank=2, constraint=constraint)
    full = cell_with(constraint=None)
    layer = low.layer
    with torch.no_grad():
        for name in ("A", "B", "C", "D"):
            getattr(full.layer, name).copy_(getattr(layer, name))
    u = draw(7, 3, 5, low.input_dim)
    assert torch.allclose(low(u)[0], full(u)[0], atol=1e-10)
    low(u)[0].square().sum().backward()
    assert all(p.grad.isfinite().all() for p in low.parameters())


# ---- the warm start -------------------------------------------------------------------------


def spied(monkeypatch, cold=False):
    """Count the steps of every solve of a sequence, with or without its warm start."""
    steps, solve = [], rnn.equilibrium

    def spy(*args, X0=None, **options):
        solution = solve(*args, X0=None if cold else X0, **options)
        steps.append(solution.stats.steps)
        return solution

    monkeypatch.setattr(rnn, "equilibrium", spy)
    return steps


def slow_inputs():
    """A signal that changes little from step to step, as signals do."""
    t = np.linspace(0, 0.2, 40)
    return mat(np.stack([np.sin(3 * t), np.cos(2 * t)], axis=1)[None].repeat(2, axis=0))


def test_a_warm_start_changes_nothing_but_the_number_of_steps(monkeypatch):
    results, counts = [], []
    for cold in (False, True):
        with monkeypatch.context() as patch:
            steps = spied(patch, cold)
            cell = cell_with(kappa=0.95, solver=Picard(1e-10), constraint="row")
            outputs, h = cell(slow_inputs())
            results.append([outputs, h, *gradients(outputs.square().sum(), cell.parameters())])
            counts.append(steps)
    assert close(*results, atol=1e-7)
    warm, cold = counts
    assert len(warm) == len(cold) == 40 and warm[0] == cold[0]
    assert sum(warm) < 0.9 * sum(cold)


def test_a_constant_input_is_solved_at_once_in_the_end(monkeypatch):
    steps = spied(monkeypatch)
    cell_with(kappa=0.5, solver=Picard(1e-6))(torch.ones(1, 60, 2, device="cpu").double())
    assert steps[0] > 5 and steps[-1] == 2  # the second measures the first one's image


def test_an_unrolled_gradient_starts_cold(monkeypatch):
    """Started at the solution it would see one step, and be a one-step gradient."""
    starts, solve = [], rnn.equilibrium
    monkeypatch.setattr(rnn, "equilibrium",
                        lambda *a, **k: starts.append(k["X0"]) or solve(*a, **k))
    cell_with(adjoint=Unrolled())(draw(0, 2, 3, 2))
    assert starts == [None] * 3
    starts.clear()
    cell_with()(draw(0, 2, 3, 2))
    assert starts[0] is None and [s.shape for s in starts[1:]] == [(2, 5)] * 2


# ---- sequences of different lengths ---------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_each_sequence_is_run_as_if_alone(lengths, seed):
    cell, m = cell_with(solver=Picard(1e-12)), len(lengths)
    u, h0 = draw(seed, m, 5, 2), draw(seed + 100, m, 3)
    outputs, h = cell(u, h0, lengths=lengths)
    packed = pack_padded_sequence(u, mat(lengths).long(), batch_first=True, enforce_sorted=False)
    again, last = cell(packed, h0)
    padded, read = pad_packed_sequence(again, batch_first=True, total_length=5)
    assert torch.equal(padded, outputs) and torch.equal(last, h) and read.tolist() == lengths
    for k, length in enumerate(lengths):
        alone, end = cell(u[k:k + 1, :length], h0[k:k + 1])
        assert close([outputs[k, :length], h[k]], [alone[0], end[0]])
        assert not outputs[k, length:].any()


@pytest.mark.parametrize("as_given", [list, tuple, torch.as_tensor, np.asarray])
def test_lengths_in_every_form(as_given):
    model, u = rnn_with(), draw(11, 3, 4, 2)
    alone = torch.cat([model(u[k:k + 1, :n]) for k, n in enumerate([2, 4, 1])])
    assert torch.allclose(model(u, lengths=as_given([2, 4, 1])), alone, atol=1e-10)


def test_padding_gets_no_gradient_and_all_else_the_exact_one():
    cell, u, h0 = cell_with(), draw(12, 3, 4, 2).requires_grad_(), draw(13, 3, 3).requires_grad_()
    lengths = [1, 4, 2]
    outputs, h = cell(u, h0, lengths=lengths)
    ours = gradients(outputs.sum() + h.square().sum(), [*cell.parameters(), u, h0])
    P, loss = leaves(cell), 0
    for k, length in enumerate(lengths):
        alone, end = reference(P, u[k:k + 1, :length], h0[k:k + 1], "relu", 0.8)
        loss = loss + alone.sum() + end.square().sum()
    assert close(ours, gradients(loss, [*P.values(), u, h0]))
    assert all(not ours[-2][k, length:].any() for k, length in enumerate(lengths))


def test_only_live_sequences_are_solved(monkeypatch):
    sizes, solve = [], rnn.equilibrium
    monkeypatch.setattr(rnn, "equilibrium",
                        lambda A, b, *a, **k: sizes.append(len(b)) or solve(A, b, *a, **k))
    cell_with()(draw(14, 4, 5, 2), lengths=[2, 5, 2, 3])
    assert sizes == [4, 4, 2, 1, 1]


def test_a_sorted_packed_batch_without_indices():
    cell, u = cell_with(), draw(15, 3, 4, 2)
    packed = pack_padded_sequence(u, mat([4, 2, 1]).long(), batch_first=True)
    outputs, h = cell(PackedSequence(packed.data, packed.batch_sizes))
    assert outputs.sorted_indices is None and close([h], [cell(u, lengths=[4, 2, 1])[1]])


def test_an_empty_batch_as_torch_has_it():
    u = draw(0, 0, 4, 2)
    outputs, h = cell_with()(u)
    assert outputs.shape == (0, 4, 3) and h.shape == (0, 3)
    assert cell_with()(u, lengths=[])[0].shape == (0, 4, 3)
    assert rnn_with()(u).shape == (0, 2)
    cell = cell_with()
    cell(u)[0].sum().backward()
    assert all(M.grad is None or not M.grad.any() for M in cell.parameters())


# ---- a step at a time, one sequence, as torch has them --------------------------------------


def test_steps_in_a_loop_are_the_sequence():
    cell, u = cell_with(), draw(16, 3, 5, 2)
    outputs, last = cell(u)
    h = None
    for t in range(5):
        h = cell(u[:, t], h)
        assert torch.allclose(h, outputs[:, t], atol=1e-10)
    theirs = nn.RNNCell(2, 3, device="cpu", dtype=torch.float64)
    assert h.shape == theirs(u[:, 0]).shape == last.shape
    assert cell(u[0, 0]).shape == theirs(u[0, 0]).shape == (3,)
    assert torch.allclose(cell(u[0, 0]), outputs[0, 0], atol=1e-10)


def test_step_gives_the_solve():
    cell, u = cell_with(), draw(17, 3, 2)
    h, solution = cell.step(u)
    assert solution.value.shape == (3, 5) and torch.allclose(h, cell(u), atol=1e-12)
    v = torch.cat([u, 0 * h], dim=1)
    assert torch.allclose(h, cell.layer.output(solution.value, v), atol=1e-12)
    _, again = cell.step(u, X0=solution.value, keep_states=True)
    assert again.stats.steps == 2 < solution.stats.steps and len(again.trace.states) == 3


def test_one_sequence_without_a_batch():
    model, x, h0 = rnn_with(), draw(18, 3, 5, 2), draw(19, 3, 3)
    assert model(x[1]).shape == (2,) and torch.allclose(model(x[1]), model(x)[1], atol=1e-10)
    assert torch.allclose(model(x[1], h0[1]), model(x, h0)[1], atol=1e-10)


def test_the_prediction_is_a_linear_of_the_last_valid_hidden_state():
    model, x = rnn_with(), draw(20, 3, 5, 2)
    packed = pack_padded_sequence(x, mat([2, 5, 4]).long(), batch_first=True, enforce_sorted=False)
    outputs, _ = model.recurrent(x)
    assert close([model(x)], [model.linear(outputs[:, -1])])
    wanted = model.linear(torch.stack([outputs[0, 1], outputs[1, 4], outputs[2, 3]]))
    assert close([model(x, lengths=[2, 5, 4]), model(packed)], [wanted, wanted])


def test_the_documented_example_of_torchidl_runs():
    model = ImplicitRNN(input_dim=1, output_dim=1, hidden_dim=128, implicit_hidden_dim=64,
                        device="cpu")
    x = draw(21, 100, 60, 1).float()
    output = model(x)
    assert output.shape == (100, 1) and output.dtype == torch.float32
    outputs, h = model.recurrent(x)
    assert outputs.shape == (100, 60, 128) and torch.equal(h, outputs[:, -1])
    assert {name for name, _ in model.named_children()} == {"recurrent", "linear"}


# ---- a torch module -------------------------------------------------------------------------


def test_a_plain_torch_loop_learns_to_remember():
    """The target is the first input, five steps ago."""
    model = rnn_with(p=1, q=1, hidden=6, n=6, activation="tanh", solver=Picard(1e-6), bias=True)
    x = draw(22, 64, 5, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x[:, 0])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_copies_and_state_dicts():
    model, x = rnn_with(bias=True), draw(23, 3, 4, 2)
    before = model(x).detach()
    twin, file = copy.deepcopy(model), io.BytesIO()
    assert torch.equal(twin(x), before)
    torch.save(model.state_dict(), file)
    with torch.no_grad():
        for M in twin.parameters():
            M.mul_(0.5)
    assert torch.equal(model(x), before) and not torch.equal(twin(x), before)
    file.seek(0)
    other = rnn_with(seed=9, bias=True, kappa=0.1)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), before)


def test_to_reaches_every_parameter():
    model = ImplicitRNN(2, 1, 3, 5, bias=True, device="cpu", dtype=torch.float32)
    assert model.to(torch.float64)(draw(0, 2, 3, 2)).dtype == torch.float64
    assert {M.dtype for M in model.parameters()} == {torch.float64}
    assert {M.device.type for M in model.to("meta").parameters()} == {"meta"}


def test_the_generator_draws_every_parameter():
    one, two, other = (list(rnn_with(s, bias=True).parameters()) for s in (1, 1, 2))
    torch.manual_seed(123)
    again = list(rnn_with(1, bias=True).parameters())
    assert all(map(torch.equal, one, two)) and all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))
    wide = rnn_with(hidden=400, q=20, n=2).linear
    for M in (wide.weight, wide.bias):
        assert 0.03 < float(M.detach().abs().max()) <= 0.05


def test_certificate_and_repr():
    model = rnn_with(kappa=0.5)
    assert model.certificate().condition is model.recurrent.certificate().condition
    assert model.certificate().condition is Condition.NORM
    for fragment in ("2, 3, 5", "kappa=0.5", "Picard(rtol=1e-13", "out_features=2"):
        assert fragment in repr(model)


@pytest.mark.parametrize("phi", PHI)
def test_every_activation(phi):
    assert cell_with(activation=phi)(draw(0, 2, 3, 2))[0].isfinite().all()


def test_public_names():
    assert idl_lab.ImplicitRNN is ImplicitRNN and idl_lab.ImplicitRNNCell is ImplicitRNNCell
    assert {"ImplicitRNN", "ImplicitRNNCell"} <= set(idl_lab.__all__)


# ---- what goes wrong ------------------------------------------------------------------------


def test_one_warning_for_a_sequence():
    cell = cell_with(solver=Picard(rtol=1e-12, max_steps=2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cell(draw(0, 2, 7, 2))
    (warning,) = caught
    assert issubclass(warning.category, ConvergenceWarning) and warning.filename == __file__
    assert "7 solves of the time steps of a sequence stopped early" in str(warning.message)


def test_a_matrix_that_is_not_well_posed_ends_with_a_warning():
    cell = cell_with(constraint=None, solver=Picard(max_steps=50))
    cell.layer.A.data.fill_(1.0)
    with pytest.warns(ConvergenceWarning, match="stopped early"):
        outputs, _ = cell(draw(0, 2, 2, 2))
    assert outputs.shape == (2, 2, 3)


def test_a_recurrence_that_overflows_says_where():
    cell = cell_with()
    with torch.no_grad():
        cell.layer.D.copy_(1e200 * torch.ones_like(cell.layer.D))
    rejects(lambda: cell(torch.ones(1, 9, 2, device="cpu").double()), FloatingPointError,
            "overflowed at time step 1", "not the recurrence")


CELL, MODEL = cell_with(), rnn_with()
U, H = draw(1, 4, 3, 2), draw(2, 4, 3)
PACKED = pack_padded_sequence(U, mat([3, 3, 2, 1]).long(), batch_first=True)
NAN = float("nan")


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: cell_with(p=0), ValueError, ["input_dim", "at least 1"]),
    (lambda: cell_with(hidden=0), ValueError, ["hidden_dim must", "at least 1"]),
    (lambda: cell_with(n=2.5), TypeError, ["implicit_hidden_dim", "2.5"]),
    (lambda: rnn_with(q=0), ValueError, ["output_dim", "at least 1"]),
    (lambda: rnn_with(kappa=1), ValueError, ["kappa", "< 1"]),
    (lambda: rnn_with(mitr=3), TypeError, ["mitr"]),
    (lambda: CELL(U[:, :, :1]), ValueError, ["u", "(batch, time, p=2)", "(4, 3, 1)"]),
    (lambda: CELL(U[:, 0, :1]), ValueError, ["u", "(..., p=2)", "(4, 1)"]),
    (lambda: CELL(U[None]), ValueError, ["u", "(batch, time, p=2)", "(1, 4, 3, 2)"]),
    (lambda: CELL(U[:, :0]), ValueError, ["u", "at least one time step", "(4, 0, 2)"]),
    (lambda: CELL(U.float()), TypeError, ["u is torch.float32", "float64"]),
    (lambda: CELL(U * NAN), ValueError, ["u must be finite"]),
    (lambda: CELL(U.tolist()), TypeError, ["u must be a torch.Tensor", "list"]),
    (lambda: CELL(U, H[:3]), ValueError, ["h must have shape (4, 3)", "(3, 3)"]),
    (lambda: CELL(U, H[None]), ValueError, ["h must have shape (4, 3)", "(1, 4, 3)"]),
    (lambda: CELL(U[:, 0], H[0]), ValueError, ["h must have shape (4, 3)", "(3,)"]),
    (lambda: CELL(U, H.float()), TypeError, ["h is torch.float32"]),
    (lambda: CELL(U, (H, H)), TypeError, ["h must be a torch.Tensor", "tuple"]),
    (lambda: CELL(PACKED, H[:2]), ValueError, ["h must have shape (4, 3)", "(2, 3)"]),
    (lambda: CELL(PACKED.float()), TypeError, ["u.data is torch.float32"]),
    (lambda: CELL(PACKED, lengths=[3, 3, 2, 1]), ValueError, ["lengths", "packed"]),
    (lambda: CELL(U[:, 0], lengths=[1] * 4), ValueError, ["lengths", "one time step"]),
    (lambda: CELL(U, lengths=[3, 0, 1, 1]), ValueError, ["between 1 and", "3", "got 0"]),
    (lambda: CELL(U, lengths=[3, 4, 1, 1]), ValueError, ["between 1 and", "got 4"]),
    (lambda: CELL(U, lengths=[3]), ValueError, ["lengths must have shape (4,)", "(1,)"]),
    (lambda: CELL(U, lengths=[1.0] * 4), TypeError, ["lengths", "whole numbers", "float"]),
    (lambda: CELL(U, lengths=[True] * 4), TypeError, ["lengths", "bool"]),
    (lambda: CELL(U, lengths="long"), TypeError, ["lengths", "'long'"]),
    (lambda: CELL(U, lengths=3), ValueError, ["lengths must have shape (4,)", "()"]),
    (lambda: CELL.step(U[:, 0], X0=H), ValueError, ["X0", "(4, 5)", "(4, 3)"]),
    (lambda: MODEL(U[0, 0]), ValueError, ["x", "(batch, time, input) or (time, input)", "(2,)"]),
    (lambda: MODEL(U[None]), ValueError, ["x", "(1, 4, 3, 2)"]),
    (lambda: MODEL(U[0, :0]), ValueError, ["at least one time step"]),
    (lambda: MODEL(U[0], lengths=[3]), ValueError, ["lengths", "(3, 2)"]),
    (lambda: MODEL(U[0], H), ValueError, ["h must have shape (3,)", "(4, 3)"]),
    (lambda: MODEL(U.numpy()), TypeError, ["x must be a torch.Tensor", "ndarray"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
