"""The map X ↦ φ(X Aᵀ + b) that a solver iterates, with the maps that its derivatives need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from idl_lab.activations import Activation
from idl_lab.operators import (
    LowRank,
    Operator,
    affine,
    by_rows,
    from_leaves,
    gradients,
    leaves,
    linear,
    transpose,
)


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
        self.b = b.mT.contiguous().mT if by_rows(A) else b.contiguous()  # as `affine` reads it
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

    def gain(self) -> float:
        """‖A‖∞, or that of |L||R|ᵀ: X Aᵀ is rounded in proportion to it."""
        with torch.no_grad():
            magnitudes = affine(from_leaves([T.abs() for T in leaves(self.A)], self.A))
            ones = self.b.new_ones(1, self.b.shape[-1])
            return float(magnitudes(torch.zeros_like(ones), ones).amax())

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
