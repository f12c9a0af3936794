"""A model of the digits, and what training it costs."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import plots
from idl_lab.data import load
from idl_lab.examples import (
    tolerance_study,
)
from idl_lab.figures.draws import generator, normal
from idl_lab.model import ImplicitModel
from idl_lab.training import evaluate, fit


def network(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, B, C, D) of a bias-free network 8-12-10-4: x = (x₂, x₁), the last layer first."""
    W0, W1, W2 = (normal(*shape, generator=generator) for shape in ((12, 8), (10, 12), (4, 10)))
    A = torch.zeros(22, 22, dtype=W0.dtype, device=W0.device)
    B = torch.zeros(22, 8, dtype=W0.dtype, device=W0.device)
    C = torch.zeros(4, 22, dtype=W0.dtype, device=W0.device)
    A[:10, 10:], B[10:], C[:, :10] = W1, W0, W2
    return A, B, C, torch.zeros(4, 8, dtype=W0.dtype, device=W0.device)


def model() -> Figure:
    """A feed-forward network as an implicit model, beside a dense one."""
    draws = generator()
    dense = [normal(*s, generator=draws) for s in ((22, 22), (22, 8), (4, 22), (4, 8))]
    return plots.draw_model({"a network of two hidden layers": network(draws),
                             "an implicit model": tuple(dense)}, blocks=(10, 12))


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
    return plots.draw_digit(U[0].reshape(8, 8), states, outputs, label=int(labels[0]))


def history() -> Figure:
    """Eight epochs on the digits."""
    return plots.draw_history(_trained()[3])


def sweep() -> Figure:
    """κ on the digits, three runs each: what it costs, and that it buys nothing there."""
    rows = []
    for kappa in (0.0, 0.5, 0.9, 0.99):
        for run in range(3):
            draws = torch.Generator("cpu").manual_seed(run)
            train, test = load("digits", seed=run, batch_size=128)
            digits = ImplicitModel(64, 10, 40, kappa=kappa, generator=draws, device="cpu")
            fit(digits, train, epochs=8, lr=0.01, progress=False)
            U = test.dataset.tensors[0]
            with torch.no_grad():
                steps = digits.equilibrium(U, keep_states=True).stats.steps
            rows.append({"kappa": kappa, "accuracy": evaluate(digits, test), "steps": steps})
    return plots.draw_sweep(pd.DataFrame(rows), "kappa", {"accuracy": "accuracy",
                                                          "steps": "steps of the solver"})


def tolerance() -> Figure:
    """A trained model solved to tol = 0.1: the bound promises nothing, the margins hold."""
    digits, _, _, _ = _trained()
    U, labels = load("digits")[1].dataset.tensors
    table, scores, exact = tolerance_study(digits, U, labels, [10.0 ** k for k in range(-5, 3)])
    best = exact.topk(2, dim=1).values
    margins = best[:, 0] - best[:, 1]
    doubtful = int(margins.argmin())
    return plots.draw_tolerance(table, margins, 0.1, scores[4, doubtful], exact[doubtful])


GALLERY = (model, digit, history, sweep, tolerance)
