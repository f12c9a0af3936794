"""Layers and directions against loops over time written out, and against torch.nn.RNN itself."""

import inspect
import itertools
import warnings

import pytest
import torch
from helpers import draw, mat, rejects
from hypothesis import given
from hypothesis import strategies as st
from rnn_cases import cell_with, close, gradients, leaves, options_with, reference, stack_with
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from idl_lab.equilibrium import Unrolled
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.rnn import ImplicitRNNStack
from idl_lab.well_posedness import Condition


def written_out(P, u, h0, phi="tanh", kappa=0.8):
    """One sequence u (time, p) through layers of directions P[k][d]; h0 is flat, as torch's."""
    data, ends, starts = u, [], iter(h0)
    for layer in P:
        sides = []
        for d, parameters in enumerate(layer):
            way = data.flip(0) if d else data
            outputs, end = reference(parameters, way[None], next(starts)[None], phi, kappa)
            sides.append(outputs[0].flip(0) if d else outputs[0])
            ends.append(end[0])
        data = torch.cat(sides, dim=1)
    return data, torch.stack(ends)


def by_layer(items, directions):
    items = iter(items)
    return [list(layer) for layer in iter(lambda: list(itertools.islice(items, directions)), [])]


SHAPES = list(itertools.product((1, 2, 3), (False, True)))


@pytest.mark.parametrize(("layers", "both"), SHAPES)
def test_values_and_gradients_are_those_of_the_loops_written_out(layers, both):
    built = stack_with(num_layers=layers, bidirectional=both, activation="tanh", bias=True)
    u = draw(1, 3, 5, 2).requires_grad_()
    h0 = draw(2, layers * (1 + both), 3, 3).requires_grad_()
    lengths, loss, copies = [3, 5, 1], 0, [leaves(cell) for cell in built.cells]
    outputs, h_n = built(u, h0, lengths=lengths)
    weights = draw(3, *outputs.shape)
    for k, length in enumerate(lengths):
        wanted, end = written_out(by_layer(copies, 1 + both), u[k, :length], h0[:, k])
        assert close([outputs[k, :length], h_n[:, k]], [wanted, end], 1e-10)
        assert not outputs[k, length:].any()
        loss = loss + (wanted * weights[k, :length]).sum() + end.square().sum()
    ours = gradients((outputs * weights).sum() + h_n.square().sum(), [*built.parameters(), u, h0])
    theirs = gradients(loss, [*(M for P in copies for M in P.values()), u, h0])
    assert close(ours, theirs) and all(g.abs().max() > 1e-3 for g in ours)


# ---- torch's own --------------------------------------------------------------------------------


def twins(layers, both, batch_first, p=2, hidden=4, **options):
    """κ = 0, no feedthrough and C the identity: h = tanh(B[u; h] + b), which is torch.nn.RNN."""
    built = stack_with(p=p, hidden=hidden, n=hidden, num_layers=layers, bidirectional=both,
                       batch_first=batch_first, kappa=0.0, activation="tanh", bias=True,
                       feedthrough=False, **options)
    theirs = nn.RNN(p, hidden, layers, batch_first=batch_first, bidirectional=both, device="cpu",
                    dtype=torch.float64)
    with torch.no_grad():
        for cell, (W, back, b, more) in zip(built.cells, theirs.all_weights, strict=True):
            W.copy_(cell.layer.B[:, :cell.input_dim])
            back.copy_(cell.layer.B[:, cell.input_dim:])
            b.copy_(cell.layer.state_bias)
            more.zero_()
            cell.layer.C.copy_(torch.eye(hidden, device="cpu", dtype=torch.float64))
            cell.layer.output_bias.zero_()
    return built, theirs


def by_weight(built, theirs, loss, others):
    """Gradients of both in the same order and form."""
    ours = gradients(loss, [M for cell in built.cells
                            for M in (cell.layer.B, cell.layer.state_bias)] + others)
    for k, cell in enumerate(built.cells):
        yield from (ours[2 * k][:, :cell.input_dim], ours[2 * k][:, cell.input_dim:],
                    ours[2 * k + 1], ours[2 * k + 1])
    yield from ours[2 * len(built.cells):]


