"""What a teacher's layers compute on data, stacked as the states of an implicit model.

Hooks on the teacher's activation modules see the pre-activations Z and the activations
X = φ(Z) of each call; stacked last layer first, with the inputs U and the outputs Y, they are
all that state-driven implicit modeling needs (Tsai, Decugis, El Ghaoui, Atamturk 2022,
State-driven Implicit Modeling, arXiv 2209.09389). It sees them only through the products
gathered in `GramStatistics`, which are summed batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from idl_lab import networks, validation
from idl_lab.activations import Activation
from idl_lab.networks import Block, blockwise, from_scipy
from idl_lab.sim.hooks import Batches, States, states_by_batch
from idl_lab.well_posedness import units

# Units are found for a ball smaller by this part: V⁻¹AV formed from them in float64 rounds, and
# would otherwise leave the ball that it was rescaled into.
ROOM = 1e-12


@dataclass(frozen=True)
class GramStatistics:
    """Products of the states, summed over the samples; Φ = [X U] or [X U 1] (m, d).

    Attributes
    ----------
    gram : Tensor, shape (d, d)
        ΦᵀΦ; this and all tensors here are float64 on the CPU.
    cross_Z, cross_Y : Tensor, shapes (n, d) and (q, d)
        ZᵀΦ and YᵀΦ.
    norms_Z, norms_Y : Tensor, shapes (n,) and (q,)
        Σ z² and Σ y² of each column.
    samples, n, p, q : int
        How many samples, states, inputs and outputs.
    ones : bool
        Whether Φ ends with a column of ones, whose weights are the biases.
    blocks : tuple of Block
        In the order of the states: the last call of an activation first.
    units : Tensor, shape (n,)
        The states are given in multiples of these; ones as the teacher has them.
    input_shape : tuple of int
        Of one sample, before it was flattened.
    """

    gram: Tensor
    cross_Z: Tensor
    cross_Y: Tensor
    norms_Z: Tensor
    norms_Y: Tensor
    samples: int
    n: int
    p: int
    q: int
    ones: bool
    blocks: tuple[Block, ...]
    units: Tensor
    input_shape: tuple[int, ...] = ()

    @property
    def activation(self) -> Activation:
        """φ, each block with its own activation."""
        return blockwise([(block.activation, block.size) for block in self.blocks])

    def without_ones(self) -> GramStatistics:
        """The same without the column of ones: a model without biases."""
        if not self.ones:
            return self
        return replace(self, gram=self.gram[:-1, :-1].clone(), cross_Z=self.cross_Z[:, :-1].clone(),
                       cross_Y=self.cross_Y[:, :-1].clone(), ones=False)

    def rescaled(self, v: Tensor) -> GramStatistics:
        """The statistics of X V⁻¹ and Z V⁻¹, V = diag(v): new units of the states.

        Parameters
        ----------
        v : Tensor, shape (n,)
            Positive, float64 on the CPU.

        Raises
        ------
        TypeError, ValueError
            For a v of another shape or dtype, and for entries that are not positive.
        """
        validation.tensor("v", v, "n", like=self.gram, n=self.n)
        if not (v > 0).all():
            raise ValueError(f"v must be positive, got a smallest entry of {float(v.min()):g}.")
        scale = torch.cat([v, torch.ones_like(self.gram[0, self.n:])])
        return replace(
            self, gram=self.gram / scale / scale[:, None],
            cross_Z=self.cross_Z / scale / v[:, None], cross_Y=self.cross_Y / scale,
            norms_Z=self.norms_Z / v ** 2, units=self.units * v)


def collect(teacher: nn.Module, loader: Batches, *, skip_layers: int | None = None,
            layers: Sequence[str] | None = None, progress: bool = True) -> States:
    """A teacher's states on all samples of a loader: memory grows with their number.

    Parameters
    ----------
    teacher, loader, skip_layers, layers, progress
        As for `gram_statistics`.

    Returns
    -------
    States
        In the teacher's dtype, on the CPU.

    Raises
    ------
    TypeError, ValueError
        As `gram_statistics`.
    """
    batches = [batch for _, batch in states_by_batch(
        teacher, loader, skip_layers=skip_layers, layers=layers, progress=progress)]
    return States(*(torch.cat([T.flatten(1).cpu() for T in parts])
                    for parts in zip(*batches, strict=True)))


def gram_statistics(teacher: nn.Module, loader: Batches, *, skip_layers: int | None = None,
                    layers: Sequence[str] | None = None, ones: bool = True,
                    progress: bool = True) -> GramStatistics:
    """Run a teacher over a loader and sum the products of its states, batch by batch.

    Memory does not grow with the number of samples. The teacher runs in eval mode, on its own
    device, and is left as it was found.

    Parameters
    ----------
    teacher : torch.nn.Module
        Takes a batch (m, ...) and gives one tensor (m, ...); its activations are modules.
    loader : iterable
        Batches U or (U, target); one pass over it.
    skip_layers : int, optional
        In a module with more than so many children, of each child only the activation called
        last is kept; None keeps all.
    layers : sequence of str, optional
        Names of the modules whose calls make the states, instead: of an elementwise function.
    ones : bool
        Append a column of ones to Φ, whose weights are the biases.
    progress : bool
        Show a bar, in a notebook or on a terminal.

    Returns
    -------
    GramStatistics

    Raises
    ------
    TypeError, ValueError
        For a teacher whose activations cannot all be seen, or are not elementwise; for values
        that are not finite, naming the layer; for an empty loader.
    """
    return accumulate(states_by_batch(teacher, loader, skip_layers=skip_layers, layers=layers,
                                      progress=progress), ones=ones)


def accumulate(batches: Iterable[tuple[tuple[Block, ...], States]], *,
               ones: bool = True) -> GramStatistics:
    """Sum the products of batches of states.

    Parameters
    ----------
    batches : iterable of (blocks, States)
        As `states_by_batch` gives them; U not yet flattened.
    ones : bool
        Append a column of ones to Φ.

    Raises
    ------
    ValueError
        If there is no batch.
    """
    sums: list[Tensor] = []
    samples = 0
    for blocks, batch in batches:
        products = _products(batch, ones)
        sums = [total.add_(part) for total, part in zip(sums, products, strict=True)
                ] if sums else products
        samples += len(batch.U)
        seen = blocks, tuple(batch.U.shape[1:])
    if not sums:
        raise ValueError("no batch of states was given.")
    blocks, input_shape = seen
    gram, cross_Z, cross_Y, norms_Z, norms_Y = (T.cpu() for T in sums)
    n, q = len(cross_Z), len(cross_Y)
    return GramStatistics(gram, cross_Z, cross_Y, norms_Z, norms_Y, samples, n,
                          len(gram) - n - ones, q, ones, blocks, torch.ones_like(norms_Z),
                          input_shape)


def _products(batch: States, ones: bool) -> list[Tensor]:
    # Sums over many samples lose their digits in float32, and mps has nothing wider: the batch
    # goes to the CPU then, while CUDA sums where the teacher is.
    at = batch.U.device if batch.U.device.type == "cuda" else torch.device("cpu")
    U, Z, X, Y = (T.flatten(1).to(at).double() for T in batch)
    Phi = torch.cat([X, U, *([torch.ones_like(U[:, :1])] if ones else [])], dim=1)
    return [Phi.mT @ Phi, Z.mT @ Phi, Y.mT @ Phi, Z.square().sum(0), Y.square().sum(0)]


# --- units in which the teacher itself is feasible ----------------------------------------------


def teacher_as_matrices(teacher: nn.Module, grams: GramStatistics) -> networks.Network | str:
    """The teacher as matrices, or why it cannot be read off.

    Parameters
    ----------
    teacher : torch.nn.Module
        Its modules as they were when the statistics were summed.
    grams : GramStatistics
        Of this teacher.
    """
    try:
        network = networks.as_matrices(teacher, grams.input_shape)
    except ValueError as error:
        reason = str(error).removesuffix(networks.READABLE).strip().rstrip(".")
        return f"the teacher cannot be read as matrices: {reason}"
    blocks = {(block.name, block.size) for block in network.blocks}
    strangers = [block.name for block in grams.blocks if (block.name, block.size) not in blocks]
    if strangers:
        return (f"the teacher read as matrices has no states of the name and size of "
                f"{', '.join(strangers)}")
    return network


def rescale(grams: GramStatistics, network: networks.Network | str, kappa: float
            ) -> tuple[GramStatistics, str, bool]:
    """New units of the states in which the teacher's own A is in the ball: ‖V⁻¹AV‖∞ ≤ κ.

    A teacher's A is nilpotent, so there are such units for every κ > 0; for positively
    homogeneous φ the states X V⁻¹ and Z V⁻¹ obey X V⁻¹ = φ(Z V⁻¹) still. The teacher is then one
    of the points that state matching chooses from, and the bound on ‖A‖∞ costs nothing. (λ_z and
    λ_y weigh the matrices in these units, where later layers' states are smaller numbers.)

    Parameters
    ----------
    grams : GramStatistics
        Of the teacher, in its own units.
    network : Network or str
        As `teacher_as_matrices` gives it.
    kappa : float
        Radius κ of the ball.

    Returns
    -------
    grams : GramStatistics
        Rescaled, or as given where that is not needed or cannot be done.
    note : str
        What was done, or why it could not be and what that costs.
    free : bool
        Whether the bound on A costs nothing.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, section 2.5.
    """
    if isinstance(network, str):
        return grams, (f"Not rescaled: {network}. In the teacher's own units its ‖A‖∞ may exceed "
                       f"κ = {kappa:g}, and what A cannot hold is lost from the fit."), False
    norm = float(abs(network.A).sum(axis=1).max())
    whole = len(grams.blocks) == len(network.blocks)
    skipped = "" if whole else (f" Only {len(grams.blocks)} of its {len(network.blocks)} layers "
                                f"are kept, so it is not itself one of the models that are fitted.")
    if norm <= kappa:
        return grams, (f"Not rescaled, as the teacher's own ‖A‖∞ = {norm:.3g} is at most κ = "
                       f"{kappa:g}: the bound on A costs nothing.{skipped}"), whole
    lost = (f"In the teacher's own units ‖A‖∞ = {norm:.3g} exceeds κ = {kappa:g}, and what A "
            f"cannot hold is lost from the fit.")
    phis = {block.activation for block in grams.blocks}
    if names := sorted(phi.name for phi in phis if not phi.homogeneous):
        return grams, (f"Not rescaled: {', '.join(names)} is not positively homogeneous, so "
                       f"φ(z/v) is not φ(z)/v. {lost}{skipped}"), False
    try:
        v = units(from_scipy(network.A, torch.float64), kappa * (1 - ROOM))
    except ValueError as error:
        return grams, f"Not rescaled: {error} {lost}{skipped}", False
    size = dict(zip([block.name for block in network.blocks],
                    v.split([block.size for block in network.blocks]), strict=True))
    v = torch.cat([size[block.name] for block in grams.blocks])
    return grams.rescaled(v), (
        f"Rescaled: the states are measured in units from {float(v.min()):.3g} to "
        f"{float(v.max()):.3g}, in which the teacher has ‖A‖∞ ≤ κ = {kappa:g} instead of "
        f"{norm:.3g}.{skipped}"), whole
