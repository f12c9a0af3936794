"""The one place where a bound is made: any multipliers give one that holds.

A linear function f = g·x + d·u + k of state and input is bounded from below by its Lagrangian.
With multipliers v of the equation z = Ax + Bu + a,

    f = (g + Aᵀv)·x − v·z + (d + Bᵀv)·u + v·a + k,

and over polygons that hold every pair (z_i, x_i = φ(z_i)), and a ball that holds u, each term has
its least value at a corner, or is the ball's support function. So every v is a proof; what
methods differ in is how they choose it. The best v gives the optimum of the linear program over
those polygons (LP duality).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab.robustness.relaxation import Polygon
from idl_lab.robustness.system import EPS, Ball, System


@dataclass(frozen=True)
class Linear:
    """Functions g·x + d·u + k of state and input, K for each of m samples.

    Attributes
    ----------
    g, d, k : Tensor, shapes (m, K, n), (m, K, p) and (m, K)
    """

    g: Tensor
    d: Tensor
    k: Tensor

    @classmethod
    def pre_activations(cls, system: System, m: int) -> Linear:
        """z = Ax + Bu + a, the n pre-activations, for each of m samples.

        Parameters
        ----------
        system : System
        m : int
        """
        return cls(*(T.expand(m, *T.shape) for T in (system.A, system.B, system.a)))

    @classmethod
    def outputs(cls, system: System, m: int) -> Linear:
        """ŷ = Cx + Du + c for each of m samples.

        Parameters
        ----------
        system : System
        m : int
        """
        return cls(*(T.expand(m, *T.shape) for T in (system.C, system.D, system.c)))

    def __getitem__(self, which: Tensor | slice) -> Linear:
        return Linear(self.g[which], self.d[which], self.k[which])


def bound(system: System, ball: Ball, polygon: Polygon, f: Linear, v: Tensor
          ) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds, (m, K), that the multipliers prove; their rounding is taken off.

    Parameters
    ----------
    system : System
    ball : Ball
        Of m inputs.
    polygon : Polygon, of shape (m, n)
        That hold (z, φ(z)) for every u in the ball.
    f : Linear
    v : Tensor, shape (m, K, n)
        Any numbers.
    """
    r, w = f.g + v @ system.A, f.d + v @ system.B
    lower = upper = None
    for z, x in zip(polygon.z.unbind(-1), polygon.x.unbind(-1), strict=True):
        value = r * x[:, None] - v * z[:, None]
        lower = value if lower is None else torch.minimum(lower, value)
        upper = value if upper is None else torch.maximum(upper, value)
    u = ball.center[:, :, None]
    fixed = v @ system.a + (w @ u)[:, :, 0] + f.k
    support = ball.support(w)
    # A sum of so many products is wrong by at most their number times EPS of what their
    # magnitudes add up to, in any order of adding.
    x, z, u = polygon.x.abs().amax(-1), polygon.z.abs().amax(-1), ball.reach
    share = x @ system.A.abs().mT + u @ system.B.abs().mT + z + system.a.abs()
    size = ((v.abs() @ share[:, :, None])[:, :, 0] + (f.g.abs() @ x[:, :, None])[:, :, 0]
            + (f.d.abs() @ u[:, :, None])[:, :, 0] + f.k.abs())
    room = 4 * sum(system.B.shape) * EPS * size
    return (fixed + lower.sum(-1) - support - room, fixed + upper.sum(-1) + support + room)


def multipliers(system: System, polygon: Polygon, f: Linear) -> Tensor:
    """Those of the joint linear relaxation, (m, K, n): v = Λ(g + Aᵀv), Λ the polygons' slopes.

    They cancel x against z along the line of each polygon: what is left of it is its width.

    Parameters
    ----------
    system : System
    polygon : Polygon, of shape (m, n)
    f : Linear
    """
    slope = polygon.slope[:, :, None]
    eye = torch.eye(len(system.A), dtype=slope.dtype, device=slope.device)
    return torch.linalg.solve(eye - slope * system.A.mT, slope * f.g.mT).mT