def compare(built, theirs, x, h0, leaves_of_x):
    (outputs, h_n), (wanted, last) = built(x, h0), theirs(x, h0)
    if isinstance(x, PackedSequence):
        for ours, other in zip(outputs[1:], wanted[1:], strict=True):
            assert torch.equal(ours, other) if ours is not None else other is None
        outputs, wanted = outputs.data, wanted.data
    assert outputs.shape == wanted.shape and h_n.shape == last.shape
    assert close([outputs, h_n], [wanted, last], 1e-10)
    weights = draw(3, *outputs.shape)

    def loss(a, b):
        return (a * weights).sum() + b.square().sum()

    ours = by_weight(built, theirs, loss(outputs, h_n), leaves_of_x)
    flat = [M for weights in theirs.all_weights for M in weights]
    assert close(ours, gradients(loss(wanted, last), flat + leaves_of_x), 1e-10)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("layers", "both"), SHAPES)
class TestWithoutAItIsTorchs:
    def test_a_batch(self, layers, both, batch_first):
        u = draw(5, *((3, 7, 2) if batch_first else (7, 3, 2))).requires_grad_()
        h0 = draw(6, layers * (1 + both), 3, 4).requires_grad_()
        built, theirs = twins(layers, both, batch_first)
        compare(built, theirs, u, h0, [u, h0])
        compare(built, theirs, u, None, [u])

    def test_one_sequence(self, layers, both, batch_first):
        u, h0 = draw(5, 7, 2).requires_grad_(), draw(6, layers * (1 + both), 4).requires_grad_()
        compare(*twins(layers, both, batch_first), u, h0, [u, h0])

    @pytest.mark.parametrize("lengths", [[3, 7, 1], [7, 4, 4], [2, 2, 2]])
    def test_packed(self, layers, both, batch_first, lengths):
        h0 = draw(6, layers * (1 + both), 3, 4).requires_grad_()
        for ordered in {False, lengths == sorted(lengths, reverse=True)}:
            packed = pack_padded_sequence(draw(5, 3, 7, 2), mat(lengths).long(), batch_first=True,
                                          enforce_sorted=ordered)
            data = packed.data.requires_grad_()
            compare(*twins(layers, both, batch_first), packed, h0, [data, h0])


def test_the_arguments_are_torchs():
    ours, theirs = (inspect.signature(kind).parameters for kind in (ImplicitRNNStack, nn.RNNBase))
    assert {"num_layers", "bidirectional", "dropout", "batch_first"} <= set(ours) & set(theirs)
    assert all(ours[k].default == theirs[k].default for k in (
        "num_layers", "bidirectional", "dropout"))
    assert ours["batch_first"].default and not theirs["batch_first"].default


# ---- forms of the input ---------------------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99),
       both=st.booleans())
def test_each_sequence_is_run_as_if_alone(lengths, seed, both):
    built, m = stack_with(num_layers=2, bidirectional=both, solver=Picard(1e-12)), len(lengths)
    u, h0 = draw(seed, m, 5, 2), draw(seed + 100, 2 * (1 + both), m, 3)
    outputs, h_n = built(u, h0, lengths=lengths)
    packed = pack_padded_sequence(u, mat(lengths).long(), batch_first=True, enforce_sorted=False)
    again, last = built(packed, h0)
    padded, read = pad_packed_sequence(again, batch_first=True, total_length=5)
    assert torch.equal(padded, outputs) and torch.equal(last, h_n) and read.tolist() == lengths
    for k, length in enumerate(lengths):
        alone, end = built(u[k, :length], h0[:, k])
        assert close([outputs[k, :length], h_n[:, k]], [alone, end])
        assert not outputs[k, length:].any()


@pytest.mark.parametrize("lengths", [None, [3, 1, 5, 2]])
def test_the_batch_may_come_second(lengths):
    first, second = (stack_with(num_layers=2, bidirectional=True, batch_first=b)
                     for b in (True, False))
    u, h0 = draw(7, 4, 5, 2), draw(8, 4, 4, 3)
    one, two = first(u, h0, lengths=lengths), second(u.transpose(0, 1), h0, lengths=lengths)
    assert torch.equal(one[0], two[0].transpose(0, 1)) and torch.equal(one[1], two[1])
    assert torch.equal(first(u[1], h0[:, 1])[0], second(u[1], h0[:, 1])[0])


