"""When x = φ(Ax + Bu) has exactly one solution, and how to keep A so.

With φ non-expansive, λ_PF(|A|) < 1 is enough, and so is the convex condition ‖A‖∞ < 1
(El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3)). With a slope L
the matrix L·A takes the place of A. How a parameter A is kept inside is in `constraints.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # its submodules load at their first use, so `import idl_lab` does not wait for them
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import Activation, activation
from idl_lab.perron import PerronFrobenius, magnitudes, perron_frobenius

_EPS = float(np.finfo(np.float64).eps)
_MOST_EIGENVALUES = 3000  # states: of more, the eigenvalues of (A + Aᵀ)/2 would take minutes


def inf_norm(A: Tensor) -> Tensor:
    """‖A‖∞ = max_i Σ_j |A_ij|, the largest absolute row sum of A (n, p); differentiable.

    Parameters
    ----------
    A : Tensor, shape (n, p)

    Raises
    ------
    TypeError, ValueError
        If A is no finite matrix of real numbers.
    """
    validation.tensor("A", A, "n p")
    if A.numel() == 0:
        return A.sum()
    return A.abs().sum(dim=1).amax()


class Condition(enum.Enum):
    """Which sufficient condition for well-posedness holds; L is the slope of φ."""

    NORM = "L·‖A‖∞ < 1"
    PERRON = "L·λ_PF(|A|) < 1"
    MONOTONE = "L·λ_max((A + Aᵀ)/2) < 1, φ increasing"
    NONE = "none"


@dataclass(frozen=True)
class Certificate:
    """What is known of the well-posedness of x = φ(Ax + Bu).

    Attributes
    ----------
    condition : Condition
        The strongest that holds.
    margin : float
        1 − L‖A‖∞, 1 − L·λ_PF(|A|) or 1 − L·λ_max((A + Aᵀ)/2) for the condition that holds; for
        none, 1 − L·λ_PF(|A|), which is at most 0.
    sentence : str
    inf_norm : float
    perron : PerronFrobenius
    """

    condition: Condition
    margin: float
    sentence: str
    inf_norm: float
    perron: PerronFrobenius

    @property
    def well_posed(self) -> bool:
        """Whether a condition holds; False means not proven, not disproven."""
        return self.condition is not Condition.NONE


def certificate(A: Tensor, phi: str | Activation | Callable = "relu") -> Certificate:
    """Which sufficient condition for a unique equilibrium holds, and by what margin.

    Parameters
    ----------
    A : Tensor, shape (n, n), dense or sparse (CSR)
    phi : str, Activation or callable
        The activation; its slope L enters every condition.

    Raises
    ------
    TypeError, ValueError
        As `perron_frobenius` and `activation`.
    """
    phi = activation(phi)
    pf = perron_frobenius(A)
    # The norm of what is stored, summed in float64, so that float32 sums cannot tip it.
    norm, L = float(magnitudes(A).sum(axis=1).max()), phi.slope
    times = "" if f"{L:.3g}" == "1" else f"{L:.3g}·"
    size, root = f"{times}‖A‖∞", f"{times}λ_PF(|A|)"
    if L * norm < 1:
        return Certificate(Condition.NORM, 1 - L * norm, (
            f"{size} = {_below_one(L * norm)} < 1: there is exactly one equilibrium, and each "
            f"Picard step shrinks the largest error at least by that factor."), norm, pf)
    if L * pf.upper < 1:
        return Certificate(Condition.PERRON, 1 - L * pf.upper, (
            f"{root} = {_below_one(L * pf.value)} < 1 although {size} = {L * norm:.4g}: there is "
            f"exactly one equilibrium and Picard converges, but the largest error may grow before "
            f"it shrinks."), norm, pf)
    top = np.inf if not phi.increasing or len(A) > _MOST_EIGENVALUES else L * _symmetric_root(A)
    if top < 1:
        return Certificate(Condition.MONOTONE, 1 - top, (
            f"{times}λ_max((A + Aᵀ)/2) = {_below_one(top)} < 1 and φ is increasing: I − A is "
            f"strongly monotone and there is exactly one equilibrium, but Picard may not find it; "
            f"PeacemanRachford() does."), norm, pf)
    return Certificate(Condition.NONE, min(1 - L * pf.upper, 0.0), (
        f"{size} = {L * norm:.4g} and {root} = {L * pf.value:.4g} are not below 1: "
        f"no condition holds, so there may be no equilibrium, one, or several."), norm, pf)


def _symmetric_root(A: Tensor) -> float:
    """Upper bound on the largest eigenvalue of (A + Aᵀ)/2, its rounding added."""
    M = (A if A.layout == torch.strided else A.to_dense()).detach().cpu().double().numpy()
    S = (M + M.T) / 2
    return float(np.linalg.eigvalsh(S)[-1] + 4 * len(S) * _EPS * np.linalg.norm(S))


def _below_one(value: float) -> str:
    """A number below 1 in four digits, or as 1 less something where they would say 1."""
    return f"{value:.4g}" if float(f"{value:.4g}") < 1 else f"1 − {1 - value:.1e}"


def units(A: Tensor, kappa: float) -> Tensor:
    """Units v > 0 of the states in which ‖V⁻¹AV‖∞ ≤ κ, V = diag(v), if λ_PF(|A|) < κ.

    v = (I − |A|/κ)⁻¹1, so that |A|v/κ = v − 1 < v.

    Parameters
    ----------
    A : Tensor, shape (n, n), dense or sparse (CSR)
    kappa : float
        In (0, 1).

    Returns
    -------
    Tensor, shape (n,), float64 on the CPU

    Raises
    ------
    ValueError
        If λ_PF(|A|) ≥ κ, or the units overflow.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, section 2.5.
    """
    validation.real("kappa", kappa, above=0.0, below=1.0)
    pf = perron_frobenius(A)
    if pf.upper >= kappa:
        raise ValueError(f"rescale needs λ_PF(|A|) < {kappa:g}, got {pf.value:.6g}: no diagonal "
                         f"change of units brings ‖A‖∞ to {kappa:g} or below.")
    M = magnitudes(A)
    with np.errstate(all="ignore"):
        identity = scipy.sparse.eye_array(M.shape[0], format="csc")
        v = scipy.sparse.linalg.spsolve(identity - M.tocsc() / kappa, np.ones(M.shape[0]))
        v = np.atleast_1d(v)
        # The solve is rounded, so its v is tested as it is: what is promised is ‖V⁻¹AV‖∞ ≤ κ.
        holds = np.isfinite(v).all() and v.min() > 0 and ((M @ v) / v).max() <= kappa
    if not holds:
        raise ValueError(f"rescale found no finite change of units (λ_PF(|A|) = {pf.value:.6g}, "
                         f"κ = {kappa:g}); give a larger kappa.")
    return torch.from_numpy(v)


def rescale(A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Change the states' units so that ‖A‖∞ < 1, whenever λ_PF(|A|) < 1.

    A′ = V⁻¹AV, B′ = V⁻¹B, C′ = CV with V = diag(v) the `units` for κ halfway between λ_PF(|A|)
    and 1. Predictions stay the same when φ is positively homogeneous.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    B : Tensor, shape (n, p)
    C : Tensor, shape (q, n)

    Returns
    -------
    A, B, C : Tensor
        The rescaled matrices, of the given shapes, dtype and device.

    Raises
    ------
    ValueError
        If λ_PF(|A|) ≥ 1, or the units needed overflow the dtype.
    """
    validation.matrices({"A": (A, "n n"), "B": (B, "n p"), "C": (C, "q n")})
    pf = perron_frobenius(A)
    if pf.upper >= 1:
        raise ValueError(f"rescale needs λ_PF(|A|) < 1, got {pf.value:.6g}: no diagonal change of "
                         f"units brings ‖A‖∞ below 1.")
    v = units(A, 0.5 * (1 + pf.upper))
    A64, B64, C64 = (T.cpu().double() for T in (A, B, C))
    scaled = [(A64 / v[:, None] * v).to(A), (B64 / v[:, None]).to(A), (C64 * v).to(A)]
    norm = scaled[0].detach().cpu().double().abs().sum(dim=1).amax()
    if not (norm < 1 and all(torch.isfinite(T).all() for T in scaled)):
        raise ValueError(f"rescale found no finite change of units in {A.dtype} (λ_PF(|A|) = "
                         f"{pf.value:.6g}); try A.double(), B.double(), C.double().")
    return scaled[0], scaled[1], scaled[2]
