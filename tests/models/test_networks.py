"""Networks read off: the matrices, run block by block in numpy, against the network itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import draw, rejects
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from idl_lab import networks
from idl_lab.activations import ACTIVATIONS


def matrices(net, input_shape=None):
    return networks.as_matrices(net, input_shape)


def predicted(network, U):
    """x = φ(Ax + Bu + b) repeated until nothing moves; at most as many steps as blocks."""
    A, B, C, D = (M.toarray() for M in (network.A, network.B, network.C, network.D))
    X = np.zeros((len(U), len(A)))
    for _ in range(len(network.blocks) + 1):
        S = X @ A.T + U @ B.T + network.state_bias
        before, X, start = X, np.empty_like(X), 0
        for block in network.blocks:
            part = slice(start, start := start + block.size)
            X[:, part] = block.activation(torch.from_numpy(S[:, part])).numpy()
    assert pytest.approx(before, abs=1e-12) == X
    return X @ C.T + U @ D.T + network.output_bias


def agree(net, input_shape=None, samples=4):
    """Read a network in float64; its matrices must give its outputs in eval mode."""
    net = net.double()
    network = matrices(net, input_shape)
    U = draw(1, samples, *network.input_shape)
    modes = [module.training for module in net.modules()]
    with torch.no_grad():
        wanted = net.eval()(U.clone()).flatten(1).numpy()
    for module, mode in zip(net.modules(), modes, strict=True):
        module.training = mode
    U = U.flatten(1).numpy()
    assert predicted(network, U) == pytest.approx(wanted, abs=1e-10)
    check_structure(network)
    phi = network.activation(torch.from_numpy(U[:, :1]).expand(-1, network.A.shape[0]))
    assert phi.shape == (samples, network.A.shape[0])
    return network


def check_structure(network):
    n = sum(block.size for block in network.blocks)
    q, p = network.D.shape
    assert network.A.shape == (n, n) and network.B.shape == (n, p) and network.C.shape == (q, n)
    assert network.state_bias.shape == (n,) and network.output_bias.shape == (q,)
    block_of = np.repeat(np.arange(len(network.blocks)), [b.size for b in network.blocks])
    rows, columns = network.A.nonzero()
    assert (block_of[rows] < block_of[columns]).all()
    for M in (network.A, network.B, network.C, network.D):
        assert M.format == "csr" and M.dtype == np.float64 and (M.data != 0).all()


def mlp(sizes, phi):
    layers = [layer for i, o in zip(sizes, sizes[1:], strict=False)
              for layer in (nn.Linear(i, o), phi())]
    return nn.Sequential(*layers[:-1])


def trained(net, *shape):
    """A few random steps, so that running statistics and scales are not trivial."""
    net = net.double().train()
    for seed in range(4):
        loss = net(2 * draw(seed, 8, *shape) + 1).square().mean()
        loss.backward()
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(0.05 * p.grad)
                p.grad = None
    return net


class Net(nn.Module):
    """A network from a function of the module and its input, and from its layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.fn = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.fn(self, x)


PHIS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.2), "leaky default": nn.LeakyReLU,
        "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "elu": nn.ELU, "elu 1.5": lambda: nn.ELU(1.5),
        "softplus": nn.Softplus, "softplus 2": lambda: nn.Softplus(2.0), "relu6": nn.ReLU6,
        "hardtanh": nn.Hardtanh, "hardtanh 2": lambda: nn.Hardtanh(-2, 0.5, inplace=True),
        "relu in place": lambda: nn.ReLU(inplace=True)}


@pytest.mark.parametrize("phi", PHIS)
@pytest.mark.parametrize("sizes", [(5, 7, 3), (4, 6, 5, 2), (3, 5, 4, 6, 1)])
def test_mlps(sizes, phi):
    network = agree(mlp(sizes, PHIS[phi]))
    assert [block.size for block in network.blocks] == list(sizes[-2:0:-1])
    assert network.D.nnz == 0 and network.dtype == torch.float64
    assert network.input_shape == sizes[:1]


@given(sizes=st.lists(st.integers(1, 5), min_size=3, max_size=5), seed=st.integers(0, 99),
       phi=st.sampled_from(["relu", "leaky", "tanh", "sigmoid"]))
def test_random_mlps(sizes, seed, phi):
    torch.manual_seed(seed)
    agree(mlp(sizes, PHIS[phi]))


