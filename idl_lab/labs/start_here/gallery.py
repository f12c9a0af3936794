"""A model of the digits on one image."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from idl_lab.data import load
from idl_lab.labs.kit.problems import digits_model
from idl_lab.labs.start_here.plots import draw_digit


def digit() -> Figure:
    """A trained model on one test image."""
    digits, _ = digits_model()
    U, labels = next(iter(load("digits", seed=0)[1]))
    with torch.no_grad():
        states = digits.equilibrium(U[:1], keep_states=True).trace.states[:, 0]
        outputs = digits.output(states, U[:1].expand(len(states), -1))
    return draw_digit(U[0].reshape(8, 8), states, outputs, label=int(labels[0]))


GALLERY = (digit,)
