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
from idl_lab.operators import once

_EPS = float(np.finfo(np.float64).eps)
_INVERSE_STEPS = 20  # of Noda's iteration, at each of which the right digits double
_SMALLEST = 1e-290  # an eigenvector's entry that underflows to 0 would make a ratio 0/0
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
    A : Tensor, shape (n, n), dense or sparse (CSR)
    tol : float
        Relative width of the bounds at which to stop; the bounds hold wherever it stops.
    max_steps : int
        Power steps in each class before inverse iteration takes over.

    Returns
    -------
    PerronFrobenius

    Raises
    ------
    TypeError, ValueError
        If A is no finite square matrix of real numbers, or an option is out of its bounds.

    References
    ----------
    Collatz 1942; Wielandt 1950; T. Noda, Numer. Math. 17 (1971).
    """
    validation.real("tol", tol, at_least=0.0)
    validation.integer("max_steps", max_steps)
    M = _magnitudes(A)
    _, label = scipy.sparse.csgraph.connected_components(M, directed=True, connection="strong")
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    best = (0.0, 0.0, members[0], np.ones(len(members[0])))
    lower, loops = 0.0, M.diagonal()
    for members_k in members:
        if len(members_k) == 1 and not loops[members_k[0]]:
            continue
        block = M[np.ix_(members_k, members_k)].toarray()
        if block.sum(axis=1).max() <= best[1]:  # the largest row sum bounds λ from above
            continue
        low, high, x = _perron_irreducible(block, tol, max_steps)
        lower = max(lower, low)
        if high > best[1]:
            best = (low, high, members_k, x)
    _, upper, members_k, x = best
    right, left = np.zeros(len(A)), np.zeros(len(A))
    right[members_k] = x
    block = M[np.ix_(members_k, members_k)].toarray()
    left[members_k] = _perron_irreducible(block.T, tol, max_steps)[2]
    return PerronFrobenius(lower, upper, torch.from_numpy(right), torch.from_numpy(left))


def _magnitudes(A: Tensor) -> scipy.sparse.csr_array:
    """|A| in float64 on the CPU, checked."""
    if not isinstance(A, Tensor) or A.layout == torch.strided:
        validation.square("A", A)
        # In this order: some devices have no float64.
        return scipy.sparse.csr_array(A.detach().cpu().double().abs().numpy())
    validation.check_shape("A", A, "n n")
    values = validation.tensor("A.values()", A.values())
    parts = (values.detach().cpu().double().abs().numpy(),
             A.col_indices().cpu().numpy(), A.crow_indices().cpu().numpy())
    return scipy.sparse.csr_array(parts, shape=tuple(A.shape))


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
    for step in range(max_steps + _INVERSE_STEPS):
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
        x = np.maximum(x / x.max(), _SMALLEST)
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
        return A.new_full((), pf.upper)  # new_tensor would wait for the device

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        A, right, left = ctx.saved_tensors
        slope = A.sign() * torch.outer(left, right) / torch.dot(left, right)
        if torch.is_grad_enabled():  # the eigenvectors depend on A
            slope = once(slope, "λ_PF(|A|) and constraint='perron' have no second "
                               "derivatives; constraint='scale' and 'row' have them.", A)
        return grad * slope


def perron_root(A: Tensor) -> Tensor:
    """Upper bound on λ_PF(|A|) of A (n, n), a scalar; once differentiable if λ_PF is simple.

    Parameters
    ----------
    A : Tensor, shape (n, n)

    Raises
    ------
    TypeError, ValueError
        As `perron_frobenius`.
    """
    return _PerronRoot.apply(A)


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
    norm, L = float(_magnitudes(A).sum(axis=1).max()), phi.slope
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
    M = _magnitudes(A)
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