def test_the_matrices_of_an_mlp_are_its_weights():
    net = mlp((4, 3, 2, 5), nn.ReLU)
    network = matrices(net)
    W = [layer.weight.detach().double().numpy() for layer in net[::2]]
    b = [layer.bias.detach().double().numpy() for layer in net[::2]]
    wanted = np.zeros((5, 5))
    wanted[:2, 2:] = W[1]
    assert np.array_equal(network.A.toarray(), wanted)
    assert np.array_equal(network.B.toarray(), np.vstack([np.zeros((2, 4)), W[0]]))
    assert np.array_equal(network.C.toarray(), np.hstack([W[2], np.zeros((5, 3))]))
    assert np.array_equal(network.state_bias, np.concatenate([b[1], b[0]]))
    assert np.array_equal(network.output_bias, b[2])
    assert [block.name for block in network.blocks] == ["3 (ReLU)", "1 (ReLU)"]
    assert network.activation is ACTIVATIONS["relu"] and network.dtype == torch.float32


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 3, 5, padding=2), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Linear(16, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 3))


def test_a_lenet_with_batch_norm():
    network = agree(trained(lenet(), 1, 12, 12), (1, 12, 12))
    assert [b.size for b in network.blocks] == [10, 4 * 4 * 4, 3 * 12 * 12]
    # A 5 × 5 kernel at each of 12 × 12 places, less what hangs over the border.
    inside = (5 * 12 - 6) ** 2
    assert network.B.nnz == 3 * inside
    assert network.A.nnz == 10 * 16 * 4 + 64 * 3 * 9 * 4  # each after a 2 × 2 pool
    assert network.activation.name == "tanh ×10, relu ×496"


class Residual(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)
                                      ) if stride > 1 else nn.Identity()

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


