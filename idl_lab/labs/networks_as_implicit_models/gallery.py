"""Networks read off."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import well_posedness
from idl_lab.labs.kit.plots import draw_rescaled_rows
from idl_lab.labs.kit.problems import change_units, generator, whole
from idl_lab.labs.networks_as_implicit_models.plots import draw_blocks, draw_rescaling, draw_units
from idl_lab.labs.networks_as_implicit_models.problems import small_network
from idl_lab.model import ImplicitModel


def _network(kind: str) -> tuple[Tensor, list[tuple[str, int]]]:
    """[A B; C D] of a network of four hidden layers, and the blocks of its states."""
    net = small_network(kind, 4, generator=generator())
    model = ImplicitModel.from_network(net, (1, 8, 8))
    return whole(model).double(), [(f"x{4 - k}", b.size) for k, b in enumerate(model.blocks)]


def _rescaled(kind: str, kappa: float) -> tuple[Tensor, Tensor, Tensor, list[tuple[str, int]]]:
    """The same in units in which ‖A‖∞ ≤ κ; A before; the units; the blocks."""
    M, blocks = _network(kind)
    n = sum(size for _, size in blocks)
    v = well_posedness.units(M[:n, :n], kappa)
    return change_units(M, v), M[:n, :n], v, blocks


def blocks() -> Figure:
    """A convolutional network: equal diagonals."""
    M, names = _network("conv")
    return draw_blocks(M, [*names, ("ŷ", 10)], [*names, ("u", 64)], name="[A B; C D]")


def rescaling() -> Figure:
    """A residual network with ‖A‖∞ ≤ 0.5."""
    new, A, v, names = _rescaled("residual", 0.5)
    return draw_rescaling(new, A, v, names, 0.5, 64, scale=0.5,
                                verdict="a residual network of four hidden layers")


def rescaled_rows() -> Figure:
    """The same, its row sums."""
    new, A, _, names = _rescaled("residual", 0.5)
    return draw_rescaled_rows(A, new[:len(A), :len(A)], names, 0.5)


def units() -> Figure:
    """The same, its units."""
    _, _, v, names = _rescaled("residual", 0.5)
    return draw_units(v, names)


GALLERY = (blocks, rescaling, rescaled_rows, units)
