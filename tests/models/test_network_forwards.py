"""A network is read from what its forward does with a batch, in whatever words it is written."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import draw, rejects
from torch import nn

from idl_lab import ImplicitModel, networks


class Net(nn.Module):
    """Linear, a function of the module and of what comes out, Linear."""

    def __init__(self, fn):
        super().__init__()
        self.a, self.b, self.fn = nn.Linear(3, 3), nn.Linear(3, 2), fn
        self.double()

    def forward(self, x):
        return self.b(self.fn(self, self.a(x)))


def checked(net, x):
    assert isinstance(x, torch.Tensor) and x.ndim == 2 and x.shape[1] == 3
    assert not torch.is_complex(x) and x.device == net.a.weight.device
    return x.relu()


FORWARDS = {
    "asks for dimensions": lambda net, x: (x.reshape(len(x), -1) if x.ndim == 4 else x).relu(),
    "asserts": checked,
    "len": lambda net, x: x.reshape(len(x), -1).relu(),
    "size": lambda net, x: x.view(x.size(0), x.size(-1)).relu(),
    "casts": lambda net, x: x.relu().to(torch.float64).to(x).double().type_as(x),
    "branches on a dtype": lambda net, x: x.relu() if x.dtype == torch.float64 else x,
    "a loop over features": lambda net, x: torch.stack(
        [x[:, i].relu() * (i + 1) for i in range(x.shape[1])], 1),
    "data": lambda net, x: x.data.relu() + x.detach(),
    "the operand on the right": lambda net, x: 2 - x.relu() + (1.0 * x) / 3,
    "in place": lambda net, x: x.relu().add_(1).mul_(2),
    "tensors of its shape": lambda net, x: (x.relu() + x.new_ones(x.shape) * torch.eye(3)[0]
                                            + torch.full_like(x, 2) - torch.zeros_like(x[:, :1])),
    "a dictionary": lambda net, x: {"y": x.relu()}["y"],
    "numbers of numpy's": lambda net, x: x.relu() * float(np.float64(2)),
    "a decorated function": lambda net, x: torch.no_grad()(torch.relu)(x),
}


@pytest.mark.parametrize("how", FORWARDS)
def test_however_the_forward_is_written(how):
    net, U = Net(FORWARDS[how]), draw(0, 7, 3)
    model = ImplicitModel.from_network(net)
    with torch.no_grad():
        torch.testing.assert_close(model(U), net(U), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fn", [
    lambda net, x: x.relu() if x.max().item() > 0 else x, lambda net, x: x.relu() * float(x[0, 0]),
    lambda net, x: x.relu() * x.tolist()[0][0], lambda net, x: x.relu() if (x == x).all() else x,
    lambda net, x: torch.from_numpy(x.numpy() ** 2).relu(),
    lambda net, x: x.relu() if torch.equal(x, x) else x,
    lambda net, x: x.relu() + torch.arange(2.0 * len(x)).reshape(len(x), -1)[:, :1],
    lambda net, x: x.relu().half().double(), lambda net, x: x.relu().long().double(),
], ids=["item", "float", "tolist", "bool", "numpy", "equal", "a constant for each sample", "half",
        "integers"])
def test_what_depends_on_the_numbers_becomes_no_constant(fn):
    rejects(lambda: networks.as_matrices(Net(fn), (3,)), ValueError, "from_network cannot read")


def test_the_first_layers_width_is_the_input_shape():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 4))

        def forward(self, x):
            return F.linear(x, weight=self.w).relu()

    for net in (nn.DataParallel(nn.Sequential(nn.Linear(4, 5), nn.ReLU())), Functional(),
                nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU()),
                nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))):
        assert networks.as_matrices(net).input_shape == (4,)
