"""Networks whose forward does odd things: refused, or read right."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import draw, rejects
from torch import nn

from idl_lab import ImplicitModel


class Net(nn.Module):
    """Linear, a function of the module and of what comes out, ReLU, Linear."""

    def __init__(self, fn=lambda net, x: x, width=3):
        super().__init__()
        self.fn, self.calls, self.note = fn, 0, "idle"
        self.a, self.b = nn.Linear(3, width), nn.Linear(width, 2)
        self.relu = nn.ReLU()
        self.register_buffer("noise", torch.zeros(width))

    def forward(self, x):
        return self.b(self.relu(self.fn(self, self.a(x))).flatten(1)[:, :self.b.in_features])


def read(net, shape=(3,)):
    return ImplicitModel.from_network(net, shape)


def generator():
    return torch.Generator(device="cpu").manual_seed(0)


RANDOM = {
    "rand": (lambda net, x: torch.rand(3), "rand"),
    "randn": (lambda net, x: torch.randn(1, 3), "randn"),
    "randint": (lambda net, x: torch.randint(9, (3,)), "randint"),
    "randperm": (lambda net, x: torch.randperm(3), "randperm"),
    "normal": (lambda net, x: torch.normal(0.0, 1.0, (3,)), "normal"),
    "bernoulli": (lambda net, x: torch.bernoulli(0.5 + net.noise), "bernoulli"),
    "multinomial": (lambda net, x: torch.multinomial(1 + net.noise, 1), "multinomial"),
    "in place": (lambda net, x: net.noise.normal_(), "normal_"),
    "uniform in place": (lambda net, x: torch.zeros(3).uniform_(), "uniform_"),
    "dropout of a constant": (lambda net, x: F.dropout(1 + net.noise, 0.5, True), "dropout"),
    "a generator of its own": (lambda net, x: torch.rand(3, generator=generator()), "rand"),
    "a distribution": (lambda net, x: torch.distributions.Normal(0.0, 1.0).sample((3,)), "normal"),
    "of the input's shape": (lambda net, x: torch.rand_like(x), "rand_like"),
    "noise of the input's kind": (lambda net, x: x.new_empty(3).normal_(), "new_empty"),
    "dropout": (lambda net, x: F.dropout(x, 0.5, True), "dropout"),
    "dropout by default": (lambda net, x: F.dropout(x), "dropout"),
    "alpha dropout": (lambda net, x: F.alpha_dropout(x, 0.5, True), "alpha_dropout"),
    "a draw of the input": (lambda net, x: x.bernoulli(), "bernoulli"),
    "in place on the input": (lambda net, x: x.normal_(), "normal_"),
    "Python's": (lambda net, x: random.random(), "Python's random"),
    "numpy's": (lambda net, x: float(np.random.rand()), "numpy"),
    "rarely": (lambda net, x: x if random.random() < 1e-9 else 0, "Python's random"),
}


@pytest.mark.parametrize("how", RANDOM)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_numbers_do_not_become_a_bias(how):
    fn, name = RANDOM[how]
    python, numpy = random.getstate(), np.random.get_state()
    net = Net(lambda net, x: x + fn(net, x))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    rng = torch.get_rng_state()
    rejects(lambda: read(net), ValueError, name)
    assert torch.equal(torch.get_rng_state(), rng)
    assert random.getstate() == python and repr(np.random.get_state()) == repr(numpy)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def replaced(net, where, name, value):
    setattr(net.get_submodule(where), name, value)
    return net


def scaled_call(layer):
    return lambda *args, **kwargs: 2 * type(layer).forward(layer, *args, **kwargs)


def with_forward(where):
    net = Net()
    return replaced(net, where, "forward", scaled_call(net.get_submodule(where)))


def with_method():
    net = nn.Sequential(nn.Conv1d(1, 2, 2), nn.ReLU())
    net[0]._conv_forward = lambda x, weight, bias: F.conv1d(x, 2 * weight, bias)
    return net


def hooked(where, kind):
    net = Net()
    layer = net.get_submodule(where)
    if kind == "forward":
        layer.register_forward_hook(lambda layer, x, y: 2 * y)
    else:
        layer.register_forward_pre_hook(lambda layer, x: (2 * x[0],))
    return net


def always_dropping():
    net = Net()
    net.relu = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    net.fn = lambda net, x: net.relu[1].train() and x
    return net


class Flipping(Net):
    """Another sign at every call."""

    sign = torch.ones(())

    def forward(self, x):
        self.sign = -self.sign
        return super().forward(x) * self.sign


def counting(net, x):
    net.calls += 1
    return x + (net.calls > 5)


def drifting(net, x):
    net.noise += 1
    return x + net.noise


COUNT = [0]


def global_state(net, x):
    COUNT[0] += 1
    return x * COUNT[0]


@pytest.mark.parametrize(("make", "fragments"), [
    (lambda: with_forward("a"), ["a (Linear)", "forward was replaced on this instance"]),
    (lambda: with_forward("relu"), ["relu (ReLU)", "forward was replaced"]),
    (with_method, ["0 (Conv1d)", "_conv_forward was replaced"]),
    (lambda: replaced(nn.Linear(3, 3), "", "forward", torch.relu),
     ["the network (Linear)", "replaced"]),
    (lambda: hooked("a", "forward"), ["a (Linear)", "forward hook"]),
    (lambda: hooked("b", "pre"), ["b (Linear)", "forward hook"]),
    (lambda: hooked("relu", "forward"), ["relu (ReLU)", "forward hook"]),
    (always_dropping, ["draws random numbers", "bernoulli_"]),
    (Flipping, ["other numbers"]),
    (lambda: Net(counting), ["a call changes its calls"]),
    (lambda: Net(drifting), ["a call changes its noise"]),
    (lambda: Net(global_state), ["other numbers", "a state outside"]),
    (lambda: Net(lambda net, x: x.view(2, -1)), ["a batch of shape (5, 3)", "[2, -1]"]),
    (lambda: Net(lambda net, x: x[:100]), ["getitem", "picks samples"]),
    (lambda: Net(lambda net, x: x.index_select(0, torch.tensor([0, 1]))),
     ["other numbers"]),
])
def test_what_the_record_does_not_say_is_refused(make, fragments):
    net = make().eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    attributes = dict(vars(net))
    shape = (1, 3) if isinstance(net, nn.Sequential) else (3,)
    rejects(lambda: read(net, shape), ValueError, "from_network cannot read", *fragments)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert vars(net) == attributes


def test_a_hook_for_all_modules_is_noticed():
    handle = nn.modules.module.register_module_forward_hook(
        lambda layer, x, y: 2 * y if isinstance(layer, nn.Linear) else None)
    try:
        rejects(lambda: read(Net()), ValueError, "other numbers", "hook for all modules")
    finally:
        handle.remove()
    read(Net())


@pytest.mark.parametrize("make", [
    lambda: hooked("", "forward"), lambda: hooked("", "pre"), lambda: with_forward(""),
    lambda: replaced(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), "", "forward",
                     lambda x: torch.tanh(x) * 2),
    lambda: Net(lambda net, x: setattr(net, "last", x) or x),
    lambda: Net(lambda net, x: F.dropout(x, 0.5, net.training)),
    lambda: Net(lambda net, x: x + (torch.rand(3) if net.training else 0)),
])
def test_what_the_record_does_say_is_right(make):
    net = make().double()
    model = read(net)
    U, found = draw(0, 4, 3), dict(vars(net))
    assert torch.allclose(model(U), net.eval()(U), atol=1e-10)
    assert set(vars(net)) - {"last"} == set(found) and "last" not in found


@pytest.mark.parametrize(("fn", "fragments"), [
    (lambda x: x.mean(dim=()), ["mean", "the batch too"]),
    (lambda x: x.mean(dim=[]), ["mean", "the batch too"]),
    (lambda x: x.mean((), True), ["mean", "the batch too"]),
    (lambda x: x.sum(dim=()), ["sum", "the batch too"]),
    (lambda x: x.sum(dim=[], keepdim=True), ["sum", "the batch too"]),
    (lambda x: x.sum(), ["sum", "the batch too"]),
    (lambda x: x.mean(dim=None), ["mean", "the batch too"]),
    (lambda x: x.mean((1, 1)), ["mean", "dim 1 appears multiple times"]),
    (lambda x: x.mean((1, -1)), ["mean", "dim 1 appears multiple times"]),
    (lambda x: torch.sum(x, dim=[-1, -1], keepdim=True), ["sum", "multiple times"]),
    (lambda x: x.sum((0, 1)), ["sum", "the batch"]),
    (lambda x: x.sum(-2), ["sum", "the batch"]),
    (lambda x: x.sum(2), ["sum", "dimension 2"]),
    (lambda x: x.mean(1.0), ["mean"]), (lambda x: x.sum("C"), ["sum"]),
    (lambda x: x.mean(1, dtype=torch.float64), ["mean", "dtype"]),
    (lambda x: x.amax(1), ["no rule for amax"]), (lambda x: x.var(1), ["no rule for var"]),
    (lambda x: x.flip(0), ["flip", "moves the batch"]),
    (lambda x: x.flip((1, 1)), ["flip", "multiple times"]),
    (lambda x: x.roll(1), ["roll", "batch"]), (lambda x: x.roll(10, 0), ["roll", "batch"]),
    (lambda x: x.split(1), ["split", "the batch"]), (lambda x: x.chunk(2)[0], ["the batch"]),
    (lambda x: x.unbind()[0], ["unbind", "the batch"]),
    (lambda x: torch.stack([x, x]), ["stack", "the batch"]),
    (lambda x: torch.cat([x, x]), ["cat", "the batch"]),
    (lambda x: x.repeat(2, 1), ["repeat", "the batch"]),
    (lambda x: x.expand(2, 2, 3), ["expand", "the batch"]),
    (lambda x: F.pad(x, (0, 0, 1, 0)), ["pad", "the batch"]),
    (lambda x: F.pad(x, (0, 0), value=1.0)[:, None].tril().max(), ["no rule for max"]),
    (lambda x: F.interpolate(x[:, None, None], (4, 4), mode="bicubic"), ["interpolate", "bicubic"]),
    (lambda x: F.max_pool1d(x[:, None], 2), ["no rule for"]),
    (lambda x: F.layer_norm(x, (3,)), ["no rule for layer_norm"]),
    (lambda x: F.group_norm(x, 3), ["no rule for group_norm"]),
    (lambda x: F.prelu(x, x.mean(1)), ["prelu"]),
    (lambda x: F.conv1d(x[:, None], x[:, None]), ["conv1d", "two tensors"]),
    (lambda x: F.conv1d(x, torch.ones(1, 1, 2)), ["conv1d", "it takes (batch"]),
])
def test_odd_arguments(fn, fragments):
    rejects(lambda: read(Net(lambda net, x: fn(x))), ValueError, "from_network cannot read",
            *fragments)


@pytest.mark.parametrize(("layer", "shape"), [
    (nn.MaxPool1d(2), (1, 4)), (nn.MaxPool2d(2), (1, 4, 4)), (nn.MaxPool3d(2), (1, 4, 4, 4)),
    (nn.AdaptiveMaxPool2d(1), (1, 4, 4)), (nn.LayerNorm(4), (4,)), (nn.GroupNorm(2, 4), (4, 3)),
    (nn.InstanceNorm1d(3), (3, 4)), (nn.LPPool1d(2, 2), (1, 4)), (nn.RReLU(), (3,)),
    (nn.Softmax(1), (3,)), (nn.Bilinear(3, 3, 2), (3,)), (nn.GELU(), (3,))])
def test_layers_without_a_rule(layer, shape):
    net = nn.Sequential(nn.ReLU(), layer)
    if isinstance(layer, nn.Bilinear):
        net = Net(lambda net, x: net.c(x, x))
        net.c = layer
    rejects(lambda: read(net, shape), ValueError, f"({type(layer).__name__})",
            f"no rule for {type(layer).__name__}", "What can be read: Linear")
