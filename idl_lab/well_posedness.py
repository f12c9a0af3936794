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
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import Activation, activation

_EPS = float(np.finfo(np.float64).eps)


def inf_norm(A: Tensor) -> Tensor:
    """‖A‖∞ = max_i Σ_j |A_ij|, the largest absolute row sum of A (n, p); differentiable."""
    validation.tensor("A", A, "n p")
    if A.numel() == 0:
        return A.sum()
    return A.abs().sum(dim=1).amax()


@dataclass(frozen=True)
class PerronFrobenius:
    """λ_PF(|A|) between certified bounds, with its eigenvectors.

    Attributes
    ----------
    lower, upper : float
        Collatz–Wielandt bounds, widened by the rounding of their own evaluation.
    right, left : Tensor, shape (n,), float64 on the CPU
        Non-negative right and left eigenvectors of the class of |A| that attains the
        eigenvalue, zero outside it; max-norm 1.
    """

    lower: float
    upper: float
    right: Tensor
    left: Tensor

    @property
    def value(self) -> float:
        """The middle of the bounds."""
        return 0.5 * (self.lower + self.upper)


def perron_frobenius(A: Tensor, tol: float = 1e-12, max_steps: int = 200) -> PerronFrobenius:
    """Perron–Frobenius eigenvalue of |A|, with a certificate.

    |A| is split into its strongly connected classes; λ_PF is the largest over them, so
    reducible, nilpotent and zero matrices need no special case. In each class power iteration
    on M + sI (the shift makes it primitive) gives, for its positive vector x, the
    Collatz–Wielandt bounds min_i (Mx)_i/x_i ≤ λ ≤ max_i (Mx)_i/x_i. Where it is slow, Noda's
    inverse iteration, shifted by the upper bound, closes the gap quadratically.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    tol : float
        Relative width of the bounds at which to stop; the bounds hold wherever it stops.
    max_steps : int
        Power steps in each class before inverse iteration takes over.

    Returns
    -------
    PerronFrobenius

    References
    ----------
    Collatz 1942; Wielandt 1950; T. Noda, Numer. Math. 17 (1971).
    """
    validation.square("A", A)
    validation.real("tol", tol, at_least=0.0)
    validation.integer("max_steps", max_steps)
    M = A.detach().cpu().double().abs().numpy()  # in this order: some devices have no float64
    count, label = connected_components(csr_array(M), directed=True, connection="strong")
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    best = (0.0, 0.0, members[0], np.ones(len(members[0])))
    lower = 0.0
    for members_k in members:
        block = M[np.ix_(members_k, members_k)]
        if block.sum(axis=1).max() <= best[1]:  # the largest row sum bounds λ from above
            continue
        low, high, x = _perron_irreducible(block, tol, max_steps)
        lower = max(lower, low)
        if high > best[1]:
            best = (low, high, members_k, x)
    _, upper, members_k, x = best
    right, left = np.zeros(len(M)), np.zeros(len(M))
    right[members_k] = x
    left[members_k] = _perron_irreducible(M[np.ix_(members_k, members_k)].T, tol, max_steps)[2]
    return PerronFrobenius(lower, upper, torch.from_numpy(right), torch.from_numpy(left))


def _perron_irreducible(M: np.ndarray, tol: float, max_steps: int
                        ) -> tuple[float, float, np.ndarray]:
    n = len(M)
    if n == 1:
        return float(M[0, 0]), float(M[0, 0]), np.ones(1)
    _, exponent = np.frexp(M.max())
    M = np.ldexp(M, -exponent)  # exact, and nothing below under- or overflows
    slack = 4 * (n + 2) * _EPS  # each ratio is a sum of n non-negative products, and a quotient
    x = np.ones(n)
    low, high, best = 0.0, np.inf, x
    for step in range(max_steps + 20):
        Mx = M @ x
        ratio = Mx / x
        if ratio.max() - ratio.min() < high - low:
            best = x
        low, high = max(low, ratio.min()), min(high, ratio.max())
        if high - low <= max(tol, slack) * high:
            break
        if step < max_steps:
            x = Mx + 0.5 * high * x
        else:
            try:
                x = np.abs(np.linalg.solve(high * (1 + slack) * np.eye(n) - M, x))
            except np.linalg.LinAlgError:
                break
        x = np.maximum(x / x.max(), 1e-290)
        if not np.isfinite(x).all():
            break
    return (float(np.ldexp(low * (1 - slack), exponent)),
            float(np.ldexp(high * (1 + slack), exponent)), best)


class _PerronRoot(torch.autograd.Function):
    """Upper bound on λ_PF(|A|); ∂λ/∂|A| = l rᵀ / (lᵀ r)."""

    @staticmethod
    def forward(ctx, A: Tensor) -> Tensor:
        pf = perron_frobenius(A)
        right, left = pf.right.to(A), pf.left.to(A)
        ctx.save_for_backward(A, right, left)
        return A.new_tensor(pf.upper)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        A, right, left = ctx.saved_tensors
        return grad * A.sign() * torch.outer(left, right) / torch.dot(left, right)


