"""What SIM found: matrices, figures, notes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idl_lab.activations import Activation
from idl_lab.networks import Block
from idl_lab.operators import LowRank
from idl_lab.sim.states import GramStatistics

ROUNDING = 1e-12  # of Σ t²: what its sums may be off by


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
        either and worst_gap, the largest of a single row; samples, seconds, inf_norm (‖A‖∞),
        nonzeros of each matrix, fit: for each block and for "output" the R² of the matching, 1
        where it is exact; fidelity: the R² of the student's outputs against its teacher's, on
        fidelity_samples of the training samples, drawn evenly, with its standard error
        fidelity_error.
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

    @property
    def fidelity(self) -> float:
        """R² of the student's outputs against its teacher's on training samples; see ``stats``."""
        return self.stats["fidelity"]

    def __repr__(self) -> str:
        (n, p), q = self.B.shape, len(self.C)
        ended = "; ".join(f"{name}: {getattr(status, 'value', status)}"
                          for name, status in self.status.items())
        return (f"SimResult(n={n}, p={p}, q={q}, fidelity {self.fidelity:.4g}, ‖A‖∞ = "
                f"{self.stats['inf_norm']:.4g}, non-zeros {self.stats['nonzeros']}; {ended})")


def sampled(phi: Activation, size: int) -> Tensor:
    """φ on a grid, by which one activation is told from another.

    Parameters
    ----------
    phi : Activation
    size : int
        How many states it is for: they may differ, as those of a PReLU do.

    Returns
    -------
    Tensor, shape (161, size)
        φ(−8), φ(−7.9), …, φ(8) for each: float64 on the CPU.
    """
    grid = torch.linspace(-8, 8, 161, dtype=torch.float64, device="cpu")
    return phi(grid[:, None].repeat(1, size)).detach()


def alike(one: Activation, two: Activation, size: int) -> bool:
    """Whether two activations are the same function, on the grid of `sampled`.

    Parameters
    ----------
    one, two : Activation
    size : int
        How many states.
    """
    return one == two or torch.allclose(sampled(one, size), sampled(two, size))


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


def spreads(grams: GramStatistics) -> tuple[Tensor, Tensor]:
    """Σ (z − z̄)² and Σ (y − ȳ)² of each column, (n,) and (q,).

    Parameters
    ----------
    grams : GramStatistics
        With the column of ones, whose products are the sums Σ z and Σ y.
    """
    return tuple((norms - cross[:, -1] ** 2 / grams.samples).clamp(min=0) for norms, cross in (
        (grams.norms_Z, grams.cross_Z), (grams.norms_Y, grams.cross_Y)))


def explained(gram: Tensor, cross: Tensor, norms: Tensor, W: Tensor, spread: Tensor) -> float:
    """R² = 1 − ‖ΦWᵀ − T‖²/Σ (t − t̄)², from the products alone; 1 for a constant T that is matched.

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
    spread : Tensor, shape (k,)
        Σ (t − t̄)² of each target.
    """
    W = W.detach().cpu().double()
    residual = float((((W @ gram - 2 * cross) * W).sum() + norms.sum()).clamp(min=0))
    total, size = float(spread.sum()), float(norms.sum())
    # Of a constant target the spread is rounding, and so is the residual of a match.
    if total <= ROUNDING * size:
        return 1.0 if residual <= ROUNDING * size else -math.inf
    return 1 - residual / total
