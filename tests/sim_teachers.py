"""Teachers for SIM: activations × structure × how the forward is written; which are refused."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from helpers import draw
from torch import nn
from torch.nn.utils import parametrizations

from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver


class Plain(nn.Module):
    """Linear, h, Linear, ReLU, Linear: 10-40-30-2."""

    def __init__(self, h, width=40):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(10, 40), nn.Linear(width, 30), nn.Linear(30, 2)
        self.h, self.phi = h, nn.ReLU()

    def forward(self, x):
        return self.c(self.phi(self.b(self.h(self.a(x)))))


class Step(nn.Module):
    """A function of x and of layers, in the place of h."""

    def __init__(self, fn, **layers):
        super().__init__()
        self.fn = fn
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.fn(self, x)


class Whole(Step):
    """The function is the whole forward; its layers are those of 10-40-30-2 with ReLU."""

    def __init__(self, fn, **layers):
        super().__init__(fn, **layers)
        self.net = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(),
                                 nn.Linear(30, 2))


def h(fn, width=40, **layers):
    return Plain(Step(lambda net, x: fn(x), **layers), width)


def layer(fn, width=40, **layers):
    return Plain(Step(fn, **layers), width)


def bent(*slopes):
    """PReLU, a slope for each channel."""
    phi = nn.PReLU(len(slopes))
    phi.weight = nn.Parameter(torch.tensor(slopes))
    return phi


def tokens(x):
    return x.reshape(-1, 5, 8)


def image(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 5, 8)), *layers, nn.Flatten())


# ---- refused, with the operation and the module that it stands in ------------------------------

RECURRENT = {"batch_first": True}
REFUSED = {
    "nn.LSTM": (lambda: layer(lambda net, x: net.r(x)[0], r=nn.LSTM(40, 40)), "h.r (LSTM)"),
    "nn.LSTM over tokens": (lambda: layer(lambda net, x: net.r(tokens(x))[0].flatten(1),
                                          r=nn.LSTM(8, 8, **RECURRENT)), "h.r (LSTM)"),
    "nn.GRU": (lambda: layer(lambda net, x: net.r(tokens(x))[0].flatten(1),
                             r=nn.GRU(8, 8, **RECURRENT)), "h.r (GRU)"),
    "nn.RNN": (lambda: layer(lambda net, x: net.r(tokens(x))[0].flatten(1),
                             r=nn.RNN(8, 8, nonlinearity="relu", **RECURRENT)), "h.r (RNN)"),
    "attention": (lambda: layer(lambda net, x: net.r(*3 * [tokens(x)])[0].flatten(1),
                                r=nn.MultiheadAttention(8, 2, **RECURRENT)),
                  "h.r (MultiheadAttention)"),
    "a product of tokens": (lambda: h(lambda x: F.scaled_dot_product_attention(
        *3 * [tokens(x)]).flatten(1)), "in h (Step) at line"),
    "a transformer's layer": (lambda: layer(
        lambda net, x: net.r(tokens(x)).flatten(1),
        r=nn.TransformerEncoderLayer(8, 2, 16, **RECURRENT)), "h.r (TransformerEncoderLayer)"),
    "nn.GLU": (lambda: Plain(nn.GLU(), 20), "applies glu outside an activation module in h (GLU)"),
    "nn.MaxPool1d": (lambda: layer(lambda net, x: net.r(x[:, None]).flatten(1), 20,
                                   r=nn.MaxPool1d(2)), "max_pool"),
    "nn.MaxPool2d": (lambda: image(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2)),
                     "in 3 (MaxPool2d)"),
    "nn.LayerNorm": (lambda: Plain(nn.LayerNorm(40)), "native_layer_norm"),
    "layer_norm": (lambda: h(lambda x: F.layer_norm(x, (40,))), "native_layer_norm"),
    "nn.GroupNorm": (lambda: Plain(nn.GroupNorm(4, 40)), "h (GroupNorm)"),
    "instance norm": (lambda: h(lambda x: F.instance_norm(tokens(x)).flatten(1)), "h (Step)"),
    "the batch's statistics": (lambda: Plain(nn.BatchNorm1d(40, track_running_stats=False)),
                               "h (BatchNorm1d)"),
    "softmax": (lambda: h(lambda x: x.softmax(1)), "_softmax"),
    "nn.Softmax at the end": (lambda: nn.Sequential(nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 2),
                                                    nn.Softmax(1)), "in 3 (Softmax)"),
    "relu of tokens": (lambda: h(lambda x: F.relu(x.reshape(-1, 8)).reshape(-1, 40)),
                       "applies relu outside"),
    "relu of the transpose": (lambda: h(lambda x: F.relu(x.T).T), "applies relu outside"),
    "relu of the flat batch": (lambda: h(lambda x: F.relu(x.flatten()).reshape(x.shape)),
                               "applies relu outside"),
    "relu in 16 bits": (lambda: h(lambda x: F.relu(x.half()).double()), "applies relu outside"),
    "a scripted relu": (lambda: Plain(torch.jit.script(nn.Sequential(nn.ReLU()))),
                        "applies relu outside"),
    "a square": (lambda: h(lambda x: .3 * x * x), "mul outside"),
    "a rational function": (lambda: h(lambda x: x / (1 + x * x)), "mul outside"),
    "masked_fill": (lambda: h(lambda x: x.masked_fill(x < 0, 0.0)), "lt outside"),
    "torch.where": (lambda: h(lambda x: torch.where(x > 0, x, .1 * x)), "h (Step) at line"),
    "a mask": (lambda: h(lambda x: x * (x > 0)), "gt outside"),
    "a rare torch.where": (lambda: h(lambda x: torch.where(x[:, :1] > 1.7, -x, x)), "h (Step)"),
    "a clamp that seldom binds": (lambda: h(lambda x: x.clamp(max=1.8)), "applies clamp"),
    "abs": (lambda: h(torch.abs), "applies abs outside"),
    "sin": (lambda: h(torch.sin), "applies sin outside"),
    "round": (lambda: h(lambda x: (4 * x).round() / 4), "applies round"),
    "whole numbers": (lambda: h(lambda x: x.long().double()), "_to_copy outside"),
    "normalize": (lambda: h(F.normalize), "norm outside"),
    "cumprod": (lambda: h(lambda x: x.cumprod(1)), "cumprod"),
    "sorting": (lambda: h(lambda x: x.sort(1)[0]), "applies sort"),
    "gather of an order": (lambda: h(lambda x: x.gather(1, x.argsort(1))), "sort outside"),
    "topk": (lambda: h(lambda x: x.topk(20, 1)[0], 20), "applies topk"),
    "argmax": (lambda: h(lambda x: x + F.one_hot(x.argmax(1), 40)), "argmax outside"),
    "an embedding": (lambda: layer(lambda net, x: x + net.r((x[:, 0] > 0).long()),
                                   r=nn.Embedding(2, 40)), "gt outside"),
    "a spectrum's size": (lambda: h(lambda x: torch.fft.rfft(x).abs(), 21), "abs outside"),
    "a bilinear layer": (lambda: layer(lambda net, x: net.r(x, x), r=nn.Bilinear(40, 40, 40)),
                         "h.r (Bilinear)"),
    "an einsum of x and x": (lambda: h(lambda x: torch.einsum("bi,bj->bi", x, x)), "h (Step)"),
    "a gate": (lambda: Whole(lambda net, x: net.net[4](net.net[3](net.net[2](net.net[1](
        y := net.net[0](x)) * y)))), "mul outside an activation module in the network (Whole)"),
    "the batch's mean": (lambda: h(lambda x: x - x.mean(0)), "h (Step) at line"),
    "a sum over the batch": (lambda: h(lambda x: x.cumsum(0) / 10), "cumsum outside"),
    "the batch in another order": (lambda: h(lambda x: x.flip(0)), "flip outside"),
    "a product with the batch": (lambda: h(lambda x: x @ (x.T @ x) / 100), "h (Step) at line"),
    "a branch on the batch": (lambda: Whole(lambda net, x: net.net(x if x.sum() > 0 else -x)),
                              "gt outside"),
    "a branch for each sample": (lambda: h(lambda x: torch.stack(
        [-r if r.sum() > 0 else r for r in x])), "gt outside"),
    "dropout that stays on": (lambda: h(F.dropout), "bernoulli"),
    "noise": (lambda: h(lambda x: x + .1 * torch.randn_like(x)), "randn_like outside"),
    "through numpy": (lambda: h(lambda x: torch.from_numpy(x.numpy().clip(0))), "Plain applies"),
}

# ---- matched -----------------------------------------------------------------------------------

ACCEPTED = {
    "nn.ReLU": lambda: Plain(nn.ReLU()),
    "nn.ReLU in place": lambda: Plain(nn.ReLU(inplace=True)),
    "nn.LeakyReLU": lambda: Plain(nn.LeakyReLU(0.3)),
    "nn.PReLU": lambda: Plain(nn.PReLU()),
    "nn.PReLU a channel": lambda: Plain(bent(*np.linspace(-1, 1, 40).tolist())),
    "nn.PReLU of a slope of 2": lambda: Plain(nn.PReLU(init=2.0)),
    "nn.PReLU up to 2": lambda: Plain(bent(*np.linspace(-2, 2, 40).tolist())),
    "nn.PReLU of channels": lambda: image(nn.Conv2d(1, 3, 2), bent(-0.5, 0.3, 1.5),
                                          nn.Conv2d(3, 1, 2)),
    "nn.Identity": lambda: Plain(nn.Identity()),
    "batch norm": lambda: Plain(nn.Sequential(nn.BatchNorm1d(40), nn.ReLU())),
    "dropout": lambda: Plain(nn.Sequential(nn.Dropout(0.5), nn.ReLU())),
    "F.dropout": lambda: layer(lambda net, x: F.dropout(x, training=net.training)),
    "no bias": lambda: nn.Sequential(nn.Linear(10, 40, bias=False), nn.ReLU(),
                                     nn.Linear(40, 2, bias=False)),
    "ReLU at the end": lambda: nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 2),
                                             nn.ReLU()),
    "a shared ReLU": lambda: Whole(lambda net, x: net.net[4](net.p(net.net[2](net.p(
        net.net[0](x))))), p=nn.ReLU()),
    "an activation in layers of its own": lambda: Plain(nn.Sequential(nn.Sequential(nn.ReLU()))),
    # how the forward is written
    "asks for dimensions": lambda: Whole(
        lambda net, x: net.net(x.reshape(len(x), -1) if x.ndim == 4 else x)),
    "asserts": lambda: Whole(lambda net, x: net.net(x) if x.shape[1] == 10 else 1 / 0),
    "asserts finite numbers": lambda: Whole(
        lambda net, x: net.net(x) if torch.isfinite(x).all() else 1 / 0),
    "reshape(len(x), -1)": lambda: Whole(lambda net, x: net.net(x.reshape(len(x), -1))),
    "to": lambda: Whole(lambda net, x: net.net(x.to(torch.float64))),
    "a loop over samples": lambda: Whole(lambda net, x: net.net(torch.stack([2 * r for r in x]))),
    "torch.vmap": lambda: Whole(lambda net, x: net.net(torch.vmap(lambda r: 2 * r)(x))),
    "inference mode": lambda: Whole(lambda net, x: torch.inference_mode()(net.net)(x)),
    "a keyword": lambda: Whole(lambda net, x: net.net[2:](net.net[1](input=net.net[0](x)))),
    "torch.compile": lambda: torch.compile(Plain(nn.ReLU()), backend="eager"),
    "nn.DataParallel": lambda: nn.DataParallel(Plain(nn.ReLU())),
    "it overwrites its input": lambda: Whole(lambda net, x: net.net(x.sub_(1))),
    "a clamp that never binds": lambda: Whole(lambda net, x: net.net(x.clamp(-9, 9))),
    "abs of what is positive": lambda: Whole(
        lambda net, x: net.net[2:](net.net[1](net.net[0](x)).abs())),
    "GELU far from zero": lambda: h(lambda x: F.gelu(x + 30) - 30),
    # structure
    "residual": lambda: Whole(lambda net, x: net.net[4](net.net[3](net.net[2](
        r := net.net[1](net.net[0](x)))) + r[:, :30])),
    "in place on a skip": lambda: Whole(lambda net, x: net.net[4](
        net.p(z := net.net[2](net.p(net.net[0](x)))) + z), p=nn.ReLU(inplace=True)),
    "cat": lambda: Whole(lambda net, x: net.net[4](torch.cat(
        [net.net[:4](x)[:, :20], x], 1))),
    "two branches": lambda: Whole(
        lambda net, x: net.net[4](net.net[3](net.net[:3](x) + net.w(net.p(net.v(x))))),
        v=nn.Linear(10, 20), w=nn.Linear(20, 30), p=nn.ReLU()),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(10, 40)),
                                           nn.ReLU(), nn.Linear(40, 2)),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(10, 40)),
                                         nn.ReLU(), nn.Linear(40, 2)),
    "a weight of exp": lambda: Whole(lambda net, x: net.net(x * net.v.exp()),
                                     v=nn.Parameter(torch.linspace(-1, 1, 10))),
    "positive weights of nn.Softplus": lambda: layer(
        lambda net, x: F.linear(x, net.p(net.r.weight)), r=nn.Linear(40, 40), p=nn.Softplus()),
    "as many weights as samples": lambda: Whole(lambda net, x: net.net(
        x + net.p(net.r.weight).mean(0)), r=nn.Linear(10, 100), p=nn.Tanh()),
    "flip and roll": lambda: Whole(lambda net, x: net.net(x.flip(1).roll(1, 1))),
    "cumsum": lambda: h(lambda x: x.cumsum(1)),
    "einsum": lambda: layer(lambda net, x: torch.einsum("bi,oi->bo", x, net.r.weight),
                            r=nn.Linear(40, 40)),
    "a filter by FFT": lambda: h(lambda x: torch.fft.irfft(
        torch.fft.rfft(x) * torch.linspace(1, 0, 21), n=40)),
    "bicubic interpolation": lambda: h(lambda x: F.interpolate(
        x.reshape(-1, 1, 5, 8), (8, 5), mode="bicubic").flatten(1)),
    "average pooling": lambda: h(lambda x: F.avg_pool1d(x[:, None], 2).flatten(1), 20),
    "convolutions": lambda: image(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(),
                                  nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU()),
}
WIDTH = {"nn.MaxPool2d": 40, "nn.PReLU of channels": 40, "convolutions": 40}


def made(make):
    """A teacher in float64 whose weights and running statistics come from a seed."""
    teacher = make().double()
    seed = 0
    for layer in teacher.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
            for T in [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
                if T.is_floating_point():
                    fan_in = T[0].numel() if T.dim() > 1 else 4
                    with torch.no_grad():
                        T.copy_(1.7 * draw(seed := seed + 1, *T.shape) / fan_in ** 0.5)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_var is not None:
            layer.running_var.square_().add_(0.3)
    return teacher


def trained(teacher, width=10, *, batches=4, **options):
    options = {"lambda_z": 1e-4, "lambda_y": 1e-4, "device": "cpu", "progress": False,
               "dtype": torch.float64, **options}
    return SIM(**options).train(ADMMSolver(device="cpu", progress=False), teacher,
                                draw(7, 100 * batches, width).chunk(batches))


def fidelity(sim, teacher, width=10):
    U = draw(8, 500, width)
    with torch.no_grad():
        Y, given = teacher.eval()(U.clone()).flatten(1), sim.model(U)
    return 1 - float((given - Y).square().sum() / (Y - Y.mean(0)).square().sum())