def perron_root(A: Tensor) -> Tensor:
    """Upper bound on λ_PF(|A|) of A (n, n), a scalar; differentiable where λ_PF is simple."""
    return _PerronRoot.apply(A)


class Condition(enum.Enum):
    """Which sufficient condition for well-posedness holds; L is the slope of φ."""

    NORM = "L·‖A‖∞ < 1"
    PERRON = "L·λ_PF(|A|) < 1"
    NONE = "none"


@dataclass(frozen=True)
class Certificate:
    """What is known of the well-posedness of x = φ(Ax + Bu).

    Attributes
    ----------
    condition : Condition
        The strongest that holds.
    margin : float
        1 − L‖A‖∞ or 1 − L·λ_PF(|A|) for the condition that holds; for none, 1 − L·λ_PF(|A|),
        which is at most 0.
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
    A : Tensor, shape (n, n)
    phi : str, Activation or callable
        The activation; its slope L enters both conditions.
    """
    phi = activation(phi)
    pf = perron_frobenius(A)
    # The norm of what is stored, summed in float64, so that float32 sums cannot tip it.
    norm, L = float(inf_norm(A.detach().cpu().double())), phi.slope
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
    return Certificate(Condition.NONE, min(1 - L * pf.upper, 0.0), (
        f"{size} = {L * norm:.4g} and {root} = {L * pf.value:.4g} are not below 1: "
        f"neither condition holds, so there may be no equilibrium, one, or several."), norm, pf)


def _below_one(value: float) -> str:
    """A number below 1 in four digits, or as 1 less something where they would say 1."""
    return f"{value:.4g}" if float(f"{value:.4g}") < 1 else f"1 − {1 - value:.1e}"


def rescale(A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Change the states' units so that ‖A‖∞ < 1, whenever λ_PF(|A|) < 1.

    A′ = V⁻¹AV, B′ = V⁻¹B, C′ = CV with V = diag(v), v = (I − |A|/s)⁻¹1 and s halfway between
    λ_PF(|A|) and 1, which gives ‖A′‖∞ < s. Predictions stay the same when φ is positively
    homogeneous.

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
    validation.square("A", A)
    validation.tensor("B", B, "n p", like=A, n=A.shape[0])
    validation.tensor("C", C, "q n", like=A, n=A.shape[0])
    pf = perron_frobenius(A)
    if pf.upper >= 1:
        raise ValueError(f"rescale needs λ_PF(|A|) < 1, got {pf.value:.6g}: no diagonal change of "
                         f"units brings ‖A‖∞ below 1.")
    s = 0.5 * (1 + pf.upper)
    A64, B64, C64 = (T.cpu().double() for T in (A, B, C))
    M = A64.detach().abs() / s
    eye = torch.eye(len(M), dtype=M.dtype, device=M.device)
    v = torch.linalg.solve(eye - M, M.new_ones(len(M)))
    scaled = [(A64 / v[:, None] * v).to(A), (B64 / v[:, None]).to(A), (C64 * v).to(A)]
    norm = scaled[0].detach().cpu().double().abs().sum(dim=1).amax()
    if not (v.min() > 0 and norm < 1 and all(torch.isfinite(T).all() for T in scaled)):
        raise ValueError(f"rescale found no finite change of units in {A.dtype} (λ_PF(|A|) = "
                         f"{pf.value:.6g}); try A.double(), B.double(), C.double().")
    return scaled[0], scaled[1], scaled[2]


def project_rows(A: Tensor, kappa: float) -> Tensor:
    """Nearest matrix with ‖A‖∞ ≤ κ: each row onto the ℓ₁ ball of radius κ.

    Row a goes to sign(a) max(|a| − θ, 0), with the θ ≥ 0 that makes its absolute sum κ; rows
    already inside stay as they are. All rows at once, by sorting.

    Parameters
    ----------
    A : Tensor, shape (n, p)
    kappa : float
        Radius κ ≥ 0.

    Returns
    -------
    Tensor, shape (n, p)
        Differentiable in A.

    References
    ----------
    Duchi, Shalev-Shwartz, Singer, Chandra, ICML 2008, figure 1.
    """
    validation.tensor("A", A, "n p")
    validation.real("kappa", kappa, at_least=0.0)
    if A.numel() == 0:
        return A.clone()
    magnitude = A.abs()
    inside = magnitude.sum(dim=1, keepdim=True) <= kappa
    # Measured down from the row's largest entry, and no further than κ, beyond which all is cut:
    # taken from zero, κ would drown in the rounding of a large row.
    depth = (magnitude.amax(dim=1, keepdim=True) - magnitude).clamp(max=kappa)
    ranked = depth.sort(dim=1).values
    room = ranked.cumsum(dim=1) + kappa
    ranks = torch.arange(1, A.shape[1] + 1, device=A.device, dtype=A.dtype)
    kept = (ranked * ranks < room).sum(dim=1, keepdim=True).clamp(min=1)
    height = room.gather(1, kept - 1) / kept  # what is left of the largest entry
    return torch.where(inside, A, A.sign() * (height - depth).clamp(min=0))
