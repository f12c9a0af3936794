"""A map z ↦ f(z; θ) of any torch function, with the derivatives that its fixed point needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., Tensor]


class FunctionMap:
    """What `operators.StateMap` is for φ(X Aᵀ + b), for any f: J = ∂f/∂z by torch.func.

    The solver sees states flat, (m, n); f sees them as ``(m, *shape)``. The derivatives of the
    fixed point are fixed points of maps of this class: v ↦ Jᵀv + g and w ↦ Jw + c.

    Parameters
    ----------
    f : callable
        Of the states ``(m, *shape)`` and the tensors; gives states, each sample on its own.
    tensors : sequence of Tensor
        θ: the first ``shared`` belong to all samples, the others have them as their first axis.
    shared : int
    shape : tuple of int
        Of one sample's state.
    linear : bool
        Whether f is v ↦ Jᵀv + g, with the point of J and g the last two of the tensors.
    """

    def __init__(self, f: Function, tensors: Sequence[Tensor], shared: int, shape: Sequence[int],
                 linear: bool = False) -> None:
        self.f, self.tensors, self.shared = f, tuple(tensors), shared
        self.shape, self.linear = tuple(shape), linear
        self._at: Function | None = None

    def of(self, tensors: Sequence[Tensor]) -> FunctionMap:
        """The same map made of other tensors.

        Parameters
        ----------
        tensors : sequence of Tensor
        """
        return FunctionMap(self.f, tensors, self.shared, self.shape, self.linear)

    def zero(self) -> Tensor:
        """The start z = 0, flat."""
        like = self.tensors[self.shared]
        return like.new_zeros(len(like), *self.shape).flatten(1)

    def __call__(self, x: Tensor) -> Tensor:
        if self._at is None:
            self._at = self._prepared() if self.linear else lambda z: self.f(z, *self.tensors)
        return self._at(self._whole(x)).flatten(1)

    def _whole(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)

    def _prepared(self) -> Function:
        """v ↦ Jᵀv + g by one record of f at its point, which all steps share."""
        *theta, x, g = (T.detach() for T in self.tensors)
        with torch.enable_grad():
            x = self._whole(x).requires_grad_()
            fx = self.f.inner(x, *theta)  # type: ignore[attr-defined]
        if not fx.requires_grad:  # f does not depend on its state
            return lambda v: self._whole(g)
        return lambda v: torch.autograd.grad(fx, x, v, retain_graph=True)[0] + self._whole(g)

    def adjoint(self, x: Tensor, g: Tensor) -> FunctionMap:
        """v ↦ Jᵀv + g, whose fixed point is the gradient that reaches f's value.

        Parameters
        ----------
        x, g : Tensor, shape (m, n)
            The solution and the gradient there.
        """
        return FunctionMap(_Adjoint(self.f, self._whole), (*self.tensors, x, g), self.shared,
                           self.shape, linear=True)

    def pull(self, x: Tensor, v: Tensor, g: Tensor, wanted: Sequence[bool]
             ) -> tuple[Tensor | None, ...]:
        """Gradients with respect to ``tensors``: v times f's derivative in each.

        Parameters
        ----------
        x, v, g : Tensor, shape (m, n)
            The solution, the adjoint's and the gradient.
        wanted : sequence of bool
            Which.
        """
        at = [k for k, want in enumerate(wanted) if want]

        def f(*some: Tensor) -> Tensor:
            theta = list(self.tensors)
            for k, T in zip(at, some, strict=True):
                theta[k] = T
            return self.f(self._whole(x), *theta)

        found = dict(zip(at, torch.func.vjp(f, *(self.tensors[k] for k in at))[1](
            self._whole(v)), strict=True))
        return tuple(found.get(k) for k in range(len(self.tensors)))

    def tangent(self, x: Tensor, change: Sequence[Tensor | None]) -> tuple[FunctionMap, None]:
        """w ↦ Jw + c, whose fixed point is the change of the solution; and nothing beside it.

        Parameters
        ----------
        x : Tensor, shape (m, n)
            The solution.
        change : sequence of Tensor or None
            Of each tensor.
        """
        given = [torch.zeros_like(T) if d is None else d
                 for T, d in zip(self.tensors, change, strict=True)]
        c = _push(lambda *theta: self.f(self._whole(x), *theta), self.tensors, given)

        def moved(w: Tensor, *tensors: Tensor) -> Tensor:
            *theta, at, c = tensors
            return _push(lambda z: self.f(z, *theta), (self._whole(at),), (w,)) + self._whole(c)

        return FunctionMap(moved, (*self.tensors, x, c.flatten(1)), self.shared, self.shape), None


class _Adjoint:
    """v ↦ Jᵀv + g as a function of everything, for derivatives of derivatives."""

    def __init__(self, inner: Function, whole: Function) -> None:
        self.inner, self._whole = inner, whole

    def __call__(self, v: Tensor, *tensors: Tensor) -> Tensor:
        *theta, x, g = tensors
        (Jv,) = torch.func.vjp(lambda z: self.inner(z, *theta), self._whole(x))[1](v)
        return Jv + self._whole(g)


def _push(f: Function, at: Sequence[Tensor], change: Sequence[Tensor]) -> Tensor:
    """The change Jw of f's value. Jᵀv is linear in v, and its own transpose is J: torch.func.jvp
    would not do inside a forward-mode derivative, which torch does not nest."""
    value, pull = torch.func.vjp(f, *at)
    return torch.func.vjp(pull, torch.zeros_like(value))[1](tuple(change))[0]
