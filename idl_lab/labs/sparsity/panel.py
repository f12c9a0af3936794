"""The panel of sparse models: choose how a network is thinned, and how far."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
from matplotlib.figure import Figure

from idl_lab import validation
from idl_lab.labs.kit.panel import Panel, dropdown
from idl_lab.labs.sparsity.plots import draw_student
from idl_lab.labs.sparsity.problems import Sparse, Task


def sparsity_panel(task: Task, walks: Mapping[str, Mapping[float, Sparse]], sparsity: float = 0.8
                   ) -> Panel:
    """Choose a method and a share of zeros; see what is left, who reads whom, what it is worth.

    Parameters
    ----------
    task : Task
    walks : mapping of str to mapping of float to Sparse
        By method and sparsity, the same ones for all methods.
    sparsity : float
        Where its control starts; one of theirs.

    Returns
    -------
    Panel
        Controls: method, gone (the share in per cent, as words).

    Raises
    ------
    ValueError
        If the sparsities differ, or there is none of that name.
    """
    methods = tuple(walks)
    if len({tuple(walk) for walk in walks.values()}) != 1:
        raise ValueError("walks must hold the same sparsities for every method, in one order.")
    options = {f"{100 * at:.4g}%": at for at in walks[methods[0]]}
    validation.choice("sparsity", f"{100 * sparsity:.4g}%", options)

    def draw(method: str, gone: str, figure: Figure | None) -> Figure:
        return draw_student(task, walks, method, options[gone], figure=figure)

    gone = ipywidgets.SelectionSlider(
        value=f"{100 * sparsity:.4g}%", options=tuple(options), description="gone",
        style={"description_width": "initial"}, layout={"width": "300px"})
    method = dropdown(methods[0], methods, "method")
    method.layout.width = "300px"
    return Panel(draw, {"method": method, "gone": gone})
