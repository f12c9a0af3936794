"""The margin panel: one image, a radius, and what can and cannot happen within it."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.labs.robustness.plots import draw_margins
from idl_lab.labs.robustness.problems import RANGE, STEPS, contractive, differences
from idl_lab.model import ImplicitModel
from idl_lab.robustness import bounds, pgd

MOST, STEP = 0.15, 0.005


def margin_panel(models: Mapping[str, ImplicitModel], U: Tensor, labels: Tensor,
                 eps: float = 0.03) -> Panel:
    """Choose a model, an image and ε; watch attack, prediction and the bounds of the margins.

    Parameters
    ----------
    models : mapping of str to ImplicitModel
    U : Tensor, shape (m, h · h)
        Pixels in [0, 1], on the models' device.
    labels : Tensor, shape (m,)
    eps : float
        Where the slider starts, in [0, 0.15].

    Returns
    -------
    Panel
        Controls: image, eps, model.

    Raises
    ------
    ValueError
        If there is no model or no image, or not a label for each.
    """
    validation.tensor("U", U, "m p")
    if not models or not 0 < len(U) == len(labels):
        raise ValueError(f"a model and as many labels as images, at least one, are wanted, got "
                         f"{len(models)} models, {len(U)} images and {len(labels)} labels.")

    @functools.cache
    def margins_of(name: str, label: int) -> ImplicitModel:
        return differences(models[name], label)

    @functools.lru_cache(maxsize=128)
    def found(name: str, image: int, eps: float) -> tuple:
        u, label = U[image:image + 1], labels[image:image + 1]
        V = pgd(models[name], u, label, eps, steps=STEPS, progress=False, **RANGE)
        margins = margins_of(name, int(label))
        methods = ("norm", "interval", "affine") if contractive(margins) else ("norm", "affine")
        known = {}
        for method in methods:
            of = bounds(margins, u, eps, method=method, progress=False, **RANGE)
            known[method] = of.lower[0], of.upper[0]
        with torch.no_grad():
            first, last = margins(torch.cat([u, V]))
        return u[0], V[0], first, last, known, int(label)

    def draw(image: int, eps: float, model: str, figure: Figure | None) -> Figure:
        u, V, first, last, known, label = found(model, image, eps)
        return draw_margins(u, V, first, last, known, label, eps, figure=figure)

    validation.real("eps", eps, at_least=0.0, at_most=MOST)
    controls = {"image": slider(0, 0, len(U) - 1, 1, "image"),
                "eps": slider(eps, 0.0, MOST, STEP, "ε"),
                "model": dropdown(next(iter(models)), tuple(models), "model")}
    controls["eps"].readout_format = ".3f"
    return Panel(draw, controls)
