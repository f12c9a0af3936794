"""A model of the digits, and what training it costs."""

from __future__ import annotations

import pandas as pd
import torch
from matplotlib.figure import Figure

from idl_lab.data import load
from idl_lab.labs.kit.plots import draw_history
from idl_lab.labs.kit.problems import digits_model
from idl_lab.labs.training.plots import draw_sweep, draw_tolerance
from idl_lab.labs.training.problems import paired_difference, tolerance_study
from idl_lab.model import ImplicitModel
from idl_lab.training import fit


def history() -> Figure:
    """Eight epochs on the digits."""
    return draw_history(digits_model()[1])


def sweep() -> Figure:
    """κ on the digits, three runs each: what it costs, and that it buys nothing there."""
    costs, right = {}, {}
    for kappa in (0.0, 0.5, 0.9, 0.99):
        for run in range(3):
            draws = torch.Generator("cpu").manual_seed(run)
            train, test = load("digits", seed=0, batch_size=128)
            digits = ImplicitModel(64, 10, 40, kappa=kappa, generator=draws, device="cpu")
            fit(digits, train, epochs=8, lr=0.01, progress=False)
            U, labels = test.dataset.tensors
            with torch.no_grad():
                costs[kappa, run] = digits.equilibrium(U, keep_states=True).stats.steps
                right[kappa, run] = digits(U).argmax(dim=1) == labels
    rows = []
    for (kappa, run), steps in costs.items():
        one, usual = (torch.stack([right[k, r] for r in range(3)]) for k in (kappa, 0.9))
        rows.append({"kappa": kappa, "steps": steps, "error": paired_difference(one, usual)[1],
                     "gain": float(one[run].double().mean() - usual[run].double().mean())})
    return draw_sweep(pd.DataFrame(rows), "kappa", {"gain": "accuracy less that at κ = 0.9",
                                                    "steps": "steps of the solver"})


def tolerance() -> Figure:
    """A trained model solved to rtol = 0.1: the bound promises nothing, the margins hold."""
    digits, _ = digits_model()
    U, labels = load("digits")[1].dataset.tensors
    table, scores, exact = tolerance_study(digits, U, labels, [10.0 ** k for k in range(-5, 1)])
    best = exact.topk(2, dim=1).values
    margins = best[:, 0] - best[:, 1]
    doubtful = int(margins.argmin())
    return draw_tolerance(table, margins, 0.1, scores[4, doubtful], exact[doubtful])


GALLERY = (history, sweep, tolerance)