def test_a_residual_net():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), Residual(2, 2, 1),
                        Residual(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    network = agree(trained(net, 1, 6, 6), (1, 6, 6))
    assert [b.name for b in network.blocks] == [
        "3.relu (ReLU, call 2)", "3.relu (ReLU)", "2.relu (ReLU, call 2)", "2.relu (ReLU)",
        "1 (ReLU)"]


@pytest.mark.parametrize("options", [
    {}, {"stride": 2}, {"padding": 1}, {"padding": (0, 2)}, {"padding": "same"},
    {"padding": "valid"}, {"dilation": 2}, {"groups": 2}, {"groups": 4, "stride": (1, 2)},
    {"bias": False}, {"padding": "same", "dilation": (1, 2)},
    {"padding": 1, "padding_mode": "reflect"}, {"padding": 1, "padding_mode": "circular"},
    {"stride": 2, "padding": 2, "dilation": (2, 1), "groups": 2}], ids=str)
@pytest.mark.parametrize("kernel", [3, (2, 3)], ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's, of even kernels
def test_convolutions(options, kernel):
    agree(nn.Sequential(nn.Conv2d(4, 8, kernel, **options), nn.ReLU()), (4, 6, 7))


@pytest.mark.parametrize("pool", [
    nn.AvgPool2d(2), nn.AvgPool2d((2, 3), (1, 2)), nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d(2, 2, divisor_override=3), nn.AvgPool2d(3, 3, ceil_mode=True),
    nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveAvgPool2d((None, 4)),
], ids=str)
def test_pooling(pool):
    agree(nn.Sequential(pool, nn.ReLU()), (2, 6, 7))


def in_place_on_a_skip(net, x):
    skip = x = net.a(x)
    x += 1
    y = F.relu(x, inplace=True)
    return y + skip + x.view(x.size(0), -1)


WAYS = {
    "functional": lambda net, x: net.b(F.leaky_relu(F.relu(net.a(x)), 0.3)),
    "torch": lambda net, x: net.b(torch.sigmoid(torch.tanh(net.a(x)))),
    "methods": lambda net, x: net.b(net.a(x).relu().sigmoid().tanh()),
    "overwriting": lambda net, x: net.b(torch.relu_(net.a(x)).mul_(2).tanh_()),
    "shared module": lambda net, x: net.phi(net.b(net.phi(net.a(x)))),
    "skip from the input": lambda net, x: net.b(torch.tanh(net.a(x))) + net.a(x) - x,
    "in place on a skip": in_place_on_a_skip,
    "sizes": lambda net, x: net.phi(net.a(x)).view(x.shape[0], 2, -1).reshape(x.size(0), 6),
    "reshape by -1": lambda net, x: net.phi(net.a(x)).view(-1, 3, 2).transpose(1, 2).flatten(1),
    "numbers": lambda net, x: 1 - 3 * net.phi(x / 2 - 1) * 2 + torch.add(x, x, alpha=2),
    "negative": lambda net, x: torch.sub(net.phi(-x), x, alpha=0.5),
    "a parameter": lambda net, x: net.phi(x * net.a.bias + net.b.bias) @ net.a.weight,
    "weights as functions": lambda net, x: F.linear(torch.relu(x), net.a.weight.T, net.a.bias),
    "pieces": lambda net, x: torch.cat([net.phi(x[:, :2]), x[:, 4:], net.a(x)[:, 1:3]], dim=1),
    "padding": lambda net, x: net.phi(F.pad(x[..., 1:], (2, 1))),
    "means": lambda net, x: net.phi(x.view(x.size(0), 2, 3)).mean((1, -1), keepdim=True)
             + x.view(x.size(0), 2, 3).mean(2).unsqueeze(1),
    "squeeze": lambda net, x: net.phi(x).unsqueeze(-1).squeeze(2).contiguous().clone(),
    "dropout": lambda net, x: F.dropout(net.phi(x), 0.5, net.training),
    "batch norm": lambda net, x: F.batch_norm(net.phi(x), net.a.bias, net.b.bias.abs(), eps=0.1),
    "only an activation": lambda net, x: net.phi(x),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_write_a_network(way):
    net = Net(WAYS[way], a=nn.Linear(6, 6), b=nn.Linear(6, 6), phi=nn.ReLU())
    network = agree(net, (6,))
    assert (network.D.nnz > 0) == (way in ("skip from the input", "numbers", "negative", "pieces",
                                           "means"))


def test_one_activation_for_each_block():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.LeakyReLU(0.2),
                        nn.Linear(2, 2), nn.LeakyReLU(0.2))
    network = agree(net)
    phi = network.activation
    assert (phi.name, phi.slope, phi.homogeneous) == ("leaky_relu(0.2) ×4, tanh ×4", 1.0, False)
    assert network.blocks[0].activation is network.blocks[1].activation
    steep = matrices(nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(-3.0))).activation
    assert steep.slope == 3.0 and steep.homogeneous


@pytest.mark.parametrize(("layers", "p"), [
    ([nn.Linear(3, 2), nn.ReLU()], 3), ([nn.Flatten(), nn.Linear(5, 2), nn.ReLU()], 5),
    ([nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)], 4)])
def test_a_linear_layer_says_the_input_shape(layers, p):
    assert matrices(nn.Sequential(*layers)).input_shape == (p,)


def test_one_layer_a_parametrized_one_and_forward_with_defaults():
    network = agree(nn.ReLU(), (2, 3))
    assert network.blocks[0].name == "the network (ReLU)"
    agree(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.ReLU()))

    class Masked(nn.Linear):
        def forward(self, x, mask=None):
            return torch.relu(super().forward(x if mask is None else x * mask))

    agree(Masked(3, 2))


def test_the_net_is_left_as_found():
    net = lenet().train()
    net[1].eval()
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rng = torch.get_rng_state()
    matrices(net, (1, 12, 12))
    with pytest.raises(ValueError):
        matrices(net, (2, 12, 12))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def spoilt():
    net = mlp((3, 4, 2), nn.ReLU)
    with torch.no_grad():
        net[2].weight[0, 1] = float("nan")
    return net


def hooked():
    net = mlp((3, 4, 2), nn.ReLU)
    net[0].register_forward_hook(lambda layer, x, y: 2 * y)
    return net


class TwoInputs(nn.Module):
    def forward(self, left, right):
        return left + right


def a_view_overwritten(net, x):
    x[:, :2].relu_()
    return x


def branching(net, x):
    return torch.relu(x) if x.sum() > 0 else x


R = nn.ReLU
IMAGE, CONV = (1, 8, 8), nn.Conv2d(1, 2, 3)


