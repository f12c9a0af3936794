"""The implicit recurrent cell against an unrolled loop, and as torch code uses it."""

import warnings

import numpy as np
import pytest
import torch
from helpers import PHI, draw, mat, rejects, unrolled
from hypothesis import given
from hypothesis import strategies as st
from rnn_cases import TORCH, cell_with, close, gradients, leaves, reference
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from idl_lab.equilibrium import Implicit, OneStep, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.fixed_point.solution import ConvergenceWarning

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
    assert again.stats.steps <= 2 < solution.stats.steps and len(again.trace.states) <= 3


@pytest.mark.parametrize("phi", PHI)
def test_every_activation(phi):
    assert cell_with(activation=phi)(draw(0, 2, 3, 2))[0].isfinite().all()


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


@pytest.mark.parametrize("name", ["free_A", "B", "C", "D", "state_bias", "output_bias"])
def test_a_parameter_that_is_not_finite_is_named(name):
    cell = cell_with(bias=True)
    with torch.no_grad():
        getattr(cell.layer, name).view(-1)[-1] = NAN
    rejects(lambda: cell(draw(0, 2, 3, 2)), ValueError, f"{name} must be finite")


CELL, NAN = cell_with(), float("nan")
U, H = draw(1, 4, 3, 2), draw(2, 4, 3)
PACKED = pack_padded_sequence(U, mat([3, 3, 2, 1]).long(), batch_first=True)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: cell_with(p=0), ValueError, ["input_dim", "at least 1"]),
    (lambda: cell_with(hidden=0), ValueError, ["hidden_dim must", "at least 1"]),
    (lambda: cell_with(n=2.5), TypeError, ["implicit_hidden_dim", "2.5"]),
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
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
