"""Bounds of the pre-activations from the joint linear relaxation of all units at once."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.robustness.bound import Linear, bound, multipliers
from idl_lab.robustness.relaxation import polygon
from idl_lab.robustness.system import Ball, System

_ROUNDS, _WORTH = 8, 0.99  # of refining: it ends where a round gains less than that
Bounds = tuple[Tensor, Tensor]


def refine(system: System, ball: Ball, lower: Tensor, upper: Tensor) -> Bounds:
    """What follows for the pre-activations from bounds of them, each (m, n); not intersected.

    Parameters
    ----------
    system : System
    ball : Ball
    lower, upper : Tensor, shape (m, n)
    """
    P = polygon(system.phi, lower, upper)
    z = Linear.pre_activations(system, len(ball))
    return bound(system, ball, P, z, multipliers(system, P, z))


def grown(system: System, ball: Ball, center: Tensor, off: Tensor, max_steps: int = 80,
          widen: float = 1.05) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of the pre-activations, grown from the center's until they prove themselves.

    If z(u) stays inside [l, h], it lies in F(l, h), what `refine` makes of these. Where F(l, h)
    lies in the interior of [l, h], no u of the ball leaves it: on the way from the center to u,
    z(u) moves continuously, and at the first point where it touches the boundary of [l, h] it
    would still have to lie in F(l, h). So this needs no bounds to start from, and finds those
    next to the center, where refining from outside may stop at far larger ones.

    Parameters
    ----------
    system : System
    ball : Ball
    center, off : Tensor, shape (m, n)
        z at the center of the ball, and the size of its error.
    max_steps : int
    widen : float
        By what factor each next guess exceeds what followed from the last.

    Returns
    -------
    lower, upper : Tensor, shape (m, n)
    proven : Tensor of bool, shape (m,)
        Where they are bounds; elsewhere nothing is known.
    """
    lower, upper = center - 2 * off - 1e-9, center + 2 * off + 1e-9
    proven = torch.zeros(len(ball), dtype=torch.bool, device=center.device)
    left = torch.arange(len(ball), device=center.device)
    for _ in range(max_steps):
        l, h, z = lower[left], upper[left], center[left]
        below, above = refine(system, ball[left], l, h)
        done = ((below > l) & (above < h)).all(-1)
        proven[left[done]] = True
        lower[left] = torch.where(done[:, None], below, torch.minimum(l, z + widen * (below - z)))
        upper[left] = torch.where(done[:, None], above, torch.maximum(h, z + widen * (above - z)))
        left = left[~done & ((above - below).amax(-1) < 1e6)]
        if not len(left):
            break
    return lower, upper, proven


def affine(system: System, ball: Ball, lower: Tensor, upper: Tensor, center: Tensor, off: Tensor
           ) -> Bounds:
    """Bounds of the pre-activations, (m, n), within those given: grown, then refined.

    Parameters
    ----------
    system : System
    ball : Ball
    lower, upper : Tensor, shape (m, n)
        Bounds that are known.
    center, off : Tensor, shape (m, n)
        As for `grown`.
    """
    low, high, proven = grown(system, ball, center, off)
    lower = torch.where(proven[:, None], torch.maximum(lower, low), lower)
    upper = torch.where(proven[:, None], torch.minimum(upper, high), upper)
    for _ in range(_ROUNDS):
        width = (upper - lower).sum()
        low, high = refine(system, ball, lower, upper)
        lower, upper = torch.maximum(lower, low), torch.minimum(upper, high)
        if (upper - lower).sum() > _WORTH * width:
            break
    return lower, upper
