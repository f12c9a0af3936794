"""Every operation that can be read, as a model, against the network: value and input gradient."""

import pytest
import torch
import torch.nn.functional as F
from helpers import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from idl_lab import ImplicitModel


class Net(nn.Module):
    """tanh, a function of the module and its input, and tanh again."""

    def __init__(self, fn, **layers):
        super().__init__()
        self.fn = fn
        self.dtype = nn.Parameter(torch.zeros(1))  # a net without parameters is read in float32
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.fn(self, torch.tanh(x)).tanh()


def randomised(net):
    """Parameters and running statistics that are not trivial."""
    for seed, T in enumerate([*net.parameters(), *net.buffers()]):
        if T.is_floating_point():
            with torch.no_grad():
                T.copy_(draw(seed, *T.shape).abs() + 0.1 if "Norm" in str(net) else
                        draw(seed, *T.shape))
    return net.double().eval()


def check(fn, shape, samples=3, **layers):
    """The model is the network: its value and the gradient of its input, in float64."""
    net = randomised(Net(fn, **layers))
    model = ImplicitModel.from_network(net, shape)
    U = draw(7, samples, *shape)
    found = []
    for predict, u in ((net, U.clone()), (model, U.flatten(1))):
        u.requires_grad_()
        Y = predict(u)
        (Y.flatten() * draw(8, Y.numel())).sum().backward()
        found.append((Y.detach().reshape(samples, -1), u.grad.flatten(1)))
    for wanted, got in zip(*found, strict=True):
        assert got.shape == wanted.shape and torch.allclose(got, wanted, rtol=0, atol=1e-10)
    return model


def sizes(axes, at_least=1, most=5):
    return st.lists(st.integers(at_least, most), min_size=axes, max_size=axes)


