"""The best multipliers: dual ascent of the linear program over the polygons, for many at once.

Where φ is exactly a line between its bounds the unit is eliminated, so that the program has only
the unstable units left. An ascent in float32 finds multipliers; what they prove is then worked
out by `bound` in float64 with the full matrices, so nothing here can make a bound wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab.robustness.bound import Linear, bound, multipliers
from idl_lab.robustness.relaxation import Polygon, polygon
from idl_lab.robustness.system import Ball, System

_MOMENTUM, _SQUARES, _LENGTH, _SHRINK = 0.8, 0.98, 0.1, 0.02  # of the ascent's steps


@dataclass(frozen=True)
class Reduced:
    """z_U = P x_U + Q (u − center) + t of the unstable units, padded to k of them a sample.

    Attributes
    ----------
    P, Q, t : Tensor, shapes (m, k, k), (m, k, p) and (m, k)
    polygon : Polygon, of shape (m, k)
        Theirs; (0, 0) for those that only pad.
    units : Tensor of int64, shape (m, k)
        Which they are.
    there : Tensor of bool, shape (m, k)
        False for those that only pad.
    inverse : Tensor, shape (m, n, n)
        (I − AΛ)⁻¹, Λ the slopes of the stable units.
    slope, offset : Tensor, shape (m, n)
        x = Λz + offset of the stable units.
    """

    P: Tensor
    Q: Tensor
    t: Tensor
    polygon: Polygon
    units: Tensor
    there: Tensor
    inverse: Tensor
    slope: Tensor
    offset: Tensor

    @classmethod
    def of(cls, system: System, ball: Ball, P: Polygon) -> Reduced:
        """Eliminate the stable units.

        Parameters
        ----------
        system : System
        ball : Ball
        P : Polygon, of shape (m, n)
        """
        m, n = P.slope.shape
        slope = P.slope.masked_fill(~P.exact, 0)
        offset = (P.x[..., 0] - slope * P.z[..., 0]).masked_fill(~P.exact, 0)
        eye = torch.eye(n, dtype=slope.dtype, device=slope.device)
        inverse = torch.linalg.inv(eye - system.A * slope[:, None, :])
        k = max(1, int((~P.exact).sum(-1).max()))
        units = P.exact.to(torch.int8).argsort(dim=-1, stable=True)[:, :k]  # unstable ones first
        there = ~P.exact.gather(-1, units)
        rows = inverse.gather(1, units[:, :, None].expand(m, k, n)).masked_fill(
            ~there[:, :, None], 0)
        columns = system.A[:, units].permute(1, 0, 2).masked_fill(~there[:, None, :], 0)
        fixed = offset @ system.A.mT + system.a + ball.center @ system.B.mT

        def corners(T: Tensor) -> Tensor:
            return T.gather(1, units[:, :, None].expand(m, k, T.shape[-1])).masked_fill(
                ~there[:, :, None], 0)

        of_units = Polygon(corners(P.z), corners(P.x), P.slope.gather(-1, units), ~there)
        return cls(rows @ columns, rows @ system.B, (rows @ fixed[:, :, None])[:, :, 0], of_units,
                   units, there, inverse, slope, offset)

    def restrict(self, system: System, ball: Ball, f: Linear) -> Linear:
        """The same functions of x_U and u − center.

        Parameters
        ----------
        system : System
        ball : Ball
        f : Linear
        """
        v = (f.g * self.slope[:, None, :]) @ self.inverse
        g = (f.g + v @ system.A).gather(2, self.units[:, None, :].expand(
            *f.g.shape[:2], -1)).masked_fill(~self.there[:, None, :], 0)
        d = f.d + v @ system.B
        fixed = self.offset @ system.A.mT + system.a
        k = f.k + (v @ fixed[:, :, None] + f.g @ self.offset[:, :, None]
                   + d @ ball.center[:, :, None])[:, :, 0]
        return Linear(g, d, k)

    def lift(self, f: Linear, v: Tensor) -> Tensor:
        """Multipliers of all units, (m, K, n), from those of the unstable ones.

        Parameters
        ----------
        f : Linear
            Of the system.
        v : Tensor, shape (m, K, k)
        """
        v = v.masked_fill(~self.there[:, None, :], 0)
        full = (f.g * self.slope[:, None, :]).scatter_add(
            2, self.units[:, None, :].expand_as(v), v)
        return full @ self.inverse

    def ascend(self, ball: Ball, f: Linear, v: Tensor, steps: int) -> Tensor:
        """Multipliers with a higher lower bound, (m, K, k), by Adam on the dual function.

        Parameters
        ----------
        ball : Ball
        f : Linear
            Of x_U and u − center.
        v : Tensor, shape (m, K, k)
            To start from.
        steps : int
        """
        P, Q, t, g, d, k, z, x, radius, v = (T.to(torch.float32) for T in (
            self.P, self.Q, self.t, f.g, f.d, f.k, self.polygon.z, self.polygon.x, ball.radius, v))
        z, x, t = z[:, None], x[:, None], t[:, None]
        radius = radius[:, None]
        best, highest = v, torch.full_like(k, -torch.inf)
        mean, square = torch.zeros_like(v), torch.zeros_like(v)
        length = _LENGTH * v.abs().amax(-1, keepdim=True).clamp_min(1e-6)
        for step in range(1, steps + 1):
            r, w = g + v @ P, d + v @ Q
            value, at_x, at_z = None, None, None
            for zc, xc in zip(z.unbind(-1), x.unbind(-1), strict=True):
                corner = r * xc - v * zc
                if value is None:
                    value, at_x, at_z = corner, xc.expand_as(r), zc.expand_as(r)
                else:
                    less = corner < value
                    value = torch.where(less, corner, value)
                    at_x, at_z = torch.where(less, xc, at_x), torch.where(less, zc, at_z)
            if ball.norm == 2:
                size = torch.linalg.vector_norm(w, dim=-1, keepdim=True)
                support, at_u = radius * size, radius * w / size.clamp_min(1e-30)
            else:
                support, at_u = w.abs() * radius, w.sign() * radius
            bound_ = value.sum(-1) + (v * t).sum(-1) + k - support.sum(-1)
            better = bound_ > highest
            highest = torch.where(better, bound_, highest)
            best = torch.where(better[..., None], v, best)
            slope = at_x @ P.mT - at_z + t - at_u @ Q.mT
            mean = mean.lerp(slope, 1 - _MOMENTUM)
            square = square.lerp(slope * slope, 1 - _SQUARES)
            root = (square / (1 - _SQUARES**step)).sqrt().clamp_min(1e-12)
            v = v + length * _SHRINK ** (step / steps) * mean / (1 - _MOMENTUM**step) / root
        return best.to(self.P.dtype)


def optimized(system: System, ball: Ball, P: Polygon, f: Linear, steps: int,
              reduced: Reduced | None = None) -> Tensor:
    """Multipliers (m, K, n) that make the lower bounds of functions high.

    Parameters
    ----------
    system : System
    ball : Ball
    P : Polygon, of shape (m, n)
    f : Linear
    steps : int
        Of the ascent.
    reduced : Reduced, optional
        Of this polygon, where it is known already.
    """
    reduced = Reduced.of(system, ball, P) if reduced is None else reduced
    start = multipliers(system, P, f).gather(2, reduced.units[:, None, :].expand(
        *f.g.shape[:2], -1))
    small = reduced.restrict(system, ball, f)
    return reduced.lift(f, reduced.ascend(ball, small, start, steps))


def tighten(system: System, ball: Ball, lower: Tensor, upper: Tensor, steps: int
            ) -> tuple[Tensor, Tensor]:
    """Bounds of the unstable units' pre-activations by the linear program, (m, n), intersected.

    Parameters
    ----------
    system : System
    ball : Ball
    lower, upper : Tensor, shape (m, n)
    steps : int
    """
    P = polygon(system.phi, lower, upper)
    reduced = Reduced.of(system, ball, P)
    units = reduced.units
    z = Linear(system.A[units], system.B[units], system.a[units])
    both = Linear(torch.cat([z.g, -z.g], 1), torch.cat([z.d, -z.d], 1), torch.cat([z.k, -z.k], 1))
    v = optimized(system, ball, P, both, steps, reduced)
    below, above = bound(system, ball, P, both, v)
    k = units.shape[1]
    low = torch.maximum(below[:, :k], -above[:, k:])
    high = torch.minimum(above[:, :k], -below[:, k:])
    new_low = lower.scatter(1, units, torch.maximum(low, lower.gather(1, units)))
    new_high = upper.scatter(1, units, torch.minimum(high, upper.gather(1, units)))
    return new_low, new_high
