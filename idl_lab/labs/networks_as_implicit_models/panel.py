"""The network panel: a net's matrices in units in which ‖A‖∞ ≤ κ, and what the units cost."""

from __future__ import annotations

import functools

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import validation
from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.labs.kit.problems import change_units, whole
from idl_lab.labs.networks_as_implicit_models.plots import draw_rescaling
from idl_lab.labs.networks_as_implicit_models.problems import NETWORKS, small_network
from idl_lab.model import ImplicitModel
from idl_lab.well_posedness import perron_frobenius, units


def network_panel(kind: str = "dense", layers: int = 3, kappa: float = 0.9, seed: int = 0
                  ) -> Panel:
    """Choose a network and κ; watch its matrices, its row sums and the units of its states.

    Parameters
    ----------
    kind : {"dense", "conv", "residual"}
        As for `examples.small_network`.
    layers : int
        Hidden layers, 1 to 6.
    kappa : float
        Where the slider for the bound on ‖A‖∞ starts, in [0.05, 0.99].
    seed : int

    Returns
    -------
    Panel
        Controls: kind, layers, kappa.
    """
    validation.integer("seed", seed, at_least=0)

    @functools.lru_cache(maxsize=8)  # moving κ reads nothing anew
    def read(kind: str, layers: int) -> tuple[Tensor, list[tuple[str, int]], float]:
        net = small_network(kind, layers, generator=torch.Generator("cpu").manual_seed(seed))
        model = ImplicitModel.from_network(net, (1, 8, 8))
        blocks = [(f"x{layers - k}", block.size) for k, block in enumerate(model.blocks)]
        return whole(model).double(), blocks, perron_frobenius(model.A.detach()).value

    def draw(kind: str, layers: int, kappa: float, figure: Figure | None) -> Figure:
        M, blocks, root = read(kind, layers)
        n = M.shape[1] - 64
        A = M[:n, :n]
        v = units(A, kappa)
        new = change_units(M, v)
        norm, small = float(A.abs().sum(1).max()), float(new[:n, :n].abs().sum(1).max())
        return draw_rescaling(
            new, A, v, blocks, kappa, 64, scale=float(M.abs().max()), figure=figure,
            verdict=f"{kind}, {n} states: λ_PF(|A|) = {root:.3g}, ‖A‖∞ from {norm:.3g} to "
                    f"{small:.3g}, largest unit {float(v.max()):.3g}")

    controls = {
        "kind": dropdown(kind, NETWORKS, "layers are"),
        "layers": slider(layers, 1, 6, 1, "hidden layers"),
        "kappa": slider(kappa, 0.05, 0.99, 0.01, "κ ≥ ‖A‖∞"),
    }
    return Panel(draw, controls)
