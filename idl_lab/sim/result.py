"""What SIM found: matrices, figures, notes; written down and read again without pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idl_lab.activations import ACTIVATIONS, Activation
from idl_lab.networks import Block
from idl_lab.operators import LowRank
from idl_lab.sim.states import GramStatistics


@dataclass(frozen=True, repr=False)
class SimResult:
    """What SIM found, float64 on the CPU, in the units of the rescaled states.

    Attributes
    ----------
    A, B, C, D : Tensor, shapes (n, n), (n, p), (q, n) and (q, p)
    state_bias, output_bias : Tensor, shapes (n,) and (q,), or None
        The weights of the input of ones; None where the teacher has no bias.
    status : dict
        How the solver ended, for "state" and for "output" matching.
    stats : dict
        The solver's own under "state" and "output", which a file does not keep; relative_gap of
        either; samples, seconds, inf_norm (‖A‖∞), nonzeros
        of each matrix, fit: for each block and for "output" the share of its sum of squares that
        the matching explains, 1 where it is exact.
    trace : dict
        The solver's history for "state" and for "output".
    blocks : tuple of Block
        Which states belong to which activation of the teacher, in order.
    units : Tensor, shape (n,)
        The teacher's state is the model's times these.
    factors : LowRank or None
        Of a solver that holds A to a rank: A = L Rᵀ.
    notes : tuple of str
        What was done about the units, and what the model cannot hold.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    state_bias: Tensor | None
    output_bias: Tensor | None
    status: dict[str, Any]
    stats: dict[str, Any]
    trace: dict[str, Any]
    blocks: tuple[Block, ...]
    units: Tensor
    notes: tuple[str, ...]
    factors: LowRank | None = None

    def __repr__(self) -> str:
        (n, p), q = self.B.shape, len(self.C)
        ended = "; ".join(f"{name}: {getattr(status, 'value', status)}"
                          for name, status in self.status.items())
        return (f"SimResult(n={n}, p={p}, q={q}, ‖A‖∞ = {self.stats['inf_norm']:.4g}, non-zeros "
                f"{self.stats['nonzeros']}; {ended})")

    def plain(self) -> dict[str, Any]:
        """Tensors, numbers and words alone, without the solver's trace: what a file takes."""
        return vars(self) | {
            "blocks": [[block.name, block.size, block.activation.name, sampled(block.activation)]
                       for block in self.blocks],
            "stats": {k: v for k, v in self.stats.items() if k not in ("state", "output")},
            "status": {k: str(getattr(v, "value", v)) for k, v in self.status.items()},
            "trace": {}, "factors": self.factors and [self.factors.L, self.factors.R]}

    @classmethod
    def of_plain(cls, kept: dict[str, Any], other: Activation | None) -> SimResult:
        """The result that `plain` wrote down.

        Parameters
        ----------
        kept : dict
            What `plain` gave, or `torch.load` read of it.
        other : Activation, optional
            φ of the blocks whose activation is not one of the named ones.

        Raises
        ------
        ValueError
            If a block's activation is neither a named one nor ``other``, by its values.
        """
        blocks = []
        for name, size, called, seen in kept["blocks"]:
            found = [phi for phi in (ACTIVATIONS.get(called), other) if phi is not None]
            fitting = [phi for phi in found if torch.allclose(sampled(phi), seen)]
            if not fitting:
                given = f"; {other.name}, which was given, is another" if other else ""
                raise ValueError(f"the saved activation of {name}: {called} has no name that could "
                                 f"be looked up{given}: give it as activation_fn=.")
            blocks.append(Block(name, size, fitting[0]))
        factors = kept["factors"] and LowRank(*kept["factors"])
        return cls(**{**kept, "blocks": tuple(blocks), "factors": factors})


def sampled(phi: Activation) -> Tensor:
    """φ on a grid, by which one activation is told from another.

    Parameters
    ----------
    phi : Activation

    Returns
    -------
    Tensor, shape (161,)
        φ(−8), φ(−7.9), …, φ(8): float64 on the CPU.
    """
    return phi(torch.linspace(-8, 8, 161, dtype=torch.float64, device="cpu")).detach()


def alike(one: Activation, two: Activation) -> bool:
    """Whether two activations are the same function, on the grid of `sampled`.

    Parameters
    ----------
    one, two : Activation
    """
    return one == two or torch.allclose(sampled(one), sampled(two))


def split(W: Tensor, grams: GramStatistics) -> tuple[Tensor, Tensor, Tensor | None]:
    """[A B b] or [C D d] apart, float64 on the CPU.

    Parameters
    ----------
    W : Tensor, shape (k, n + p) or (k, n + p + 1)
        Rows of state or of output matching.
    grams : GramStatistics
        Those that were fitted: they say n, p and whether there is a bias.
    """
    parts = W.detach().cpu().double().split([grams.n, grams.p, int(grams.ones)], dim=1)
    left, right, bias = (part.contiguous() for part in parts)
    return left, right, bias[:, 0].contiguous() if grams.ones else None


def explained(gram: Tensor, cross: Tensor, norms: Tensor, W: Tensor) -> float:
    """1 − ‖ΦWᵀ − T‖²/‖T‖², from the products alone; 1 where T = 0 is matched.

    Parameters
    ----------
    gram : Tensor, shape (d, d)
        ΦᵀΦ.
    cross : Tensor, shape (k, d)
        TᵀΦ.
    norms : Tensor, shape (k,)
        Σ t² of each target.
    W : Tensor, shape (k, d)
        What predicts the targets from Φ.
    """
    W = W.detach().cpu().double()
    residual = float((((W @ gram - 2 * cross) * W).sum() + norms.sum()).clamp(min=0))
    total = float(norms.sum())
    return 1 - residual / total if total > 0 else float(residual == 0)


def explained_by_block(grams: GramStatistics, W: Tensor) -> dict[str, float]:
    """`explained` of each block's rows of state matching.

    Parameters
    ----------
    grams : GramStatistics
        Those that were fitted.
    W : Tensor, shape (n, d)
        The answer of state matching.
    """
    sizes = [block.size for block in grams.blocks]
    parts = zip(grams.cross_Z.split(sizes), grams.norms_Z.split(sizes),
                W.detach().cpu().split(sizes), strict=True)
    return {block.name: explained(grams.gram, *part)
            for block, part in zip(grams.blocks, parts, strict=True)}
