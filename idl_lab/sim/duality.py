"""A lower bound on the optimum of a SIM problem, which makes a gap a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from idl_lab.sim.problem import Problem

# In units of ‖φ‖‖t‖, the size of an entry of Φᵀt: a smaller gradient counts as zero in a column
# that nothing holds.
VANISHED = 1e-10
# In the same units: where λ is smaller than this, rounding of the gradient can be a part of it.
SMALL = 1e-8
DOUBT = 10  # roundings of each entry of ΦᵀΦ by which its eigenvalues may be off
# That the sums behind ‖ν‖², νᵀt and an objective may have collected in each of their terms: two
# points whose objectives differ by less cannot be told apart.
ROUNDINGS = 16


def lower_bound(problem: Problem, W: Tensor, Y: Tensor | None = None) -> Tensor:
    """`Problem.dual`: the arguments and the formula are described there.

    Parameters
    ----------
    problem : Problem
        Whose rows are bounded.
    W : Tensor, shape (k, d)
        Where the residual is taken.
    Y : Tensor, shape (k, ball), optional
        A multiplier.
    """
    s = -problem.gradient(W)
    if Y is not None:
        s[:, :problem.ball] -= Y
    free = problem.free
    if len(free):
        shift = s[:, free] @ problem.free_inverse
        W = W.index_add(1, free, shift)
        s = s - shift @ problem.Q[free]
        size = (problem.Q.diagonal()[free].clamp(min=0) * problem.norms[:, None]).sqrt()
        unbounded = (s[:, free].abs() > VANISHED * size).any(dim=1)
        s = s.index_fill(1, free, 0.0)
    else:
        unbounded = torch.zeros_like(problem.norms, dtype=torch.bool)
    # Where the fit is almost exact ‖ν‖² and νᵀt are small differences of large numbers, and
    # rounding could lift the bound above the optimum: what it may have added is taken off.
    # |w|ᵀ|Q||w| is what the sums of ‖ν‖² were made of; `spread` is at least that.
    eps = torch.finfo(W.dtype).eps
    spread = (W.abs() @ problem.Q.diagonal().clamp(min=0).sqrt()) ** 2
    rounding = eps * (ROUNDINGS * (problem.norms + (W * problem.cross).abs().sum(dim=1)) + spread)
    square = 2 * problem.fit(W) + rounding  # ‖ν‖² at θ = 1
    slope = problem.norms - (W * problem.cross).sum(dim=1) - rounding  # −νᵀt at θ = 1
    # θ is at most `far`. Up to `tight` no column outside the ball costs anything, up to `near` the
    # ball costs nothing either; beyond, h* grows with θ.
    outside, beyond = problem.penalty[:, problem.ball:], s[:, problem.ball:]
    tight = far = _ratio(outside, beyond)
    # A gradient that rounding lifts above a small λ would cost its share of the whole bound. Where
    # Q says how large an entry of the optimum can be at most, it costs no more than that entry.
    box = None if Y is not None else _box(problem)
    if box is not None:
        far = _ratio(torch.where(box[:, problem.ball:] < torch.inf, torch.inf, outside), beyond)
    inside, multiplier = s[:, :problem.ball].abs(), 0.0 if Y is None else Y
    signed = s[:, :problem.ball] + multiplier  # s = θ · signed − Y
    candidates = [_clamped_ratio(slope, square, far)]
    if problem.ball:
        near = torch.minimum(_ratio(problem.penalty[:, :problem.ball], inside), tight)
        # `tight` is clamped, since ∞ · 0 would be NaN.
        candidates += [near, torch.minimum(candidates[0], near), tight.clamp(max=1e300)]
        # Beyond `near` h* is the largest of several lines in θ, and the best θ need not be any
        # of those above: there it is looked for line by line.
        candidates += _kinks(problem, slope, square, inside, far)
    if box is not None:
        candidates += [theta.minimum(tight) for theta in candidates]
    # The multiplier Y was found for the residual itself, θ = 1, not for a multiple of it.
    if Y is not None:
        candidates.append(far.clamp(max=1.0))
    value = torch.full_like(slope, -torch.inf)
    for theta in [torch.zeros_like(slope), *candidates]:
        theta = torch.where(unbounded, 0.0, theta)
        h = torch.zeros_like(slope)
        if problem.ball:
            excess = ((theta[:, None] * signed - multiplier).abs()
                      - problem.penalty[:, :problem.ball]).clamp(min=0)
            # A row whose ball is a point pays nothing, even where the excess overflows.
            h = torch.where(problem.radius > 0, problem.radius * excess.amax(dim=1), 0)
        if box is not None:
            over = (theta[:, None] * s.abs() - problem.penalty).clamp(min=0)
            cost = torch.where(over > 0, box * over, 0)
            # Up to `far` a column without a bound costs nothing, whatever rounding says of it.
            cost[:, problem.ball:].nan_to_num_(posinf=0.0)
            h = h.minimum(cost[:, :problem.ball].sum(dim=1)) + cost[:, problem.ball:].sum(dim=1)
        bound = theta * slope - 0.5 * theta**2 * square - h
        value = torch.maximum(value, torch.nan_to_num(bound, nan=-torch.inf, neginf=-torch.inf))
    return value


def reach(Q: Tensor) -> Tensor:
    """2 √(Q⁻¹)_jj, (d,); infinite where rounding hides it.

    W = 0 is feasible: at the optimum ‖Φw − t‖ ≤ ‖t‖, ‖Φw‖ ≤ 2‖t‖ and |w_j| ≤ 2‖t‖ √(Q⁻¹)_jj.

    Parameters
    ----------
    Q : Tensor, shape (d, d)
        ΦᵀΦ.
    """
    found = torch.full_like(Q[0], torch.inf)
    used = torch.nonzero(Q.diagonal() > 0)[:, 0]
    length = Q.diagonal()[used].sqrt()
    unit = Q[used][:, used] / (length[:, None] * length)
    # What rounding may have added to the eigenvalues is taken off first.
    unit.diagonal().sub_(DOUBT * len(unit) * torch.finfo(Q.dtype).eps)
    root, info = torch.linalg.cholesky_ex(unit)
    if int(info) == 0:
        found[used] = 2 * torch.cholesky_inverse(root).diagonal().sqrt() / length
    return found


def pseudo_inverse(M: Tensor) -> Tensor:
    """Of a positive semi-definite M, whatever the units of its columns.

    Parameters
    ----------
    M : Tensor, shape (d, d)
        Symmetric.

    Returns
    -------
    Tensor, shape (d, d)
        Eigenvalues of M with a unit diagonal that are rounding are left out.
    """
    if not M.numel():
        return M
    unit = M.diagonal().clamp(min=0).sqrt()
    unit = torch.where(unit > 0, 1 / torch.where(unit > 0, unit, 1), 0)
    values, vectors = torch.linalg.eigh(unit[:, None] * M * unit)
    keep = values > len(M) * torch.finfo(M.dtype).eps * values.amax(dim=0, keepdim=True)
    inverse = torch.where(keep, 1 / torch.where(keep, values, 1), 0)
    return unit[:, None] * ((vectors * inverse) @ vectors.mT) * unit


def _box(problem: Problem) -> Tensor | None:
    """How large |w_j| can be at the optimum, (k, d), where λ_j is small; else infinite, or None."""
    size = (problem.Q.diagonal().clamp(min=0) * problem.norms[:, None]).sqrt()
    small = problem.penalty <= SMALL * size
    if not small.any() or not (problem.reach < torch.inf).any():
        return None
    return torch.where(small, problem.norms.sqrt()[:, None] * problem.reach, torch.inf)


def _kinks(problem: Problem, slope: Tensor, square: Tensor, inside: Tensor, far: Tensor
           ) -> list[Tensor]:
    """The best θ for the line of h* that is on top at θ = 1, then for the one on top there, …"""
    # Every θ gives a true bound: to stop after three costs tightness, never truth.
    found, theta = [], torch.ones_like(slope).minimum(far)
    for _ in range(3):
        top = (theta[:, None] * inside - problem.penalty[:, :problem.ball]).argmax(1, keepdim=True)
        steep = problem.radius * inside.gather(1, top)[:, 0]
        theta = _clamped_ratio(slope - steep, square, far)
        found.append(theta)
    return found


def _ratio(weights: Tensor, s: Tensor) -> Tensor:
    """The largest θ with θ|s_j| ≤ λ_j for all j, (k,); infinite where nothing bounds it."""
    if s.shape[1] == 0:
        return torch.full_like(s[:, :1].sum(dim=1), torch.inf)
    size = s.abs()
    bound = torch.where(size > 0, weights / torch.where(size > 0, size, 1), torch.inf)
    return bound.amin(dim=1)


def _clamped_ratio(a: Tensor, b: Tensor, top: Tensor) -> Tensor:
    """argmax over 0 ≤ θ ≤ top of θa − ½θ²b; b = 0 only where a = 0."""
    best = torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
    return torch.minimum(best.clamp(min=0), top)
