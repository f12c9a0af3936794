"""The matrix A of the state equation in three forms.

A is a dense tensor, a `Sparse` matrix (a network read off), or a `LowRank` product L Rᵀ that is
never formed. Whatever solves the equation, forward or adjoint, sees only these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from idl_lab import sparse, validation
from idl_lab.extras import Function
from idl_lab.sparse import Sparse


@dataclass(frozen=True)
class LowRank:
    """The matrix A = L Rᵀ (n, n) by its factors; one product costs O(n r) a sample.

    Attributes
    ----------
    L, R : Tensor, shape (n, r)
    """

    L: Tensor
    R: Tensor

    @property
    def shape(self) -> torch.Size:
        """(n, n), the shape of the product."""
        return torch.Size((len(self.L), len(self.R)))

    def to_dense(self) -> Tensor:
        """The product L Rᵀ, formed."""
        return self.L @ self.R.mT


Operator = Tensor | Sparse | LowRank


def rounding_of_sums(terms: int, dtype: torch.dtype) -> float:
    """By what share the sum of so many magnitudes may be rounded wrongly.

    torch, numpy and BLAS add in pairs or in a few lanes, never one after the other, so each
    number takes part in about log₂(terms) additions; 8 is for a lane's own and for the product
    or quotient that each number comes from. Whoever leaves this much room inside a bound finds
    it kept by every order of adding.

    Parameters
    ----------
    terms : int
    dtype : torch.dtype
        In which is added; of 16 bits, in float32, and the numbers are rounded before.
    """
    eps = torch.finfo(dtype).eps
    if dtype.itemsize < 4:
        return rounding_of_sums(terms, torch.float32) + eps / 2
    return (8 + int(terms).bit_length()) * eps


@torch.no_grad()
def uniform_(M: Tensor, fan_in: float, generator: torch.Generator | None = None) -> Tensor:
    """Overwrite M with U(−1/√fan_in, 1/√fan_in), the law of torch's layers.

    Parameters
    ----------
    M : Tensor
        Drawn on the generator's device, then copied to its own.
    fan_in : float
        How many numbers are added up in one of the layer's outputs.
    generator : torch.Generator, optional
        torch's global one by default.
    """
    draw = M if generator is None else torch.empty_like(M, device=generator.device)
    return M.copy_(draw.uniform_(-fan_in**-0.5, fan_in**-0.5, generator=generator))


def dense(A: Operator) -> Tensor:
    """A as an ordinary matrix (n, n), formed where it is not one.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank, shape (n, n)
    """
    return A if isinstance(A, Tensor) else A.to_dense()


def leaves(A: Operator) -> tuple[Tensor, ...]:
    """The tensors that A is made of, for autograd.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank
    """
    if isinstance(A, Sparse):
        return (A.values,)
    return (A.L, A.R) if isinstance(A, LowRank) else (A,)


def from_leaves(tensors: Sequence[Tensor], like: Operator) -> Operator:
    """The operator of these `leaves`.

    Parameters
    ----------
    tensors : sequence of one Tensor, or of L and R
    like : Tensor, Sparse or LowRank
        Of the kind that is made.
    """
    if isinstance(like, Sparse):
        return Sparse(tensors[0], like.layout)
    return LowRank(*tensors) if isinstance(like, LowRank) else tensors[0]


def check_finite(made_of: Mapping[str, Operator | None], show: Sequence[str] = ()) -> None:
    """Check that numbers are finite, at the price of one wait of the host.

    A sum is finite only if every entry is. It may overflow where they are, so a slow look at one
    after the other has the last word, and names the first that is not finite.

    Parameters
    ----------
    made_of : mapping of name to Tensor, dense or sparse (CSR), LowRank, or None
    show : sequence of str
        Those whose sums are taken, if not all: what the others hold shows in them.

    Raises
    ------
    ValueError
        If a number is NaN or infinite.
    """
    parts = {name: [T if T.layout == torch.strided else T.values() for T in leaves(A)]
             for name, A in made_of.items() if A is not None}
    with torch.no_grad():
        total = sum(T.sum() for name in show or parts for T in parts.get(name, ()))
        if not validation.readable(total) or math.isfinite(total):
            return
        for name, tensors in parts.items():
            if bad := sum(int((~torch.isfinite(T)).sum()) for T in tensors):
                raise ValueError(f"{name} must be finite, got {bad} NaN or infinite of "
                                 f"{sum(T.numel() for T in tensors)} entries.")


def detach(A: Operator) -> Operator:
    """The same operator without its history.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank
    """
    return from_leaves([T.detach() for T in leaves(A)], A)


def transpose(A: Operator) -> Operator:
    """Aᵀ in the form of A.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank, shape (n, n)
    """
    if isinstance(A, LowRank):
        return LowRank(A.R, A.L)
    return A.mT


def rows(A: Operator, part: slice) -> Operator:
    """Some rows of A, (k, n), in its form.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank, shape (n, n)
    part : slice
    """
    if isinstance(A, LowRank):
        return LowRank(A.L[part], A.R)
    return A.rows(part) if isinstance(A, Sparse) else A[part]


def once(T: Tensor, why: str, *causes: Tensor) -> Tensor:
    """A gradient that depends on other tensors in ways that are not followed.

    Where a second derivative would pass through it, a RuntimeError says why there is none.
    (torch's once_differentiable hides the tensors, and autograd.grad then passes it by.)

    Parameters
    ----------
    T : Tensor
        The gradient.
    why : str
        The sentence of the error.
    *causes : Tensor
        What it depends on.
    """
    return _Once.apply(T, why, *causes)


class _Once(Function):
    """Its first argument; see `once`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(T: Tensor, why: str, *causes: Tensor) -> Tensor:
        return T.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.why = inputs[1]

    @staticmethod
    def backward(ctx, grad: Tensor) -> None:
        raise RuntimeError(ctx.why)


def by_rows(A: Operator) -> bool:
    """Whether `affine` reads A row by row, and so gives its result transposed in memory.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank, shape (n, n)
    """
    return isinstance(A, Sparse) or isinstance(A, Tensor) and A.is_contiguous()


def affine(A: Operator) -> Callable[[Tensor, Tensor], Tensor]:
    """The function (b, X) ↦ X Aᵀ + b on (m, n), set up once for many calls.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank, shape (n, n)
    """
    if isinstance(A, LowRank):
        R, Lt = A.R, A.L.mT.contiguous()
        return lambda b, X: torch.addmm(b, X @ R, Lt)
    if isinstance(A, Sparse):
        return A.step()
    # (A Xᵀ + bᵀ)ᵀ or X Aᵀ + b: whichever reads A in the order in which it lies in memory.
    if by_rows(A):
        return lambda b, X: torch.addmm(b.mT, A, X.mT).mT
    return lambda b, X: torch.addmm(b, X, A.mT)


def gradients(A: Operator, V: Tensor, X: Tensor) -> tuple[Tensor, ...]:
    """Gradients of Σ V ∘ (X Aᵀ) with respect to the `leaves` of A.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank, shape (n, n)
    V, X : Tensor, shape (m, n)
    """
    if isinstance(A, LowRank):
        return V.mT @ (X @ A.R), X.mT @ (V @ A.L)
    if isinstance(A, Sparse):
        return (sparse.on_entries(V, X, A.layout),)
    return (V.mT @ X,)


def linear(U: Tensor, M: Tensor, bias: Tensor | None = None) -> Tensor:
    """U Mᵀ (+ bias), (..., n); differentiable.

    Parameters
    ----------
    U : Tensor, shape (..., p)
    M : Tensor or Sparse, shape (n, p)
    bias : Tensor, shape (n,), optional
    """
    if not isinstance(M, Sparse):
        return nn.functional.linear(U, M, bias)
    Y = sparse.product(U.reshape(-1, U.shape[-1]), M).reshape(*U.shape[:-1], M.shape[0])
    return Y if bias is None else Y + bias