@pytest.mark.parametrize("lengths", [None, []])
def test_an_empty_batch_as_torch_has_it(lengths):
    outputs, h_n = stack_with(num_layers=2, bidirectional=True)(draw(0, 0, 4, 2), lengths=lengths)
    assert outputs.shape == (0, 4, 6) and h_n.shape == (4, 0, 3)


def test_one_layer_is_the_cell():
    built, cell = stack_with(), cell_with()
    assert close(built.cells[0].parameters(), cell.parameters(), 0)
    u, h0 = draw(9, 3, 5, 2), draw(10, 3, 3)
    (outputs, h_n), (wanted, h) = built(u, h0[None]), cell(u, h0)
    assert torch.equal(outputs, wanted) and torch.equal(h_n, h[None])


def test_an_unrolled_gradient_is_the_same():
    u, results = draw(11, 2, 4, 2), []
    for options in ({}, {"adjoint": Unrolled()}):
        built = stack_with(num_layers=2, bidirectional=True, **options)
        results.append(gradients(built(u)[0].square().sum(), built.parameters()))
    assert close(*results)


# ---- dropout --------------------------------------------------------------------------------


def hands_on(dropout):
    """Two layers, of which the second gives what it is given."""
    built = stack_with(p=2, hidden=4, n=4, num_layers=2, dropout=dropout, kappa=0.0,
                       activation="identity", feedthrough=False)
    eye = torch.eye(4, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        for cell in built.cells:
            cell.layer.C.copy_(eye)
        built.cells[1].layer.B.copy_(torch.cat([eye, 0 * eye], dim=1))
    return built


def test_dropout_acts_between_layers_in_training_alone():
    built, u = hands_on(0.25), draw(12, 40, 50, 2)
    kept = built.eval()(u)[0]
    assert torch.equal(kept, hands_on(0.0)(u)[0])
    torch.manual_seed(0)
    seen = built.train()(u)[0]
    gone = seen == 0
    assert abs(gone.double().mean() - 0.25) < 0.02
    assert torch.allclose(seen[~gone], kept[~gone] / 0.75, rtol=1e-12)
    # The first layer's own recurrence and its h_n are left whole.
    assert torch.equal(built(u)[1][0], kept[:, -1])


def test_dropout_drops_nothing_of_one_layer_and_says_so():
    with pytest.warns(UserWarning, match="dropout=0.5 with num_layers=1 drops nothing"):
        built = stack_with(dropout=0.5)
    u = draw(13, 2, 3, 2)
    assert torch.equal(built.train()(u)[0], stack_with()(u)[0])


def test_a_dropout_of_one_leaves_the_upper_layers_in_silence():
    built, u = stack_with(num_layers=2, dropout=1.0), draw(14, 2, 3, 2)
    assert torch.equal(built(u)[0], built.cells[1](torch.zeros(2, 3, 3, device="cpu").double())[0])


# ---- as a module ----------------------------------------------------------------------------


def test_the_cells_stand_in_the_order_of_the_states():
    built = stack_with(p=2, hidden=3, num_layers=2, bidirectional=True)
    assert [cell.input_dim for cell in built.cells] == [2, 2, 6, 6]
    assert built.directions == 2 and built.input_dim == 2 and built.hidden_dim == 3
    drawn = [cell.layer.C for cell in built.cells]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))
    again = stack_with(p=2, hidden=3, num_layers=2, bidirectional=True)
    assert close(built.parameters(), again.parameters(), 0)
    assert "num_layers=2, bidirectional=True, dropout=0, batch_first=True" in repr(built)


def test_the_certificate_is_of_the_cell_that_is_worst_off():
    built = stack_with(num_layers=3, constraint=None)
    with torch.no_grad():
        for cell, size in zip(built.cells, (0.2, 0.9, 0.5), strict=True):
            cell.layer.A = size * torch.eye(5, device="cpu", dtype=torch.float64)
    assert built.certificate().margin == pytest.approx(0.1)
    built.cells[2].layer.A = 2 * torch.eye(5, device="cpu", dtype=torch.float64)
    assert built.certificate().condition is Condition.NONE


