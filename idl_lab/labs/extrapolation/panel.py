"""The unit panel: the same samples in another unit, and what a model makes of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.extrapolation.plots import draw_unit
from idl_lab.labs.extrapolation.problems import Examples, errors
from idl_lab.labs.kit.panel import Panel, dropdown, slider

LOW, HIGH, PER_DECADE = -3, 5, 4
SHOWN = 300  # samples of which the answers are drawn


def unit_panel(tasks: Mapping[str, tuple[Mapping[str, Callable[[Tensor], Tensor]], Examples]],
               digits: float = 0.0) -> Panel:
    """Choose a trained model and multiply its inputs; watch its answers and errors.

    Parameters
    ----------
    tasks : mapping of str to (mapping of str to callable, Examples)
        By a task's name its models and test samples; the first model of a task is drawn beside
        the chosen one.
    digits : float
        log₁₀ of the scale at first, in [−3, 5].

    Returns
    -------
    Panel
        Controls: digits, model ("task: model").

    Raises
    ------
    ValueError
        If there is no task, or one has no model.
    """
    if not tasks or not all(models for models, _ in tasks.values()):
        raise ValueError(f"tasks must hold at least one, each with a model, got {list(tasks)}.")
    grid = [10.0 ** (k / PER_DECADE) for k in range(LOW * PER_DECADE, HIGH * PER_DECADE + 1)]
    names = {f"{task}: {name}": (task, name) for task, (models, _) in tasks.items()
             for name in models}

    @functools.cache  # a model is asked once
    def curves(task: str, name: str) -> dict[str, Tensor]:
        models, examples = tasks[task]
        found = [errors(models[name], examples.scaled(scale)) for scale in grid]
        return {column: torch.tensor([row[column] for row in found], device="cpu")
                for column in found[0]}

    @functools.lru_cache(maxsize=64)
    @torch.no_grad()
    def answers(task: str, name: str, scale: float) -> tuple[Tensor, Tensor, int | None]:
        models, examples = tasks[task]
        some = Examples(*(T[:SHOWN] for T in examples.scaled(scale)))
        Y = models[name](some.U)
        if some.numeric:
            return Y[:, 0], some.target[:, 0], None
        return Y.argmax(dim=1), some.target, Y.shape[1]

    def draw(digits: float, model: str, figure: Figure | None) -> Figure:
        task, name = names[model]
        scale = grid[int(np.clip(round((digits - LOW) * PER_DECADE), 0, len(grid) - 1))]
        said, wanted, classes = answers(task, name, scale)
        shown = {each: curves(task, each) for each in dict.fromkeys((name, next(iter(
            tasks[task][0]))))}
        return draw_unit(scale, said, wanted, shown, grid, classes, figure=figure)

    validation.real("digits", digits, at_least=LOW, at_most=HIGH)
    controls = {"digits": slider(digits, LOW, HIGH, 1 / PER_DECADE, "log₁₀ scale"),
                "model": dropdown(next(iter(names)), tuple(names), "model")}
    controls["model"].layout.width = "310px"  # for the longest name
    return Panel(draw, controls)
