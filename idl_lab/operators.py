"""The matrix A of the state equation in three forms, and the map X ↦ φ(X Aᵀ + b) made of it.

A is a dense tensor, a `Sparse` matrix (a network read off), or a `LowRank` product L Rᵀ that is
never formed. Whatever solves the equation, forward or adjoint, sees only these
functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from idl_lab import sparse, validation
from idl_lab.activations import Activation
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


class _Once(torch.autograd.Function):
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


def _by_rows(A: Operator) -> bool:
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
    if _by_rows(A):
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


class StateMap:
    """f(X) = φ(X Aᵀ + b) on batches (m, n): what a solver iterates, with its derivatives.

    The derivatives of its fixed point are fixed points of such maps again, with the product by
    the slopes S = φ′ there in place of φ. So they have derivatives of the same kind.

    Parameters
    ----------
    A : Tensor, Sparse or LowRank, shape (n, n)
    b : Tensor, shape (m, n)
    phi : Activation
    slopes : Tensor, shape (m, n), optional
        S of the linear map S ∘ (X Aᵀ + b), which takes the place of φ.

    Attributes
    ----------
    tensors : tuple of Tensor
        What it is made of: the first ``shared`` belong to all samples, the others have them as
        their first axis.
    """

    def __init__(self, A: Operator, b: Tensor, phi: Activation, slopes: Tensor | None = None
                 ) -> None:
        self.A, self.phi, self.slopes = A, phi, slopes
        self.b = b.mT.contiguous().mT if _by_rows(A) else b.contiguous()  # as `affine` reads it
        self.shared = len(leaves(A))
        self.tensors = (*leaves(A), b) if slopes is None else (*leaves(A), b, slopes)
        self._affine = affine(A)
        self._zero: Tensor | None = None
        self._act = (lambda P: P.mul_(slopes)) if slopes is not None else phi.in_place or phi.fn

    def of(self, tensors: Sequence[Tensor]) -> StateMap:
        """The same map made of other tensors.

        Parameters
        ----------
        tensors : sequence of Tensor
            In the order of ``tensors``.
        """
        k = self.shared
        A = from_leaves(tensors[:k], self.A)
        return StateMap(A, tensors[k], self.phi, *tensors[k + 1:])

    def zero(self) -> Tensor:
        """The start X = 0; its image φ(b) then costs no product."""
        self._zero = torch.zeros_like(self.b)
        return self._zero

    def pre(self, X: Tensor) -> Tensor:
        """X Aᵀ + b, shape (m, n).

        Parameters
        ----------
        X : Tensor, shape (m, n)
        """
        return self._affine(self.b, X)

    def act(self, P: Tensor) -> Tensor:
        """φ(P), or S ∘ P.

        Parameters
        ----------
        P : Tensor, shape (m, n)
        """
        return self.phi.fn(P) if self.slopes is None else self.slopes * P

    def __call__(self, X: Tensor) -> Tensor:
        if X is self._zero:
            return self.act(self.b)
        return self._act(self._affine(self.b, X))

    def slope(self, X: Tensor, fX: Tensor) -> Tensor:
        """φ′ at X Aᵀ + b, shape (m, n), where f(X) = ``fX`` is known.

        Parameters
        ----------
        X, fX : Tensor, shape (m, n)
            A state and its image.
        """
        if self.slopes is not None:
            return self.slopes
        if self.phi.slope_of_value is not None:
            return self.phi.slope_of_value(fX)
        return self.phi.derivative(self.pre(X))

    def adjoint(self, X: Tensor, g: Tensor) -> StateMap:
        """V ↦ S ∘ (V A + g), whose fixed point is the gradient with respect to b.

        Parameters
        ----------
        X, g : Tensor, shape (m, n)
            The solution and the gradient there.
        """
        return StateMap(transpose(self.A), g, self.phi, self.slope(X, X))

    def pull(self, X: Tensor, V: Tensor, g: Tensor, wanted: Sequence[bool]
             ) -> tuple[Tensor | None, ...]:
        """Gradients with respect to ``tensors``: VᵀX for A, V for b.

        Parameters
        ----------
        X, V, g : Tensor, shape (m, n)
            The solution, the adjoint's and the gradient.
        wanted : sequence of bool
            Which.
        """
        of_A = gradients(self.A, V, X) if any(wanted[:self.shared]) else [None] * self.shared
        if self.slopes is None:
            return *of_A, V
        return *of_A, V, affine(transpose(self.A))(g, V) * self.pre(X)

    def tangent(self, X: Tensor, change: Sequence[Tensor | None]) -> tuple[StateMap, Tensor | None]:
        """The map whose fixed point, plus the second, is the change of X with ``tensors``.

        Parameters
        ----------
        X : Tensor, shape (m, n)
            The solution.
        change : sequence of Tensor or None
            Of each tensor.
        """
        of_A, (of_b, *of_slopes) = change[:self.shared], change[self.shared:]
        c = torch.zeros_like(X) if of_b is None else of_b
        if isinstance(self.A, LowRank):
            L, R = of_A
            c = c if L is None else c + X @ self.A.R @ L.mT
            c = c if R is None else c + X @ R @ self.A.L.mT
        elif of_A[0] is not None:
            c = c + linear(X, from_leaves(of_A, self.A))
        direct = None
        if of_slopes and of_slopes[0] is not None:
            direct = of_slopes[0] * self.pre(X)
            c = affine(self.A)(c, direct)
        return StateMap(self.A, c, self.phi, self.slope(X, X)), direct