def test_one_warning_for_all_layers():
    built = stack_with(num_layers=2, bidirectional=True, solver=Picard(1e-12, max_steps=2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        built(draw(0, 2, 7, 2))
    (warning,) = caught
    assert issubclass(warning.category, ConvergenceWarning) and warning.filename == __file__
    assert "28 solves of the time steps of a sequence stopped early" in str(warning.message)


def test_an_overflow_is_said_in_the_order_of_reading():
    built = stack_with(bidirectional=True)
    with torch.no_grad():
        built.cells[1].layer.D.fill_(1e200)
    rejects(lambda: built(torch.ones(1, 9, 2, device="cpu").double()), FloatingPointError,
            "overflowed at time step 1", "reading backwards")


BUILT = stack_with(num_layers=2, bidirectional=True)
TIME_FIRST = ImplicitRNNStack(2, 3, 5, batch_first=False, **options_with())
U, H = draw(1, 4, 3, 2), draw(2, 4, 4, 3)
PACKED = pack_padded_sequence(U, mat([3, 3, 2, 1]).long(), batch_first=True)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: stack_with(num_layers=0), ValueError, ["num_layers", "at least 1", "got 0"]),
    (lambda: stack_with(num_layers=1.0), TypeError, ["num_layers", "1.0"]),
    (lambda: stack_with(num_layers=2, dropout=1.5), ValueError, ["dropout", "<= 1", "1.5"]),
    (lambda: stack_with(num_layers=2, dropout=-0.1), ValueError, ["dropout", ">= 0", "-0.1"]),
    (lambda: stack_with(num_layers=2, dropout=True), TypeError, ["dropout", "True"]),
    (lambda: stack_with(bidirectional=1), TypeError, ["bidirectional", "True or False", "1"]),
    (lambda: stack_with(batch_first="yes"), TypeError, ["batch_first", "'yes'"]),
    (lambda: stack_with(p=0), ValueError, ["input_dim", "at least 1"]),
    (lambda: stack_with(hidden=2.0), TypeError, ["hidden_dim", "2.0"]),
    (lambda: stack_with(hidden=0, num_layers=2), ValueError, ["hidden_dim", "at least 1"]),
    (lambda: stack_with(kappa=1), ValueError, ["kappa", "< 1"]),
    (lambda: BUILT(U[0, 0]), ValueError, ["x", "(batch, time, input)", "(time, input)", "(2,)"]),
    (lambda: BUILT(U[None]), ValueError, ["x", "(1, 4, 3, 2)"]),
    (lambda: TIME_FIRST(U[None]), ValueError, ["(time, batch, input)"]),
    (lambda: TIME_FIRST(U[..., :1]), ValueError, ["x", "(time, batch, p=2)", "(4, 3, 1)"]),
    (lambda: BUILT(U[..., :1]), ValueError, ["x", "(batch, time, p=2)", "(4, 3, 1)"]),
    (lambda: BUILT(U.float()), TypeError, ["x is torch.float32", "float64"]),
    (lambda: BUILT(U.numpy()), TypeError, ["x must be a torch.Tensor", "ndarray"]),
    (lambda: BUILT(U, H[0]), ValueError, ["h0 must have shape (4, 4, 3)", "got (4, 3)",
                                          "num_layers · directions, batch, hidden"]),
    (lambda: BUILT(U, H[:2]), ValueError, ["h0 must have shape (4, 4, 3)", "got (2, 4, 3)"]),
    (lambda: BUILT(U[0], H), ValueError, ["h0 must have shape (4, 3)", "got (4, 4, 3)"]),
    (lambda: BUILT(PACKED, H[:, :2]), ValueError, ["h0 must have shape (4, 4, 3)"]),
    (lambda: BUILT(U, H.float()), TypeError, ["h0 is torch.float32"]),
    (lambda: BUILT(U, H * float("nan")), ValueError, ["h0 must be finite"]),
    (lambda: BUILT(U, (H, H)), TypeError, ["h0 must be a torch.Tensor", "tuple"]),
    (lambda: BUILT(PACKED, lengths=[3, 3, 2, 1]), ValueError, ["lengths", "packed"]),
    (lambda: BUILT(U[0], lengths=[3]), ValueError, ["lengths", "x of one", "(3, 2)"]),
    (lambda: BUILT(U, lengths=[3, 4, 1, 1]), ValueError, ["between 1 and", "got 4"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