@st.composite
def convolution(draw, transposed):
    axes = draw(st.integers(1, 3))
    groups, i, o = (draw(st.integers(1, 2)) for _ in range(3))
    each = lambda low, high: draw(sizes(axes, low, high))  # noqa: E731
    kernel, stride, dilation = each(1, 3), each(1, 3), each(1, 2)
    options = {"kernel_size": kernel, "stride": stride, "dilation": dilation,
               "groups": groups, "bias": draw(st.booleans())}
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if transposed:
        options["output_padding"] = [draw(st.integers(0, max(s, d) - 1))
                                     for s, d in zip(stride, dilation, strict=True)]
        options["padding"] = [draw(st.integers(0, r // 2)) for r in reach]
        size = each(1, 4 if axes < 3 else 3)
    else:
        options["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "replicate",
                                                        "circular"]))
        options["padding"] = each(0, 2)
        size = [max(r + 1, p + 1, n) for r, p, n in zip(reach, options["padding"], each(1, 4),
                                                       strict=True)]
    kind = getattr(nn, f"Conv{'Transpose' * transposed}{axes}d")
    return kind(i * groups, o * groups, **options), (i * groups, *size)


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_of_every_kind(transposed):
    @settings(max_examples=60)
    @given(case=convolution(transposed))
    def check_one(case):
        layer, shape = case
        check(lambda net, x: net.layer(x), shape, layer=layer)

    check_one()


@pytest.mark.parametrize(("layer", "shape"), [
    (nn.Conv1d(2, 3, 3, padding="same", dilation=2), (2, 7)),
    (nn.Conv3d(1, 2, (2, 3, 1), padding="valid"), (1, 4, 4, 3)),
    (nn.Conv1d(4, 4, 2, groups=4, padding=1, padding_mode="circular"), (4, 5)),
    (nn.ConvTranspose2d(2, 4, 2, stride=2), (2, 3, 4)),
    (nn.BatchNorm1d(4), (4,)), (nn.BatchNorm1d(4), (4, 3)), (nn.BatchNorm3d(2), (2, 2, 3, 2)),
    (nn.AvgPool1d(3, 2, 1), (2, 7)), (nn.AvgPool1d(2), (7,)),
    (nn.AvgPool3d((2, 1, 2), 1, (1, 0, 1)), (2, 3, 4, 3)),
    (nn.AvgPool3d(2, ceil_mode=True, divisor_override=3), (1, 3, 4, 5)),
    (nn.AvgPool2d(2), (4, 5)),
    (nn.AdaptiveAvgPool1d(3), (2, 7)), (nn.AdaptiveAvgPool3d((2, None, 1)), (2, 3, 4, 3)),
    (nn.Upsample(scale_factor=2), (2, 3)), (nn.Upsample(scale_factor=(2, 1.5)), (1, 3, 4)),
    (nn.Upsample(size=(5, 3)), (2, 3, 4)), (nn.Upsample((2, 5, 4)), (1, 2, 3, 4)),
    (nn.Upsample(scale_factor=1.7, recompute_scale_factor=True), (2, 7)),
    (nn.Upsample(scale_factor=0.6, mode="nearest-exact"), (2, 7, 5)),
    (nn.UpsamplingNearest2d(scale_factor=3), (2, 2, 2)),
    (nn.UpsamplingBilinear2d(size=(5, 4)), (2, 3, 3)),
    (nn.Upsample(scale_factor=1.6, mode="bilinear"), (2, 4, 5)),
    (nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True), (1, 2, 3, 2)),
    (nn.ZeroPad1d((1, 2)), (2, 3)), (nn.ZeroPad2d((1, 0, -1, 2)), (2, 3, 3)),
    (nn.ZeroPad3d(1), (1, 2, 2, 2)), (nn.ConstantPad1d((2, 1), 0.7), (2, 3)),
    (nn.ConstantPad2d(1, -2.0), (2, 3, 3)), (nn.ConstantPad3d((0, 1) * 3, 5.0), (1, 2, 2, 2)),
    (nn.ReflectionPad2d(1), (2, 3, 3)), (nn.ReplicationPad3d(1), (1, 2, 2, 2)),
    (nn.CircularPad1d(2), (2, 3)), (nn.Unflatten(1, (2, 3)), (6,)),
    (nn.Unfold(2, stride=2), (2, 4, 4)),
    (nn.PixelShuffle(2), (8, 2, 3)), (nn.PixelUnshuffle(2), (2, 4, 2)),
    (nn.ChannelShuffle(2), (4, 3)), (nn.AlphaDropout(0.5), (4,)), (nn.Dropout3d(), (2, 2, 2, 2)),
    (nn.PReLU(), (4,)), (nn.PReLU(4), (4,)), (nn.PReLU(2), (2, 3, 3)),
], ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_layers(layer, shape):
    check(lambda net, x: net.layer(x), shape, layer=layer)


def unpacked(net, x):
    a, b = torch.split(x, 2, 1)
    return a.relu() + b


WAYS = {
    "split": lambda net, x: torch.cat([x.split(2, 1)[1], x.split([1, 3], dim=1)[0]], 1),
    "chunk": lambda net, x: x.chunk(2, 1)[0] - 2 * torch.chunk(x, 2, dim=-3)[1],
    "unpacked": unpacked,
    "unbind and stack": lambda net, x: torch.stack(x.unbind(1)[::-1], dim=-1),
    "stack of two": lambda net, x: torch.stack((x, x.relu()), 2),
    "hstack": lambda net, x: torch.hstack([x, x.relu()]),
    "flip": lambda net, x: x.flip(1, -1) + torch.flip(x, (2,)),
    "roll": lambda net, x: x.roll(1, 2) + torch.roll(x, (1, -2), dims=(1, 3)),
    "sums": lambda net, x: x.sum((1, -1), keepdim=True) + x.sum(2, True) + torch.sum(
        x, dim=-1, keepdim=True),
    "means": lambda net, x: x.mean([2, 3]).unsqueeze(-1) + x.mean(dim=(-1, -2, 1), keepdim=True
                                                                  ).flatten(2),
    "sum of everything": lambda net, x: x.sum((1, 2, 3)),
    "pad": lambda net, x: F.pad(x, (1, 2, 0, 1), value=0.3) + F.pad(x, (2, 1, 1, 0)),
    "reflect": lambda net, x: F.pad(x, (1, 1, 1, 0), mode="reflect"),
    "interpolate": lambda net, x: F.interpolate(x, scale_factor=2),
    "interpolate to a size": lambda net, x: F.interpolate(x, (3, 5), mode="bilinear",
                                                          align_corners=True),
    "repeat": lambda net, x: x.repeat(1, 1, 2, 1).relu() + torch.tile(x, (1, 1, 2, 1)),
    "repeat interleave": lambda net, x: x.repeat_interleave(2, dim=1),
    "expand": lambda net, x: x[:, :1].expand(-1, 4, -1, -1) + x[:, :1].expand(
        x.size(0), 4, 3, 3),
    "narrow": lambda net, x: x.narrow(1, 1, 2) + x.select(2, 0)[:, :2, None],
    "index by a tensor": lambda net, x: x[:, torch.tensor([2, 0, 0])].relu(),
    "index select": lambda net, x: x.index_select(1, torch.tensor([3, 1], device="cpu")),
    "movedim": lambda net, x: x.movedim(1, -1) + x.swapaxes(1, 3),
    "triangle": lambda net, x: x.tril() + x.triu(1),
    "unfold": lambda net, x: F.unfold(x, 2, padding=1),
    "windows": lambda net, x: x.unfold(2, 2, 1),
    "shuffle": lambda net, x: F.pixel_shuffle(x, 2),
    "something between": lambda net, x: torch.cat([x[:, :2], x.relu(), x[:, 2:]], 1),
    "prelu": lambda net, x: F.prelu(x, net.a) + x.prelu(net.a[:1]),
    "pools": lambda net, x: F.adaptive_avg_pool2d(x, 2) + F.avg_pool2d(x, 2, 1),
    "transposed": lambda net, x: F.conv_transpose2d(x, net.w, None, 2, 1, 1),
    "conv1d": lambda net, x: F.conv1d(x.flatten(2), net.v, padding=1),
    "dropout of nothing": lambda net, x: F.dropout3d(x, 0.5, False),
    "unflatten": lambda net, x: x.flatten(1).unflatten(1, (2, -1)).sum(1),
}


@pytest.mark.parametrize("way", WAYS)
def test_functions_and_methods(way):
    check(WAYS[way], (4, 3, 3), a=nn.Parameter(draw(0, 4)), w=nn.Parameter(draw(1, 4, 2, 3, 3)),
          v=nn.Parameter(draw(2, 2, 4, 3)))


@given(shape=sizes(3, 1, 4), dims=st.sets(st.integers(1, 3), min_size=1), keep=st.booleans(),
       negative=st.booleans(), mean=st.booleans())
def test_sums_and_means_over_any_dimensions(shape, dims, keep, negative, mean):
    dims = tuple(d - 4 if negative else d for d in dims)
    check(lambda net, x: (x.mean if mean else x.sum)(dims, keepdim=keep), tuple(shape))


@given(shape=sizes(2, 1, 5), factor=st.sampled_from([0.5, 0.7, 1.0, 1.3, 2, 3]),
       mode=st.sampled_from(["nearest", "nearest-exact", "bilinear", "size"]))
def test_interpolation(shape, factor, mode):
    if min(shape) * factor < 1:
        return
    options = {"size": tuple(int(n * factor) for n in shape)} if mode == "size" else {
        "scale_factor": factor, "mode": mode}
    check(lambda net, x: F.interpolate(x, **options), (2, *shape))


@given(shape=sizes(3, 1, 4), pads=st.lists(st.integers(-1, 3), min_size=6, max_size=6),
       value=st.sampled_from([0.0, 1.0, -3.5]))
def test_padding(shape, pads, value):
    if any(n + a + b < 1 or n < 2 for n, a, b in zip(reversed(shape), pads[::2], pads[1::2],
                                                     strict=True)):
        return
    check(lambda net, x: F.pad(x, pads, value=value), tuple(shape))


# Each takes (batch, channels, height, width) of any size that it can take, and gives such again.
STEPS = [
    lambda x: x.relu(), lambda x: x.tanh(), lambda x: F.leaky_relu(x, 0.3), lambda x: x.flip(2),
    lambda x: x.transpose(2, 3), lambda x: x.roll(1, -1), lambda x: F.avg_pool2d(x, 2),
    lambda x: F.interpolate(x, scale_factor=2), lambda x: F.pad(x, (1, 0, 0, 1), value=0.5),
    lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), lambda x: torch.stack([x, -x], 1).sum(1) + x,
    lambda x: x - x.mean((2, 3), keepdim=True), lambda x: x.unbind(2)[0].unsqueeze(2) * 0.5 + x,
    lambda x: torch.cat([x, x.relu()], 1), lambda x: x.sum(1, keepdim=True) / x.size(1),
    lambda x: x.permute(0, 2, 3, 1).contiguous(), lambda x: x.clone().add_(1).mul_(0.7),
    lambda x: x.reshape(x.size(0), x.size(2), x.size(1), x.size(3)),
    lambda x: F.relu(x + 0.1, inplace=True) - x, lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
    lambda x: F.adaptive_avg_pool2d(x, (2, 3)), lambda x: x[:, :, 1:, ::2],
]


