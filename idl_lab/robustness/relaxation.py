"""Polygons that hold the graph of φ between two pre-activations: what replaces φ in a bound.

A polygon is given by its corners, so that the least value of r·φ(z) − v·z over it is the least
over a few numbers. Piecewise linear φ: the hull of the graph, its corners at the ends and the
kinks (of ReLU the triangle). Convex φ: the chord and the tangents at the ends. tanh and sigmoid:
the parallelogram along the smaller slope at the ends. Any other φ: the smallest box.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from idl_lab.activations import Activation
from idl_lab.networks.blocks import bend, parts

_KINKS = {torch.relu: (0.0,), F.relu: (0.0,), F.leaky_relu: (0.0,), F.hardtanh: (-1.0, 1.0),
          torch.clone: ()}
_CONVEX = (F.softplus, F.elu)
_BENT = (torch.tanh, torch.sigmoid)


@dataclass(frozen=True)
class Polygon:
    """Corners of a polygon for each unit, and the line through it that stands for φ.

    Attributes
    ----------
    z, x : Tensor, shape (..., n, corners)
        Pre-activation and activation of the corners.
    slope : Tensor, shape (..., n)
        Of the line.
    exact : Tensor of bool, shape (..., n)
        Whether φ is that line between the two pre-activations.
    """

    z: Tensor
    x: Tensor
    slope: Tensor
    exact: Tensor

    @property
    def lower(self) -> Tensor:
        """The least activation, shape (..., n)."""
        return self.x.amin(-1)

    @property
    def upper(self) -> Tensor:
        """The largest activation, shape (..., n)."""
        return self.x.amax(-1)

    def __getitem__(self, which: Tensor | slice) -> Polygon:
        return Polygon(self.z[which], self.x[which], self.slope[which], self.exact[which])


def polygon(phi: Activation, lower: Tensor, upper: Tensor) -> Polygon:
    """The polygons of φ for pre-activations between two bounds.

    Parameters
    ----------
    phi : Activation
    lower, upper : Tensor, shape (..., n)
    """
    found, at = [], 0
    for part, size in parts(phi, lower.shape[-1]):
        found.append(_polygon(part, lower[..., at:at + size], upper[..., at:at + size]))
        at += size
    if len(found) == 1:
        return found[0]
    most = max(P.z.shape[-1] for P in found)

    def corners(T: Tensor) -> Tensor:  # the last one repeated
        return torch.cat([T, T[..., -1:].expand(*T.shape[:-1], most - T.shape[-1])], -1)

    return Polygon(torch.cat([corners(P.z) for P in found], -2),
                   torch.cat([corners(P.x) for P in found], -2),
                   torch.cat([P.slope for P in found], -1), torch.cat([P.exact for P in found], -1))


def _polygon(phi: Activation, l: Tensor, h: Tensor) -> Polygon:
    fn, options = (phi.fn.func, phi.fn.keywords) if isinstance(
        phi.fn, functools.partial) else (phi.fn, {})
    fl, fh, width = phi(l), phi(h), h - l
    chord = ((fh - fl) / torch.where(width > 0, width, 1)).clamp(
        0 if phi.increasing else -phi.slope, phi.slope)
    never = torch.zeros_like(l, dtype=torch.bool)
    if (kinks := kinks_of(phi)) is not None:
        inside = [(l < kink) & (kink < h) for kink in kinks]
        exact = ~functools.reduce(torch.logical_or, inside, never)
        z = torch.stack([l, *(l.clamp(min=kink).minimum(h) for kink in kinks), h], -1)
        x = torch.stack([phi(corner) for corner in z.unbind(-1)], -1)
        # Of a short piece the chord is all rounding.
        return Polygon(z, x, torch.where(exact, phi.derivative((l + h) / 2), chord), exact)
    if fn in _CONVEX and options.get("alpha", 1.0) <= 1:
        sl, sh = phi.derivative(l), phi.derivative(h)
        bend = sh - sl
        at = (fh - fl + sl * l - sh * h) / torch.where(bend > 0, -bend, 1)
        at = torch.where(bend > 0, at, l).maximum(l).minimum(h)
        # Where the tangents meet; the lower of the two is right wherever rounding puts that.
        low = torch.minimum(fl + sl * (at - l), fh + sh * (at - h))
        return Polygon(torch.stack([l, at, h], -1), torch.stack([fl, low, fh], -1), chord, never)
    slope, low, high = torch.zeros_like(l), fl, fh
    if fn in _BENT:
        slope = torch.minimum(phi.derivative(l), phi.derivative(h)).clamp(max=phi.slope)
    elif not phi.increasing:
        middle, room = phi((l + h) / 2), phi.slope * width / 2
        low, high = middle - room, middle + room
    rise = slope * width
    return Polygon(torch.stack([l, l, h, h], -1),
                   torch.stack([low, high - rise, high, low + rise], -1), slope, never)


def kinks_of(phi: Activation) -> tuple[float, ...] | None:
    """Where a piecewise linear φ bends; None of one that is not known to be piecewise linear.

    Parameters
    ----------
    phi : Activation
    """
    fn = phi.fn
    if isinstance(fn, functools.partial):
        if fn.func is F.hardtanh:
            return fn.keywords["min_val"], fn.keywords["max_val"]
        return (0.0,) if fn.func in (F.leaky_relu, bend) else None
    return _KINKS.get(fn)
