"""The reading panel: a recurrent implicit model reads a digit row by row."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.implicit_rnn.plots import draw_reading
from idl_lab.labs.kit.panel import Panel, player, slider
from idl_lab.rnn import ImplicitRNN


def reading_panel(model: ImplicitRNN, rows: Tensor, labels: Tensor) -> Panel:
    """Choose an image and scrub through its rows; watch state, scores, and cold and warm solves.

    Parameters
    ----------
    model : ImplicitRNN
        One input for each pixel of a row, one output a class.
    rows : Tensor, shape (m, time, w)
        Images in [0, 1].
    labels : Tensor, shape (m,)

    Returns
    -------
    Panel
        Controls: image, time.

    Raises
    ------
    ValueError
        If there is no image, or not a label for each; for a model of several cells, whose
        states are not those of one equation.
    """
    if len(model.recurrent.cells) > 1:
        raise ValueError(f"the panel shows one layer and one direction, got a model of "
                         f"{len(model.recurrent.cells)} cells.")
    (cell,) = model.recurrent.cells
    validation.tensor("rows", rows, "m time w", w=cell.input_dim)
    if not 0 < len(rows) == len(labels):
        raise ValueError(f"rows and labels must hold as many images, at least one, got "
                         f"{len(rows)} and {len(labels)}.")
    rows = rows.to(model.linear.weight.device)

    @functools.lru_cache(maxsize=8)  # scrubbing solves nothing anew
    @torch.no_grad()
    def read(image: int) -> tuple[Tensor, Tensor, dict[str, list[int]]]:
        h, x, states, hidden, cold, warm = None, None, [], [], [], []
        for u in rows[image]:
            cold.append(cell.step(u, h)[1].stats.steps)
            h, solution = cell.step(u, h, X0=x)
            x = solution.value
            warm.append(solution.stats.steps)
            states.append(x)
            hidden.append(h)
        return torch.stack(states), model.linear(torch.stack(hidden)), {"cold": cold, "warm": warm}

    def draw(image: int, time: int, figure: Figure | None) -> Figure:
        states, scores, steps = read(image)
        return draw_reading(rows[image], states, scores, steps, time, int(labels[image]),
                            figure=figure)

    last = rows.shape[1] - 1
    controls = {"image": slider(0, 0, len(rows) - 1, 1, "image"),
                "time": slider(last, 0, last, 1, "row")}
    return Panel(draw, controls, play=("time", player(last)))
