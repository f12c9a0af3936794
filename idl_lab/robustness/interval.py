"""Interval propagation: the bounds of every unit from those of all, to a fixed point.

    l = φ(A⁺l + A⁻h + b_l),   h = φ(A⁺h + A⁻l + b_h),   A⁺ = max(A, 0), A⁻ = min(A, 0)

for an increasing φ is an implicit model with 2n states, and its matrix has the λ_PF of |A|: the
same solvers find it, and the same adjoint differentiates it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.fixed_point import Picard
from idl_lab.networks.blocks import blockwise
from idl_lab.robustness.bound import Linear
from idl_lab.robustness.closed import Closed
from idl_lab.robustness.relaxation import polygon
from idl_lab.robustness.system import EPS, Ball, solved


def doubled(A: Tensor) -> Tensor:
    """[[A⁺, A⁻], [A⁻, A⁺]], the matrix of lower and upper bounds, shape (2n, 2n).

    Parameters
    ----------
    A : Tensor, shape (n, n)
    """
    P, N = A.clamp(min=0), A.clamp(max=0)
    return torch.cat([torch.cat([P, N], 1), torch.cat([N, P], 1)])


def over(f: Linear, ball: Ball, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds, (m, K), of functions of states that lie between bounds.

    Parameters
    ----------
    f : Linear
    ball : Ball
    lower, upper : Tensor, shape (m, n)
        Of the state x.
    """
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    fixed = (f.g @ middle[:, :, None] + f.d @ ball.center[:, :, None])[:, :, 0] + f.k
    spread = (f.g.abs() @ half[:, :, None])[:, :, 0] + ball.support(f.d)
    size = (f.g.abs() @ (middle.abs() + half)[:, :, None] + f.d.abs() @ ball.reach[:, :, None])
    room = 4 * (f.g.shape[-1] + f.d.shape[-1]) * EPS * (size[:, :, 0] + f.k.abs())
    return fixed - spread - room, fixed + spread + room


def interval(closed: Closed, ball: Ball, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the pre-activations by interval propagation, (m, n), within those given.

    Parameters
    ----------
    closed : Closed
        Of a contractive system.
    ball : Ball
    lower, upper : Tensor, shape (m, n)
        Bounds of the pre-activations that are known.
    """
    system, pre = closed.system, Linear.pre_activations(closed.system, len(ball))
    if system.phi.increasing:
        found = _fixed(closed, ball)
        # An interval that its own image lies in holds the one equilibrium of each input.
        inner = over(pre, ball, system.phi(found[0]), system.phi(found[1]))
        holds = ((inner[0] >= found[0]) & (inner[1] <= found[1])).all(-1, keepdim=True)
        lower = torch.where(holds, torch.maximum(lower, inner[0]), lower)
        upper = torch.where(holds, torch.minimum(upper, inner[1]), upper)
    for _ in range(2 if system.phi.increasing else 50):
        P = polygon(system.phi, lower, upper)
        below, above = over(pre, ball, P.lower, P.upper)
        lower, upper = torch.maximum(lower, below), torch.minimum(upper, above)
    return lower, upper


def _fixed(closed: Closed, ball: Ball) -> tuple[Tensor, Tensor]:
    """The fixed point in z, made larger by more than its error."""
    system = closed.system
    n = len(system.A)
    reach = ball.support(system.B)
    b = ball.center @ system.B.mT + system.a
    A = doubled(system.A)
    phi = blockwise([(system.phi, n), (system.phi, n)])
    injection = torch.cat([b - reach, b + reach], -1)
    X = solved(A, injection, phi, Picard(rtol=1e-12, atol=1e-14, max_steps=5000))
    Z = X @ A.mT + injection
    l, h = Z[:, :n], Z[:, n:]
    off = torch.maximum(l.abs(), h.abs()).amax(-1, keepdim=True) * 1e-9 + 1e-12
    room = system.A.abs() @ closed.states(system.A.new_ones(n, 1)) + 1
    return l - off * room[:, 0], h + off * room[:, 0]
