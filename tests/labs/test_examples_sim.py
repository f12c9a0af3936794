"""The teachers of the SIM labs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers import rejects
from sklearn.datasets import load_digits
from torch import nn

from idl_lab import training
from idl_lab.labs.kit.problems import digits_teacher, random_teacher
from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver


def test_a_teacher_comes_from_its_seed_and_knows_the_digits():
    one, train, test = digits_teacher(3, epochs=12)
    two, three = digits_teacher(3, epochs=12)[0], digits_teacher(4, epochs=1)[0]
    for a, b, c in zip(one.parameters(), two.parameters(), three.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert not one.training and training.evaluate(one, test) > 0.8
    assert training.evaluate(one, train) > 0.95


def test_the_loaders_hold_the_digits_in_their_order():
    _, *loaders = digits_teacher(epochs=1)
    pixels, labels = load_digits(return_X_y=True)
    U, y = (torch.cat([batch[k] for loader in loaders for batch in loader]) for k in (0, 1))
    np.testing.assert_allclose(16 * U.numpy(), pixels)
    assert y.tolist() == labels.tolist()
    assert [len(loader.dataset) for loader in loaders] == [1400, 397]


def test_layers_are_what_was_asked_for():
    net = digits_teacher(hidden=(9, 8), biases=True, activation=nn.Tanh, epochs=1)[0]
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(9, 64), (8, 9), (10, 8)]
    assert all(layer.bias is not None for layer in layers)
    assert [type(part) for part in net].count(nn.Tanh) == 2
    assert all(layer.bias is None for layer in digits_teacher(epochs=1)[0][::2])


def test_a_convolutional_teacher_takes_images():
    net, train, _ = digits_teacher(conv=True, biases=True, epochs=1)
    assert next(iter(train))[0].shape == (100, 1, 8, 8)
    assert [tuple(p.shape) for p in net.parameters()][::2] == [(4, 1, 3, 3), (8, 4, 3, 3), (10, 32)]


def test_a_random_teacher_is_its_seeds_and_right_by_definition():
    one, train, test = random_teacher(3, samples=40)
    two, other = random_teacher(3, samples=40)[0], random_teacher(4, samples=40)[0]
    for a, b, c in zip(one.parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert [tuple(p.shape) for p in one.parameters()] == [(40, 10), (30, 40), (2, 30)]
    assert training.evaluate(one, train) == training.evaluate(one, test) == 1
    U, V = (torch.cat([batch for batch, _ in loader]) for loader in (train, test))
    assert U.shape == V.shape == (40, 10) and not torch.equal(U, V)
    assert type(random_teacher(samples=1, activation=nn.Tanh)[0][1]) is nn.Tanh


def test_a_random_teacher_needs_its_layers():
    """More is lost without them than on digits, by far."""
    without = SIM(kappa=0.0, rescale=False, regenerate_states=True, device="cpu", progress=False)
    solver, fidelity = ADMMSolver(device="cpu", progress=False), {}
    for name, (teacher, train, test) in {"random": random_teacher(),
                                         "digits": digits_teacher()}.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "the student is poor"
            without.train(solver, teacher, train)
        fidelity[name] = without.fidelity(test)
    assert fidelity["random"] < 0.95 and fidelity["digits"] > 0.99


@pytest.mark.parametrize(("options", "fragments"), [
    ({"seed": -1}, ["seed", "at least 0"]),
    ({"epochs": 0}, ["epochs", "at least 1"]),
    ({"hidden": (5, 0)}, ["hidden", "at least 1"]),
])
def test_refusals(options, fragments):
    rejects(lambda: digits_teacher(**options), ValueError, *fragments)


@pytest.mark.parametrize(("options", "fragments"), [
    ({"seed": -1}, ["seed", "at least 0"]), ({"samples": 0}, ["samples", "at least 1"]),
    ({"sizes": (5, 0, 2)}, ["size", "at least 1"]), ({"sizes": (5, 2, 0)}, ["size", "at least 1"]),
])
def test_refusals_of_a_random_teacher(options, fragments):
    rejects(lambda: random_teacher(**options), ValueError, *fragments)
