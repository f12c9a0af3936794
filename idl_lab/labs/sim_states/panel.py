"""The panel of the bound κ: what rescaling saves a model that is fitted to a teacher's states."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from idl_lab import validation
from idl_lab.labs.kit.panel import Panel, dropdown
from idl_lab.labs.sim_states.plots import draw_bound
from idl_lab.model import ImplicitModel
from idl_lab.well_posedness import units


def sim_states_panel(teachers: Mapping[str, nn.Module], studies: Mapping[str, pd.DataFrame],
                     kappa: float = 0.5) -> Panel:
    """Choose κ; watch a teacher's row sums, the misfit of each layer and the fidelity.

    Parameters
    ----------
    teachers : mapping of str to nn.Module
        Of Linear layers with positively homogeneous activations.
    studies : mapping of str to pandas.DataFrame
        Of each teacher what `bound_study` gave, all for the same κ.
    kappa : float
        Where the control starts.

    Returns
    -------
    Panel
        Controls: teacher, and kappa, the number as words.

    Raises
    ------
    ValueError
        If the studies are of other teachers or have not the same κ, or ``kappa`` is not among
        them.
    """
    found = [sorted(set(study.index.get_level_values("kappa"))) for study in studies.values()]
    if list(studies) != list(teachers) or any(kappas != found[0] for kappas in found):
        raise ValueError(f"studies must be of {', '.join(teachers)}, all for the same κ.")
    options = {f"{value:g}": value for value in found[0]}
    validation.choice("kappa", f"{kappa:g}", options)
    models = {name: ImplicitModel.from_network(teacher) for name, teacher in teachers.items()}
    matrices = {name: model.A.detach().to_dense().cpu().double()
                for name, model in models.items()}
    blocks = {name: [(f"layer {len(model.blocks) - k}", b.size)
                     for k, b in enumerate(model.blocks)] for name, model in models.items()}

    def draw(teacher: str, kappa: str, figure: Figure | None) -> Figure:
        A = matrices[teacher]
        v = units(A, options[kappa])
        return draw_bound(studies[teacher], A, A / v[:, None] * v, blocks[teacher],
                          options[kappa], figure=figure)

    control = ipywidgets.SelectionSlider(
        value=f"{kappa:g}", options=tuple(options), description="κ ≥ ‖A‖∞",
        style={"description_width": "initial"}, layout={"width": "300px"})
    return Panel(draw, {"teacher": dropdown(next(iter(teachers)), tuple(teachers), "teacher"),
                        "kappa": control})
