"""ImplicitRNN, a prediction from the last hidden state, as a torch module."""

import copy
import io

import numpy as np
import pytest
import torch
from helpers import draw, mat, rejects
from rnn_cases import close, rnn_with
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import idl_lab
from idl_lab import ImplicitRNN, ImplicitRNNCell
from idl_lab.fixed_point import Picard
from idl_lab.well_posedness import Condition


@pytest.mark.parametrize("constraint", ["scale", "row", "project", "perron", "triangular", None])
def test_gradcheck(constraint):
    model = rnn_with(hidden=2, n=3, activation="tanh", constraint=constraint, bias=True)
    if constraint is None:
        model.recurrent.cells[0].layer.A.data.mul_(0.3)
    u, h0 = draw(7, 2, 3, 2).requires_grad_(), draw(8, 1, 2, 2).requires_grad_()
    names = [name for name, _ in model.named_parameters()]

    def call(u, h0, *parameters):
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)),
                                          (u, h0), {"lengths": [3, 2]})

    P = [M.detach().clone().requires_grad_() for M in model.parameters()]
    assert torch.autograd.gradcheck(call, (u, h0, *P))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5),
                                                  (torch.bfloat16, 0.1)])
def test_dtypes(dtype, tolerance):
    exact, u = rnn_with(), draw(10, 3, 6, 2)
    model = copy.deepcopy(exact).to(dtype)
    # Rounding ends the solve; 16 bits say that they cannot do better, so they are not asked to.
    model.recurrent.cells[0].layer.solver = Picard(0.04 if dtype == torch.bfloat16 else 1e-12)
    prediction = model(u.to(dtype))
    assert prediction.dtype == dtype
    assert torch.allclose(prediction.double(), exact(u), rtol=0, atol=tolerance)
    prediction.square().sum().backward()
    assert all(M.grad.dtype == dtype and M.grad.isfinite().all() for M in model.parameters())


@pytest.mark.parametrize("as_given", [list, tuple, torch.as_tensor, np.asarray])
def test_lengths_in_every_form(as_given):
    model, u = rnn_with(), draw(11, 3, 4, 2)
    alone = torch.cat([model(u[k:k + 1, :n]) for k, n in enumerate([2, 4, 1])])
    assert torch.allclose(model(u, lengths=as_given([2, 4, 1])), alone, atol=1e-10)


def test_one_sequence_without_a_batch():
    model, x, h0 = rnn_with(), draw(18, 3, 5, 2), draw(19, 1, 3, 3)
    assert model(x[1]).shape == (2,) and torch.allclose(model(x[1]), model(x)[1], atol=1e-10)
    assert torch.allclose(model(x[1], h0[:, 1]), model(x, h0)[1], atol=1e-10)

def test_the_prediction_is_a_linear_of_the_last_valid_hidden_state():
    model, x = rnn_with(), draw(20, 3, 5, 2)
    packed = pack_padded_sequence(x, mat([2, 5, 4]).long(), batch_first=True, enforce_sorted=False)
    outputs, _ = model.recurrent(x)
    assert close([model(x)], [model.linear(outputs[:, -1])])
    wanted = model.linear(torch.stack([outputs[0, 1], outputs[1, 4], outputs[2, 3]]))
    assert close([model(x, lengths=[2, 5, 4]), model(packed)], [wanted, wanted])


@pytest.mark.parametrize("batch_first", [True, False])
def test_with_two_directions_both_have_read_it_all(batch_first):
    model = rnn_with(num_layers=2, bidirectional=True, batch_first=batch_first)
    u, h0 = draw(20, 3, 5, 2), draw(21, 4, 3, 3)
    x = u if batch_first else u.transpose(0, 1)
    assert model.linear.in_features == 6
    outputs, h_n = model.recurrent(x, h0, lengths=[2, 5, 4])
    outputs = outputs if batch_first else outputs.transpose(0, 1)
    ahead = torch.stack([outputs[0, 1], outputs[1, 4], outputs[2, 3]])[:, :3]
    wanted = model.linear(torch.cat([ahead, outputs[:, 0, 3:]], dim=1))
    assert close([model(x, h0, lengths=[2, 5, 4])], [wanted])
    assert torch.equal(torch.cat([h_n[2], h_n[3]], dim=1),
                       torch.cat([ahead, outputs[:, 0, 3:]], dim=1))
    assert close([model(u[1], h0[:, 1])], [wanted[1]])


def test_the_documented_example_of_torchidl_runs():
    model = ImplicitRNN(input_dim=1, output_dim=1, hidden_dim=128, implicit_hidden_dim=64,
                        device="cpu")
    x = draw(21, 100, 60, 1).float()
    output = model(x)
    assert output.shape == (100, 1) and output.dtype == torch.float32
    outputs, h_n = model.recurrent(x)
    assert outputs.shape == (100, 60, 128) and torch.equal(h_n, outputs[:, -1][None])
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


def test_public_names():
    assert idl_lab.ImplicitRNN is ImplicitRNN and idl_lab.ImplicitRNNCell is ImplicitRNNCell
    assert {"ImplicitRNN", "ImplicitRNNCell"} <= set(idl_lab.__all__)


MODEL, U = rnn_with(), draw(1, 4, 3, 2)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: rnn_with(q=0), ValueError, ["output_dim", "at least 1"]),
    (lambda: rnn_with(kappa=1), ValueError, ["kappa", "< 1"]),
    (lambda: rnn_with(mitr=3), TypeError, ["mitr"]),
    (lambda: rnn_with(num_layers=0), ValueError, ["num_layers", "at least 1"]),
    (lambda: MODEL(U[0, 0]), ValueError, ["x", "(batch, time, input), or (time, input)", "(2,)"]),
    (lambda: MODEL(U[None]), ValueError, ["x", "(1, 4, 3, 2)"]),
    (lambda: MODEL(U[0, :0]), ValueError, ["at least one time step"]),
    (lambda: MODEL(U[0], lengths=[3]), ValueError, ["lengths", "(3, 2)"]),
    (lambda: MODEL(U, draw(2, 4, 3)), ValueError, ["h0 must have shape (1, 4, 3)", "(4, 3)"]),
    (lambda: MODEL(U.numpy()), TypeError, ["x must be a torch.Tensor", "ndarray"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
