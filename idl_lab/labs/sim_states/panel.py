"""The panel of the bound κ: what rescaling saves a model that is fitted to a teacher's states."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
from matplotlib.figure import Figure
from torch import nn

from idl_lab import training, validation
from idl_lab.labs.kit.panel import Panel
from idl_lab.labs.sim_states.plots import draw_bound
from idl_lab.labs.sim_states.problems import bound_study
from idl_lab.model import ImplicitModel
from idl_lab.sim.hooks import Batches
from idl_lab.sim.solvers import ADMMSolver, BaseSolver
from idl_lab.well_posedness import units


def sim_states_panel(teacher: nn.Module, train: Batches, test: Batches, kappa: float = 0.5,
                     kappas: Sequence[float] = (0.05, 0.1, 0.3, 0.5, 0.8, 0.99), *,
                     solver: BaseSolver | None = None) -> Panel:
    """Choose κ; watch the teacher's row sums, the misfit of each layer and the accuracy.

    All models are fitted before the panel shows, with and without rescaling.

    Parameters
    ----------
    teacher : nn.Module
        On the CPU; Linear layers of flat inputs, with positively homogeneous activations.
    train, test : iterable of (U, target)
    kappa : float
        Where the control starts; one of ``kappas``.
    kappas : sequence of float
        In (0, 1).
    solver : BaseSolver, optional
        ADMM to a relative gap of 1e-4 by default; λ = 0.1.

    Returns
    -------
    Panel
        Control: kappa, the number as words.
    """
    options = tuple(f"{validation.real('kappas', k, above=0.0, below=1.0):g}" for k in kappas)
    validation.choice("kappa", f"{kappa:g}", options)
    solver = solver or ADMMSolver(tol=1e-4, device="cpu", progress=False)
    table = bound_study(teacher, train, test, [float(k) for k in options], solver)
    model = ImplicitModel.from_network(teacher)
    A = model.A.detach().to_dense().double()
    blocks = [(f"layer {len(model.blocks) - k}", b.size) for k, b in enumerate(model.blocks)]
    score, images = training.evaluate(teacher, test), sum(len(y) for _, y in test)

    def draw(kappa: str, figure: Figure | None) -> Figure:
        v = units(A, float(kappa))
        return draw_bound(table, A, A / v[:, None] * v, blocks, float(kappa), score, images,
                          figure=figure)

    control = ipywidgets.SelectionSlider(
        value=f"{kappa:g}", options=options, description="κ ≥ ‖A‖∞",
        style={"description_width": "initial"}, layout={"width": "300px"})
    return Panel(draw, {"kappa": control})
