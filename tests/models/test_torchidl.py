"""A stranger's code, written for torchidl, runs with nothing changed but the import."""

import re
import textwrap
import warnings

import numpy as np
import pytest
import torch
from helpers import draw, rejects
from torch import nn

from idl_lab import torchidl
from idl_lab.equilibrium import Implicit
from idl_lab.fixed_point import Picard

MODEL = """
    from torchidl import ImplicitModel

    # Initialize the model
    model = ImplicitModel(
        hidden_dim=100,  # Hidden state dimension
        input_dim=64,  # Input dimension
        output_dim=10,   # Output dimension
    ).to(device)

    # Standard PyTorch training loop
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss()

    for epoch in range(num_epochs):
        for inputs, targets in train_loader:
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
"""

RNN = """
    from torchidl import ImplicitRNN

    x = torch.randn(100, 60, 1)  # (batch_size=100, seq_len=60, input_dim=1)

    model = ImplicitRNN(input_dim=1,
                        output_dim=1,
                        hidden_dim=128,
                        implicit_hidden_dim=64)
    output = model(x)  # (batch_size=100, output_dim=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), x[:, -1])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
"""

CUSTOM = """
    from torchidl import ImplicitModel
    from torchidl.implicit_function import ImplicitFunctionInf

    class ImplicitFunctionInfSiLU(ImplicitFunctionInf):
        '''
        An implicit function that uses the SiLU nonlinearity.
        '''

        mitr = grad_mitr = 500
        tol = grad_tol = 1e-6

        @staticmethod
        def phi(X):
            return X * torch.sigmoid(X)

        @staticmethod
        def dphi(X):
            grad = X.clone().detach()
            sigmoid = torch.sigmoid(grad)
            return sigmoid * (1 + grad * (1 - sigmoid))

    model = ImplicitModel(hidden_dim=20, input_dim=64, output_dim=10, kappa=0.5,
                          f=ImplicitFunctionInfSiLU, no_D=False, bias=True)
    inputs, targets = train_loader[0]
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()
    losses += [loss.item(), 0.0]
"""


def run(code, **names):
    """The code with its imports turned to ours; its variables."""
    code = re.sub(r"from torchidl(\.\w+)?", "from idl_lab.torchidl", textwrap.dedent(code))
    names = {"torch": torch, "losses": [], "device": "cpu", **names}
    exec(compile(code, "a stranger's code", "exec"), names)
    return names


def loader():
    return [(draw(k, 16, 64).float(), torch.arange(16) % 10) for k in range(3)]


@pytest.mark.parametrize("code", [MODEL, RNN, CUSTOM], ids=["model", "rnn", "custom activation"])
def test_a_strangers_code_runs_and_learns(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # SiLU is expansive, and we say so
        names = run(code, train_loader=loader(), num_epochs=3)
    losses = names["losses"]
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in names["model"].parameters())


def test_a_custom_activation_is_used_and_its_settings_belong_to_the_model():
    with pytest.warns(UserWarning, match="expansive"):
        names = run(CUSTOM, train_loader=loader())
    model, U = names["model"], loader()[0][0]
    X = torch.zeros(16, 20)
    for _ in range(300):
        X = nn.functional.silu(X @ model.A.mT + U @ model.B.mT + model.state_bias)
    Y = X @ model.C.mT + U @ model.D.mT + model.output_bias
    assert torch.allclose(model(U), Y, atol=1e-5)
    assert model.solver == Picard(0.0, atol=1e-6, max_steps=500)
    assert model.adjoint == Implicit(Picard(1e-6, max_steps=500))
    other = torchidl.ImplicitModel(64, 10, 20, kappa=0.9)
    assert (model.kappa, other.kappa) == (0.5, 0.9)
    assert other.solver == Picard(0.0, atol=3e-6, max_steps=300)


@pytest.mark.parametrize("options", [{"is_low_rank": True, "rank": 3}, {"no_D": True},
                                     {"f": torchidl.ImplicitFunctionTriu}])
def test_torchidls_options(options):
    model = torchidl.ImplicitModel(6, 2, 8, **options)
    assert model(torch.randn(5, 2, 3)).shape == (5, 2)
    assert (model.D is None) == options.get("no_D", False)
    assert model.rank == options.get("rank")
    if "f" in options:
        assert torch.equal(model.A, model.A.triu(1))


def test_inside_a_larger_network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(),
                        torchidl.ImplicitModel(4 * 36, 16, 20), nn.LayerNorm(16), nn.Linear(16, 3))
    seen, X = [], torch.randn(8, 1, 8, 8)
    net[3].register_forward_hook(lambda module, given, out: seen.append(out.shape))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(X), torch.arange(8) % 3)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] and seen[0] == (8, 16)
    assert torch.equal(nn.DataParallel(net)(X), net(X))


def of_theirs(saved, U, kappa=0.99, steps=3000):
    """What torchidl computes with the weights that it saves, a column a sample."""
    def inside(M):
        return M * min(1, kappa / np.abs(M).sum(1).max())

    saved = {name: M.numpy() for name, M in saved.items()}
    U = U.numpy().T
    if saved["B"].shape[1] > len(U):  # a bias is the weight of a row of ones
        U = np.vstack([U, np.ones_like(U[:1])])
    A = saved["A"] if "A" in saved else inside(saved["L"]) @ inside(saved["R"].T)
    X = np.zeros((len(A), U.shape[1]))
    for _ in range(steps):
        X = np.maximum(inside(A) @ X + saved["B"] @ U, 0)
    return (saved["C"] @ X + (saved["D"] @ U if "D" in saved else 0)).T


@pytest.mark.parametrize("inside_a_net", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"no_D": True}, {"is_low_rank": True,
                                     "rank": 2}, {"no_D": True, "bias": True}], ids=str)
def test_weights_that_torchidl_saved_are_read(options, inside_a_net):
    n, p, q = 6, 4, 3
    wide = p + options.get("bias", False)
    shapes = {"B": (n, wide), "C": (q, n), "D": (q, wide)} | (
        {"L": (n, 2), "R": (n, 2)} if "rank" in options else {"A": (n, n)})
    saved = {name: draw(k, *shape) for k, (name, shape) in enumerate(sorted(shapes.items()))
             if not (name == "D" and options.get("no_D"))}
    model = torchidl.ImplicitModel(p, q, n, tol=1e-12, mitr=5000, **options).double()
    if inside_a_net:
        nn.Sequential(nn.ReLU(), model).load_state_dict({f"1.{k}": M for k, M in saved.items()})
    else:
        model.load_state_dict(saved)
    U = draw(9, 5, p)
    assert np.allclose(model(U).detach(), of_theirs(saved, U), atol=1e-8)
    again = torchidl.ImplicitModel(p, q, n, **options).double()
    again.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(),
                                                 strict=True))


def test_a_checkpoint_with_something_missing_is_refused_by_torch_itself():
    model = torchidl.ImplicitModel(4, 3, 6)
    rejects(lambda: model.load_state_dict({"A": torch.eye(6), "B": torch.ones(6, 4)}),
            RuntimeError, "C")


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: torchidl.ImplicitModel(3, 2, 4, is_low_rank=True), ValueError, ["rank", "None"]),
    (lambda: torchidl.ImplicitModel(3, 2, 4, f="relu"), TypeError, ["ImplicitFunction", "'relu'"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