@pytest.mark.parametrize(("net", "shape", "error", "fragments"), [
    (torch.relu, None, TypeError, ["net must be a torch.nn.Module", "builtin"]),
    (nn.Sequential(CONV, R(), nn.MaxPool2d(2)), IMAGE, ValueError,
     ["2 (MaxPool2d)", "no rule for MaxPool2d", "What can be read: Linear"]),
    (nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), R()), None, ValueError,
     ["0.1 (LayerNorm)"]),
    (nn.Sequential(nn.Linear(3, 3), R(), nn.Softmax(1)), None, ValueError, ["2 (Softmax)"]),
    (Net(lambda net, x: torch.relu(x) * x), (3,), ValueError,
     ["mul in the network (Net)", "not linear"]),
    (nn.Sequential(nn.Tanh(), Net(lambda net, x: F.max_pool2d(x, 2))), IMAGE, ValueError,
     ["max_pool2d in 1 (Net)"]),
    (Net(lambda net, x: x.relu().exp()), (3,), ValueError, ["exp in the network (Net)"]),
    (Net(lambda net, x: 1 / x.relu()), (3,), ValueError, ["div", "divides by"]),
    (Net(lambda net, x: net.a.weight @ x.relu(), a=nn.Linear(3, 3)), (3,), ValueError,
     ["matmul", "only x @ W"]),
    (Net(lambda net, x: x.relu() / 0), (3,), ValueError, ["div", "divide by zero"]),
    (Net(branching), (3,), ValueError, ["must not depend on the data", "x.sum() > 0"]),
    (Net(lambda net, x: (x.relu(), x)), (3,), ValueError, ["one tensor", "tuple"]),
    (TwoInputs(), (3,), ValueError, ["one input", "forward(left, right)"]),
    (mlp((3, 4, 2), R), (4,), ValueError, ["0 (Linear)", "(batch, 3)", "(batch, 4)"]),
    (nn.Sequential(CONV, R()), (784,), ValueError, ["0 (Conv2d)", "(batch, 784)", "input_shape"]),
    (nn.Sequential(CONV, R()), None, ValueError, ["input_shape=(1, 28, 28)"]),
    (mlp((3, 4, 2), R), 3, TypeError, ["input_shape", "got 3"]),
    (mlp((3, 4, 2), R), (0,), ValueError, ["input_shape", "at least 1"]),
    (mlp((3, 4, 2), R), (2.5,), TypeError, ["input_shape", "whole number"]),
    (nn.Sequential(nn.Linear(3, 3), nn.Dropout()), None, ValueError, ["no activation", "linear"]),
    (spoilt(), None, ValueError, ["2.weight must be finite", "1 NaN"]),
    (nn.Sequential(nn.LazyLinear(3), R()), (3,), ValueError, ["0.weight", "no numbers yet"]),
    (nn.Sequential(nn.Linear(3, 3, device="meta"), R()), None, ValueError, ["0.weight"]),
    (nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), R()), (3,), ValueError,
     ["0 (BatchNorm1d)", "track_running_stats=True"]),
    (hooked(), None, ValueError, ["0 (Linear)", "forward hook"]),
    (Net(lambda net, x: F.dropout(x.relu())), (3,), ValueError, ["dropout", "at random"]),
    (Net(a_view_overwritten), (3,), ValueError, ["relu_", "another view"]),
    (Net(lambda net, x: x.relu().mean(0)), (3,), ValueError, ["mean", "the batch"]),
    (Net(lambda net, x: x.relu().mean()), (3,), ValueError, ["mean", "the batch"]),
    (Net(lambda net, x: x.relu().view(-1)), (3,), ValueError, ["must stay the batch"]),
    (Net(lambda net, x: x.relu().view(1, -1)), (3,), ValueError, ["must stay the batch"]),
    (Net(lambda net, x: x.relu().view(-1, 2)), (3,), ValueError, ["must stay the batch"]),
    (Net(lambda net, x: x.relu()[0]), (3,), ValueError, ["getitem", "x[:, ...]"]),
    (Net(lambda net, x: x.relu() / x.size(0)), (3,), ValueError,
     ["the size of the batch"]),
    (Net(lambda net, x: torch.flatten(x.relu())), (3,), ValueError, ["flatten", "the batch"]),
    (Net(lambda net, x: x.relu().transpose(0, 1)), (3,), ValueError, ["moves the batch"]),
])
def test_refusals(net, shape, error, fragments):
    rejects(lambda: matrices(net, shape), error, *fragments)
