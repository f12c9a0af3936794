"""A task small enough to be trained in a millisecond, and fit with what its tests share."""

from __future__ import annotations

import torch
from helpers import draw
from pretend_device import device_waits
from torch import nn

from idl_lab.capture import Captured
from idl_lab.training import fit


def small_problem(seed=0, m=60):
    """Batches of a task a linear layer can learn, as plain lists, and such a layer."""
    U = draw(seed, m, 4)
    y = torch.argmax(U @ draw(99, 4, 3), dim=1)
    batches = [(U[k:k + 20], y[k:k + 20]) for k in range(0, m, 20)]
    model = nn.Linear(4, 3, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(0.1 * draw(1, 3, 4))
        model.bias.zero_()
    return model, batches


def sgd(model, lr=0.5):
    return torch.optim.SGD(model.parameters(), lr=lr)


def quick(model, *args, **options):
    """fit with SGD: Adam keeps its step count on torch's default device."""
    return fit(model, *args, **{"optimizer": sgd(model), "progress": False, **options})


def scripted(values):
    """A validation metric that follows a script, one value an epoch."""
    values = iter(values)
    return lambda Y, t: next(values)


def same(model, parameters):
    """Whether a model has these parameters, to the bit."""
    return all(map(torch.equal, model.parameters(), parameters))


def stand_in(body):
    """A graph that runs the step again at each replay, and counts the host's waits in it."""
    out = [[], None]

    def replay():
        device_waits()
        out[:] = body()
        seen = device_waits()
        assert not seen, seen

    return replay, out


class StandIn(Captured):
    """Captured, with the stand-in for a graph."""

    def __init__(self, *args):
        super().__init__(*args, record=stand_in)
