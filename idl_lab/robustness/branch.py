"""Branch and bound: an unstable unit is split at its kink, and each half is bounded anew."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from idl_lab.robustness.affine import refine
from idl_lab.robustness.bound import Linear, bound
from idl_lab.robustness.dual import optimized
from idl_lab.robustness.relaxation import Polygon, polygon
from idl_lab.robustness.system import Ball, System

_STEPS, _TOGETHER = 100, 32  # of the ascent; nodes that are bounded at once


def _gain(system: System, P: Polygon, f: Linear, v: Tensor, worst: Tensor) -> Tensor:
    """What splitting each unit may gain for the function that is lowest, (m, n); −1 of stable ones.

    The height of its triangle times the multiplier on that side (Bunel et al. 2020, JMLR 21(42)).
    """
    which = worst[:, None, None].expand(-1, 1, len(system.A))
    r = (f.g.gather(1, which) + v.gather(1, which) @ system.A)[:, 0]
    l, h = P.z[..., 0], P.z[..., -1]
    below = (-l * h / torch.where(P.exact, 1, h - l)) * (-r).clamp(min=0)
    above = torch.minimum(-l, h) * r.clamp(min=0)
    return (below + 0.3 * above).masked_fill(P.exact, -1)


def branch(system: System, ball: Ball, f: Linear, lower: Tensor, upper: Tensor, nodes: int,
           known: float = -torch.inf) -> tuple[float, int]:
    """A lower bound of the least of K functions over one ball, and the nodes that it took.

    It stops where the bound is positive, or has to be split where nothing is left to split, or
    where the nodes are used up: the bound holds in each case.

    Parameters
    ----------
    system : System
        With a φ that bends at 0 alone.
    ball : Ball
        Of one input.
    f : Linear
        For one sample.
    lower, upper : Tensor, shape (1, n)
        Bounds of z.
    nodes : int
        How many may be bounded.
    known : float
        A lower bound that is known already.
    """
    open_nodes, used, least = [(torch.inf, lower, upper, lower > upper)], 0, torch.inf
    while open_nodes and used < nodes:
        taken = [open_nodes.pop() for _ in range(min(_TOGETHER, len(open_nodes)))]
        l, h, split = (torch.cat([node[k] for node in taken]) for k in (1, 2, 3))
        m = len(l)
        used += m
        around = Ball(ball.center.expand(m, -1), ball.radius.expand(m, -1), ball.norm)
        each = Linear(*(T.expand(m, *T.shape[1:]) for T in (f.g, f.d, f.k)))
        below, above = refine(system, around, l, h)
        l, h = torch.maximum(l, below), torch.minimum(h, above)
        empty = (l > h).any(-1)  # no input of the ball has these signs
        P = polygon(system.phi, l, l.maximum(h))
        # A unit that was split is linear now, but that its sign is fixed is a constraint to keep.
        kept = replace(P, exact=P.exact & ~split)
        v = optimized(system, around, kept, each, _STEPS)
        bounds, worst = bound(system, around, P, each, v)[0].min(-1)
        gain = _gain(system, P, each, v, worst)
        for k in bounds.argsort(descending=True).tolist():
            value = float(bounds[k])
            if empty[k]:
                continue
            if value > 0:
                least = min(least, value)
                continue
            unit = int(gain[k].argmax())
            if gain[k, unit] < 0:
                open_nodes.append((float(bounds.min()), *taken[0][1:]))
                return max(known, min(least, *(node[0] for node in open_nodes))), used
            cut_l, cut_h = l[k:k + 1].clone(), h[k:k + 1].clone()
            cut_l[0, unit] = cut_h[0, unit] = 0.0
            cut = split[k:k + 1].clone()
            cut[0, unit] = True
            open_nodes += [(value, l[k:k + 1], cut_h, cut), (value, cut_l, h[k:k + 1], cut)]
    return max(known, min([least, *(node[0] for node in open_nodes)])), used