@settings(max_examples=150)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8), shape=sizes(3, 1, 4))
def test_any_sequence_of_operations(steps, shape):
    x, taken = torch.zeros(2, *shape), []
    for step in steps:  # those that torch takes there
        try:
            y = step(x)
        except (RuntimeError, IndexError):
            continue
        if 0 < y[0].numel() <= 200:
            x, taken = y, [*taken, step]

    def forward(net, x):
        for step in taken:
            x = step(x)
        return x

    check(forward, tuple(shape))


def test_prelu_has_a_slope_for_each_channel_and_is_homogeneous():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.PReLU(3), nn.Flatten(), nn.Linear(12, 5),
                        nn.PReLU(), nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.1, 0.5, 2.0]))
        net[6].weight.copy_(torch.tensor([-0.1, 0.5, 0.2, 0.0]))
    U = draw(0, 6, 1, 4, 4)
    for rescale in (False, True):
        model = ImplicitModel.from_network(net, (1, 4, 4), rescale=rescale, kappa=0.9)
        assert torch.allclose(model(U.flatten(1)), net(U), atol=1e-10)
    first, shared, last = (block.activation for block in model.blocks[::-1])
    assert (first.slope, first.homogeneous, first.increasing) == (2.0, True, True)
    assert (shared.name, shared.slope) == ("leaky_relu(0.25)", 1.0)
    assert not last.increasing and last.slope_of_value is None
    slopes = torch.autograd.functional.jacobian(first.fn, -torch.ones(12, dtype=torch.float64))
    assert torch.equal(slopes.diagonal(), net[1].weight.detach().repeat_interleave(4))


def test_lenets_with_what_is_new():
    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 4, 3, 2), nn.PReLU(4),
                                      nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
            self.up = nn.Sequential(nn.ConvTranspose2d(3, 4, 4, 2, 1), nn.ReLU(),
                                    nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3, padding=1))

        def forward(self, x):
            a, b = self.down(x).chunk(2, 1)
            return self.up(torch.stack([a, b.flip(-1)], 1).sum(1)) + x

    net = randomised(Autoencoder())
    U = draw(0, 4, 1, 8, 8)
    model = ImplicitModel.from_network(net, (1, 8, 8))
    assert torch.allclose(model(U.flatten(1)), net(U).flatten(1), atol=1e-9)
