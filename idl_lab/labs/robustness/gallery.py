"""Digits attacked, and what is certified of the models that read them."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import robustness, training
from idl_lab.labs.kit.problems import digits_teacher, generator
from idl_lab.labs.robustness import plots
from idl_lab.labs.robustness.panel import margin_panel
from idl_lab.labs.robustness.problems import attacked, first_images, study, train_bounded
from idl_lab.model import ImplicitModel


@functools.cache
def _models() -> tuple[dict[str, ImplicitModel], Tensor, Tensor]:
    _, learn, test = digits_teacher(epochs=1)

    def new(**options) -> ImplicitModel:
        return ImplicitModel(64, 10, 20, device="cpu", generator=generator(), **options)

    models = {"κ = 0.9": new(kappa=0.9), "monotone": new(constraint="monotone")}
    for model in models.values():
        training.fit(model, learn, epochs=8, progress=False)
    models["trained for ε = 0.1"] = new(kappa=0.9)
    train_bounded(models["trained for ε = 0.1"], learn, 0.1, 8)
    return models, *first_images(test, 40)


def attack() -> Figure:
    """A digit, and what three attacks make of it."""
    models, U, labels = _models()
    model = models["κ = 0.9"]
    found = attacked(model, U[:1], labels[:1], 0.15, generator())
    found = {name: V[0] for name, V in found.items()}
    with torch.no_grad():
        said = {name: int(model(V[None]).argmax()) for name, V in found.items()}
    return plots.draw_attack(U[0], found, said, int(labels[0]))


def sensitivity() -> Figure:
    """The rows of S over the pixels."""
    return plots.draw_sensitivity(robustness.sensitivity(_models()[0]["κ = 0.9"]))


def certified() -> Figure:
    """Accuracy against the radius, between attack and certificate."""
    models, U, labels = _models()
    return plots.draw_certified({name: study(model, U, labels, (0.01, 0.03, 0.05, 0.1))
                                 for name, model in models.items()})


def margins() -> Figure:
    """The panel, at an image and a radius."""
    return margin_panel(*_models(), eps=0.05).figure


GALLERY = (attack, sensitivity, certified, margins)
