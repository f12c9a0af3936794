"""λ_PF(|A|), the Perron–Frobenius eigenvalue: certified bounds, and a bound with derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules load at their first use, so `import idl_lab` does not wait for them
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.extras import Function, full_precision, one_tangent, wide
from idl_lab.operators import rounding_of_sums
from idl_lab.unwatched import current

_EPS = float(np.finfo(np.float64).eps)
_INVERSE_STEPS = 20  # of Noda's iteration, at each of which the right digits double
_LARGE = 500  # states of a class above which its matrix stays sparse
_SMALLEST = 1e-290  # an eigenvector's entry that underflows to 0 would make a ratio 0/0


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
    M = magnitudes(A)
    _, label = scipy.sparse.csgraph.connected_components(M, directed=True, connection="strong")
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    best = (0.0, 0.0, members[0], np.ones(len(members[0])))
    lower, loops = 0.0, M.diagonal()
    for members_k in members:
        if len(members_k) == 1 and not loops[members_k[0]]:
            continue
        block = _block(M, members_k)
        if block.sum(axis=1).max() <= best[1]:  # the largest row sum bounds λ from above
            continue
        low, high, x = _perron_irreducible(block, tol, max_steps)
        lower = max(lower, low)
        if high > best[1]:
            best = (low, high, members_k, x)
    _, upper, members_k, x = best
    right, left = np.zeros(len(A)), np.zeros(len(A))
    right[members_k] = x
    left[members_k] = _perron_irreducible(_block(M, members_k).T, tol, max_steps)[2]
    return PerronFrobenius(lower, upper, torch.from_numpy(right), torch.from_numpy(left))


def magnitudes(A: Tensor) -> scipy.sparse.csr_array:
    """|A| in float64 on the CPU, checked.

    Parameters
    ----------
    A : Tensor, shape (n, n), dense or sparse (CSR)

    Raises
    ------
    TypeError, ValueError
        If A is no finite square matrix of real numbers.
    """
    if not isinstance(A, Tensor) or A.layout == torch.strided:
        validation.square("A", A)
        # In this order: some devices have no float64.
        return scipy.sparse.csr_array(A.detach().cpu().double().abs().numpy())
    validation.check_shape("A", A, "n n")
    values = validation.tensor("A.values()", A.values())
    parts = (values.detach().cpu().double().abs().numpy(),
             A.col_indices().cpu().numpy(), A.crow_indices().cpu().numpy())
    return scipy.sparse.csr_array(parts, shape=tuple(A.shape))


def _block(M: scipy.sparse.csr_array, members: np.ndarray) -> np.ndarray | scipy.sparse.csr_array:
    """The matrix of one class; sparse where it is large, as a graph's would not fit in memory."""
    block = M[np.ix_(members, members)]
    return block if len(members) > _LARGE else block.toarray()


def _solve(M: np.ndarray | scipy.sparse.csr_array, shift: float, x: np.ndarray) -> np.ndarray:
    """(shift · I − M)⁻¹ x."""
    if isinstance(M, np.ndarray):
        return np.linalg.solve(shift * np.eye(len(M)) - M, x)
    shifted = shift * scipy.sparse.eye_array(len(x), format="csc") - M.tocsc()
    return scipy.sparse.linalg.splu(shifted).solve(x)


def _perron_irreducible(M: np.ndarray | scipy.sparse.csr_array, tol: float, max_steps: int
                        ) -> tuple[float, float, np.ndarray]:
    n = M.shape[0]
    if n == 1:
        return float(M[0, 0]), float(M[0, 0]), np.ones(1)
    _, exponent = np.frexp(M.max())
    if isinstance(M, np.ndarray):
        M = np.ldexp(M, -exponent)  # exact, and nothing below under- or overflows
    else:
        M = M.copy()
        M.data = np.ldexp(M.data, -exponent)
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
                x = np.abs(_solve(M, high * (1 + slack), x))
            except (np.linalg.LinAlgError, RuntimeError):  # singular
                break
        x = np.maximum(x / x.max(), _SMALLEST)
        if not np.isfinite(x).all():
            break
    return (float(np.ldexp(low * (1 - slack), exponent)),
            float(np.ldexp(high * (1 + slack), exponent)), best)


_BLOCKS, _STEPS = 4, 8  # powers up to n⁸ of numbers up to 1 stay within float32


