"""A sum and an argmax outside the range of training, and a series at other levels."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure

from idl_lab.fixed_point import Picard
from idl_lab.labs.extrapolation.panel import unit_panel
from idl_lab.labs.extrapolation.plots import draw_errors, draw_levels, draw_symmetries
from idl_lab.labs.extrapolation.problems import (
    Examples,
    Normalised,
    Perceptron,
    argmax,
    arithmetic,
    least_squares,
    over_scales,
    over_shifts,
    spikes,
    trained,
)
from idl_lab.labs.extrapolation.problems import errors as errors_of
from idl_lab.labs.kit.problems import generator
from idl_lab.labs.kit.recurrent import TorchRNN
from idl_lab.model import ImplicitModel
from idl_lab.rnn import ImplicitRNN

SCALES = [10.0 ** k for k in range(-2, 6)]
IMPLICIT = {"solver": Picard(rtol=1e-3), "activation": "relu", "device": "cpu"}


def _sums() -> tuple[dict, Examples]:
    """Models of a + b, briefly trained, and test samples."""
    learn, test = arithmetic("add", 1000, 500, generator=generator())
    models = trained({
        "implicit, ReLU": lambda draws: ImplicitModel(50, 1, 20, generator=draws, **IMPLICIT),
        "network, ReLU": lambda draws: Perceptron(50, 1, 1470, generator=draws),
        "network, ReLU and biases": lambda draws: Perceptron(50, 1, 1470, bias=True,
                                                             generator=draws),
        "network, tanh": lambda draws: Perceptron(50, 1, 1470, activation="tanh",
                                                  generator=draws),
    }, learn, 100, decay=0.97)
    return models, test


def errors() -> Figure:
    """ReLU without biases keeps its relative error at every scale; biases and tanh do not."""
    models, test = _sums()
    return draw_errors(over_scales(models, test, SCALES))


def symmetries() -> Figure:
    """Which of ten numbers is the largest: in other units, and from another zero."""
    learn, test = argmax(500, 500, generator=generator())

    def lstm(draws: torch.Generator) -> TorchRNN:
        return TorchRNN("LSTM", 1, 10, 1850, generator=draws)

    models = trained({
        "implicit RNN": lambda draws: ImplicitRNN(1, 10, 20, 20, generator=draws, **IMPLICIT),
        "LSTM": lstm, "LSTM, normalised": lambda draws: Normalised(lstm(draws)),
    }, learn, 100, decay=0.985)
    return draw_symmetries(over_scales(models, test, SCALES),
                           over_shifts(models, test, [0, 0.1, 0.3, 1, 3, 10, 30, 100]), 0.1)


def levels() -> Figure:
    """Forecasts of the spiky series at other levels than that of training."""
    learn = Examples(*(T[::8] for T in spikes(7, 20)[0]))
    models = trained({
        "implicit RNN": lambda draws: ImplicitRNN(1, 1, 22, 20, generator=draws, **IMPLICIT),
        "LSTM": lambda draws: TorchRNN("LSTM", 1, 1, 1829, generator=draws),
    }, learn, 15, lr=1e-2, batch=128) | {"least squares": least_squares(learn)}
    return draw_levels(pd.DataFrame([
        {"model": name, "level": level, "regime": regime} | errors_of(model, part)
        for level in (1, 2, 4, 7, 14, 28) for regime, part in spikes(level, 20)[1].items()
        for name, model in models.items()]), trained=7)


def unit() -> Figure:
    """A network with tanh, asked for sums ten times as large as those of its training."""
    panel = unit_panel({"sums": _sums()})
    panel.set(model="sums: network, tanh", digits=1.0)
    return panel.figure


GALLERY = (errors, symmetries, levels, unit)
