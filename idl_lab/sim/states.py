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

from idl_lab import validation
from idl_lab.activations import Activation
from idl_lab.networks import Block, blockwise
from idl_lab.sim.hooks import Batches, States, states_by_batch
from idl_lab.sim.matrices import Unreadable, rescale, teacher_as_matrices

__all__ = ["GramStatistics", "Unreadable", "accumulate", "collect", "gram_statistics", "rescale",
           "teacher_as_matrices", "with_float64"]


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

    @property
    def slopes(self) -> Tensor:
        """Each state's Lipschitz constant L of φ, (n,): φ(Ax + Bu) contracts if ‖A_i‖₁ < 1/L_i."""
        return torch.cat([block.slopes for block in self.blocks])

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


def with_float64(device: torch.device) -> torch.device:
    """The device where it computes in float64; else the CPU, as for mps.

    Parameters
    ----------
    device : torch.device
    """
    try:
        torch.zeros(1, dtype=torch.float64, device=device).add_(1)
    except (RuntimeError, TypeError):
        return torch.device("cpu")
    return device


def _products(batch: States, ones: bool) -> list[Tensor]:
    at = with_float64(batch.U.device)  # sums over many samples lose their digits in float32
    U, Z, X, Y = (T.flatten(1).to(at).double() for T in batch)
    Phi = torch.cat([X, U, *([torch.ones_like(U[:, :1])] if ones else [])], dim=1)
    return [Phi.mT @ Phi, Z.mT @ Phi, Y.mT @ Phi, Z.square().sum(0), Y.square().sum(0)]
