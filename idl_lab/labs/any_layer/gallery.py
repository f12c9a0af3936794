"""A block as a layer: short gradients, the penalty, and weights that grow."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from idl_lab.data import load
from idl_lab.equilibrium import Neumann, Phantom
from idl_lab.fixed_point import Picard
from idl_lab.labs.any_layer.panel import stability_panel
from idl_lab.labs.any_layer.plots import (
    draw_courses,
    draw_short_gradients,
    draw_table,
)
from idl_lab.labs.any_layer.problems import classifier, gradient_table, train
from idl_lab.labs.kit.problems import generator


@functools.lru_cache(maxsize=1)
def _trained() -> tuple[nn.Sequential, nn.Module, Tensor, Tensor]:
    """A network after three epochs; its block, in float64, an injection and a gradient there."""
    batches, test = load("digits")
    net, twice = classifier(), classifier()
    train(net, batches, test, 3)
    twice.load_state_dict(net.state_dict())
    twice = twice.double()
    images, labels = next(iter(test))
    with torch.no_grad():
        u = twice.stem(images[:32].double())
        z = twice.layer(u)
    at = z.clone().requires_grad_()
    (g,) = torch.autograd.grad(nn.functional.cross_entropy(twice.read(at), labels[:32]), at)
    return net, twice.layer.f, u, g


def stability() -> Figure:
    """The trained block's weights doubled: bounded, and not convergent."""
    net, *_ = _trained()
    with torch.no_grad():
        u = net.stem(next(iter(load("digits")[1]))[0][:1])
    return stability_panel(net.layer.f, u, gain=2.0).figure


def table() -> Figure:
    """What each adjoint gives and costs; the times are another in every run."""
    return draw_table(gradient_table(*_trained()[1:], repeat=3))


def short_gradients() -> Figure:
    """Neumann's sum and the damped steps, term by term."""
    terms = (1, 2, 4, 8, 16)
    return draw_short_gradients(terms, {
        name: [gradient_table(*_trained()[1:], {"it": kind(k)})["error"].iloc[0] for k in terms]
        for name, kind in {"Neumann, k terms": Neumann,
                           "phantom, k steps, β = ½": lambda k: Phantom(k, 0.5)}.items()})


def courses() -> Figure:
    """A training that loses its equilibrium, and the same with the penalty."""
    tables = {}
    for weight in (0.0, 1.0):
        net = classifier(solver=Picard(rtol=1e-4, max_steps=40))
        tables[f"γ = {weight:g}"] = train(net, *load("digits"), 4, lr=0.05, weight=weight,
                                          generator=generator()).table
    return draw_courses(tables, 1e-4)


GALLERY = (stability, table, short_gradients, courses)