def _settled(M: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Upper bound on λ_PF, right and left eigenvector of M ≥ 0 by power steps, if they settle.

    They do where every state reaches every other, in a trained matrix for one. The device is
    waited for once in 8 steps; unwatched, never: a bound of Collatz and Wielandt's holds wherever
    the steps end, and that they had not settled is read later.
    """
    eps, watch = rounding_of_sums(len(M), M.dtype), current()
    peak = M.amax().clamp_min(torch.finfo(M.dtype).tiny)
    M, right, left = M / peak, M.new_ones(len(M)), M.new_ones(len(M))
    for _ in range(_BLOCKS if watch is None else -(-watch.begin() // _STEPS)):
        for _ in range(_STEPS):
            right, left = M @ right, M.mT @ left
        # Positive whatever M is: of a nilpotent one all numbers are 0 in the end.
        right, left = (v.div(v.amax()).nan_to_num(1.0).clamp_min(1e-30) for v in (right, left))
        low, high = torch.stack((M @ right / right, M.mT @ left / left)).aminmax()
        if watch is None and high - low <= 4 * eps * high:  # false where there is a NaN
            return high * (1 + eps) * peak, right, left
    if watch is None:
        return None
    watch.end((high - low) / (4 * eps * high + torch.finfo(M.dtype).tiny))
    return torch.minimum(high, M.sum(dim=1).amax()) * (1 + eps) * peak, right, left


class _Perron(Function):
    """Upper bound on λ = λ_PF(|A|), its right and left eigenvectors r and l; all derivatives.

    dλ = lᵀ d|A| r / lᵀr, and (λI − |A|) dr = d|A| r − dλ r within the class of |A| that r and l
    live on; dl in the same way. Their lengths are left open: no derivative of λ depends on them.
    """

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if (found := _settled(A.abs())) is not None:
            return found
        pf = perron_frobenius(A)
        upper = pf.upper * (1 + torch.finfo(A.dtype).eps)  # new_tensor would wait for the device
        return A.new_full((), upper), pf.right.to(A), pf.left.to(A)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        ctx.set_materialize_grads(False)  # the first derivative of λ inverts nothing
        ctx.save_for_backward(*inputs, *output)
        ctx.save_for_forward(*inputs, *output)

    @staticmethod
    def vmap(info, in_dims: tuple, A: Tensor) -> tuple:
        each = [_Perron.apply(M) for M in A.movedim(in_dims[0], 0)]
        return tuple(map(torch.stack, zip(*each, strict=True))), (0, 0, 0)

    @staticmethod
    def _inverse(A: Tensor, root: Tensor, right: Tensor, left: Tensor) -> Tensor:
        """(λI − |A| + λ r lᵀ/lᵀr)⁻¹ within the class, zero outside."""
        on, scale = (right > 0).to(A), torch.where(root > 0, root, 1)
        unit = torch.where(right > 0, right, 1)  # of each state: in them r is 1 everywhere
        M = A.abs() * torch.outer(on / unit, right)
        T = torch.diag(root * on) - M + torch.outer(scale * on, left * right) / (left @ right)
        inverse = torch.linalg.pinv(T, rtol=16 * rounding_of_sums(len(A), A.dtype))
        return inverse * torch.outer(unit, 1 / unit)

    @staticmethod
    def backward(ctx, g: Tensor | None, g_right: Tensor | None, g_left: Tensor | None) -> Tensor:
        A, root, right, left = ctx.saved_tensors
        slope = 0 if g is None else g / (left @ right) * torch.outer(left, right)
        if g_right is not None:  # then of both, by the line above
            Z = _Perron._inverse(A, root, right, left)
            slope = slope + torch.outer(Z.mT @ g_right, right) + torch.outer(left, Z @ g_left)
        return A.sgn() * slope

    @staticmethod
    def jvp(ctx, dA: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one_tangent()
        A, root, right, left = ctx.saved_tensors
        dM, Z = A.sgn() * dA, _Perron._inverse(A, root, right, left)
        return left @ (dM @ right) / (left @ right), Z @ (dM @ right), Z.mT @ (dM.mT @ left)


def perron_root(A: Tensor) -> Tensor:
    """Upper bound on λ_PF(|A|) of A (n, n), a scalar; as often differentiable as λ_PF.

    It exceeds λ_PF by rounding alone: of the dtype of A, or of float32 for 16 bits. Where classes
    of |A| share the eigenvalue, it has the derivatives of one of them or of their mean.

    Parameters
    ----------
    A : Tensor, shape (n, n)

    Raises
    ------
    TypeError, ValueError
        As `perron_frobenius`.
    """
    validation.square("A", A)
    with full_precision(A):
        return _Perron.apply(wide(A))[0]
