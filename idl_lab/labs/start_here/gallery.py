"""A model of the digits on one image."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab.data import load
from idl_lab.labs.kit.problems import generator
from idl_lab.labs.start_here.plots import draw_digit
from idl_lab.model import ImplicitModel
from idl_lab.training import fit


def _trained() -> tuple[ImplicitModel, Tensor, Tensor, object]:
    train, test = load("digits", seed=0)
    digits = ImplicitModel(64, 10, 40, kappa=0.9, generator=generator(), device="cpu")
    history = fit(digits, train, test, epochs=8, progress=False)
    U, labels = next(iter(test))
    return digits, U, labels, history


def digit() -> Figure:
    """A trained model on one test image."""
    digits, U, labels, _ = _trained()
    with torch.no_grad():
        states = digits.equilibrium(U[:1], keep_states=True).trace.states[:, 0]
        outputs = digits.output(states, U[:1].expand(len(states), -1))
    return draw_digit(U[0].reshape(8, 8), states, outputs, label=int(labels[0]))


GALLERY = (digit,)
