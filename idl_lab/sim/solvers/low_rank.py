"""A = L Rᵀ: the convex problem on one tangent space of the matrices of rank r after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.constraints import radius
from idl_lab.operators import LowRank
from idl_lab.sim.duality import pseudo_inverse
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers.active_set import finish
from idl_lab.sim.solvers.admm import ADMMSolver, imbalance
from idl_lab.sim.solvers.base import BaseSolver
from idl_lab.sim.solvers.result import Iterate

WITHOUT_RANK = 0.1  # of tol: to this gap the problem without the rank is solved
LOOK_EVERY = 10  # of its steps: from one test of the gap to the next
# ρ is balanced now and then, and not for ever: with a ρ that keeps changing ADMM need not converge.
BALANCE_EVERY, BALANCE_UNTIL = 10, 300
# Steps of the active-set method on B, after each tangent space and at the start, and the relative
# gap at which a row needs no more of them.
STEPS_OF_B, FIRST_STEPS_OF_B, GAP_OF_B = 8, 30, 1e-7
SHARES = (1.0, 0.5, 0.1, 0.02)  # of the way to the new point, tried until the objective falls
SHRINKS = 50  # tries to get the rows of a rounded product into the ball, each with twice the room


@dataclass(frozen=True, kw_only=True)
class ProjectedGDLowRankSolver(BaseSolver):
    """The problem with a further constraint, rank(A) ≤ r: W = [L Rᵀ B], both bounds exact.

    The matrices of rank r have at A = L Rᵀ the tangent space T = {L Mᵀ + N Rᵀ}, a linear space
    that holds A itself. On T the problem is convex. `splitting_steps` of ADMM lower it there,
    each with an exact step projected onto T; the result is cut back to rank r, its rows scaled
    into the ball, and if the objective fell that is the next A. The first A is the optimum of
    the problem without the rank, cut in the metric in which the fit sees A once B has adapted
    to it (reduced-rank regression).

    It stops at a stationary point. `SolveStats.stationarity` is how far the objective F is above a
    lower bound, by duality, of min F over A ∈ T and all B, as a part of itself; it is zero at
    the points that no small feasible move betters to first order, and only there. At tol the
    status is STATIONARY. `SolveStats.relative_gap` is against the optimum without the rank: below
    tol the rank costs nothing, and the status is SOLVED.

    Parameters
    ----------
    rank : int
        r. From min(n, n) on it binds nothing, and so it is where a problem has no ball (output
        matching): then this is `ADMMSolver`.
    max_steps, check_every, seconds, device, progress
        As for `BaseSolver`; an iterate is a visit of one tangent space.
    tol : float
        Relative duality gap, or stationarity, at which to stop.
    splitting_steps : int
        Steps of ADMM on each tangent space.
    relaxation : float
        Over-relaxation of ADMM, in (0, 2).

    Raises
    ------
    TypeError, ValueError
        As `BaseSolver`; for a rank or a number of steps below one, and a relaxation outside (0, 2).

    Notes
    -----
    There are many stationary points. Of the other starts tried on the digits (least squares cut
    in the same metric, plain truncation, ranks lowered step by step) one came out lower once, by
    1 %; most ended higher, by up to 3 % where they came to rest.

    `SolveResult.factors` are L and R; W holds their product formed in float64. In float32 A has
    the rank up to rounding.

    References
    ----------
    Izenman 1975, Reduced-rank regression for the multivariate linear model, J. Multivariate
    Anal. 5(2), for the start.
    """

    rank: int = 10
    splitting_steps: int = 25
    relaxation: float = 1.6
    tol: float = 1e-3
    max_steps: int = 500
    check_every: int = 1
    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.integer("rank", self.rank)
        validation.integer("splitting_steps", self.splitting_steps)
        validation.real("relaxation", self.relaxation, above=0.0, below=2.0)

    def iterates(self, problem: Problem) -> Iterator[Iterate]:
        """W = 0 while the problem without the rank is solved, then the points of rank r.

        Parameters
        ----------
        problem : Problem
            In float64, on the solver's device.

        Raises
        ------
        ValueError
            Where the support leaves other zeros in A than whole rows and columns.
        """
        free = problem.ball == 0 or self.rank >= min(len(problem.cross), problem.ball)
        if not free and problem.support is not None:
            inside = problem.support[:, :problem.ball]
            if (inside != inside.any(dim=1, keepdim=True) & inside.any(dim=0)).any():
                raise ValueError(f"{self.name} bounds the rank of all of A, and a product has no "
                                 f"zeros at the places that feedback=False, or a support, leaves "
                                 f"out: give another solver.")
        zero = problem.zeros()
        nothing = LowRank(zero[:, :self.rank], zero.new_zeros(problem.ball, self.rank))
        for W in self._without_rank(problem):
            yield _full(problem, W) if free else Iterate(zero, W, nothing)
        if not free:
            yield from self._of_rank(problem, W)

    def _without_rank(self, problem: Problem) -> Iterator[Tensor]:
        """Steps of ADMM and its finish, until the gap is small."""
        W = problem.zeros()
        solver = ADMMSolver(tol=WITHOUT_RANK * self.tol, device=self.device)
        for step, W in enumerate(solver.iterates(problem), start=1):
            if step % LOOK_EVERY == 0:
                yield W
                V = problem.project(W)
                size = torch.maximum(problem.objective(V), problem.scale).sum()
                if problem.gap(V).sum() <= WITHOUT_RANK * self.tol * size:
                    return
        yield W

    def _of_rank(self, problem: Problem, convex: Tensor) -> Iterator[Iterate]:
        unit = _units(problem)
        even = Problem(problem.Q * unit * unit[:, None], problem.cross * unit, problem.norms)
        point = _start(problem, convex, self.rank, unit)
        Z, metric = point.W, unit**-2
        rho = metric.new_ones(())  # the length of the features, squared
        u = -problem.gradient(convex) / (rho * metric)
        lower, steps = -math.inf, 0
        tangent = _Tangent(point, convex, even)
        while True:
            # The lower bound on T needs a multiplier of T: of the gradient at the point, with the
            # multiplier ρu of the ℓ₁ terms taken off, the part that is normal to T.
            Y = tangent.normal(-problem.gradient(point.W) - rho * metric * u)
            lower = max(lower, float(problem.dual(point.W, Y).sum()))
            size = max(point.value, float(problem.scale.sum()))
            left = max(point.value - lower, 0.0) / size if size else 0.0
            yield Iterate(point.W, convex, point.factors, left)
            if left <= self.tol:
                return
            for _ in range(self.splitting_steps):
                X = tangent.solve(problem.cross + rho * metric * (Z - u), rho)
                before = Z
                relaxed = self.relaxation * X + (1 - self.relaxation) * before
                Z = _prox(problem, relaxed + u, rho * metric)
                u = u + relaxed - Z
                steps += 1
                if steps % BALANCE_EVERY == 0 and steps <= BALANCE_UNTIL:
                    primal, moved, size_Z, size_u = (
                        (M / unit).norm() for M in (X - Z, Z - before, Z, u))
                    tiny = torch.finfo(Z.dtype).tiny
                    factor = imbalance(primal / size_Z.clamp(min=tiny),
                                       moved / size_u.clamp(min=tiny))
                    rho, u = rho * factor, u / factor
            if (moved := point.toward(Z)) is not point:
                point, tangent, lower = moved, _Tangent(moved, convex, even), -math.inf
            point = point.with_better_B(STEPS_OF_B)


def _full(problem: Problem, W: Tensor) -> Iterate:
    """W with the factors A and I."""
    if not problem.ball:
        return Iterate(W)
    W = problem.project(W)
    eye = torch.eye(problem.ball, dtype=W.dtype, device=W.device)
    return Iterate(W, factors=LowRank(W[:, :problem.ball].contiguous(), eye))


def _units(problem: Problem) -> Tensor:
    """Units of W's columns in which all features are of length one, (d,).

    ADMM has one ρ for all columns: with features of a tenth of the length it takes a hundred
    times the steps. Those too short for the ball to let them matter count as longer.
    """
    length, kappa = problem.Q.diagonal().clamp(min=0), problem.radius.amax()
    length = torch.where(length > 0, length, length.mean())
    if kappa > 0:
        least = problem.norms.mean() / kappa**2
        length[:problem.ball] = length[:problem.ball].maximum(least)
    return torch.where(length > 0, length, 1).rsqrt()


def _prox(problem: Problem, W: Tensor, rho: Tensor) -> Tensor:
    """`Problem.prox` where each column has its own ρ, (d,): the ball's threshold is θ/ρ_j."""
    pull = W.abs() * rho - problem.penalty
    if b := problem.ball:
        # With the k columns that pull most inside, Σ (pull_j − θ)/ρ_j = κ; k is the largest for
        # which all of them pull more than this θ.
        top, order = pull[:, :b].sort(dim=1, descending=True)
        share = (1 / rho)[order]
        thetas = ((top * share).cumsum(1) - problem.radius[:, None]) / share.cumsum(1)
        last = (top > thetas).sum(dim=1, keepdim=True).clamp(min=1) - 1
        pull[:, :b] -= thetas.gather(1, last).clamp(min=0)
    return W.sign() * pull.clamp(min=0) / rho


def _start(problem: Problem, W: Tensor, rank: int, unit: Tensor) -> _Point:
    """W cut to rank r where that costs the fit least, if B may change with A."""
    Q, b = problem.Q, problem.ball
    metric = Q[:b, :b] - Q[:b, b:] @ pseudo_inverse(Q[b:, b:]) @ Q[b:, :b]
    A = W[:, :b]
    left = torch.linalg.eigh(A @ metric @ A.mT)[1][:, -rank:]
    W = torch.cat([left @ (left.mT @ A), W[:, b:]], 1)
    return _Point.cut(problem, unit, W, rank).with_better_B(FIRST_STEPS_OF_B)


@dataclass(frozen=True)
class _Point:
    """A feasible W of rank r by its factors; R has orthonormal columns in the units of W's."""

    problem: Problem
    unit: Tensor
    factors: LowRank
    W: Tensor

    @cached_property
    def value(self) -> float:
        return float(self.problem.objective(self.W).sum())

    @classmethod
    def cut(cls, problem: Problem, unit: Tensor, W: Tensor, rank: int) -> _Point:
        """The nearest of rank r to W in those units, its rows scaled into the ball."""
        b = problem.ball
        U, s, Vt = torch.linalg.svd(W[:, :b] / unit[:b], full_matrices=False)
        L, R = U[:, :rank] * s[:rank], (Vt[:rank] * unit[:b]).mT.contiguous()
        A = L @ R.mT
        eps = torch.finfo(W.dtype).eps
        room = radius(A, problem.radius[:, None])  # as Problem.project
        # Scaled rows of L give rows of L Rᵀ that round anew, and may be outside again: each try
        # leaves twice the room of the one before.
        for k in range(SHRINKS):
            size = A.abs().sum(dim=1, keepdim=True)
            over = size > room
            if not over.any():
                break
            target = room * max(1 - 2**k * eps, 0)
            L = L * torch.where(over, target / torch.where(over, size, 1), 1)
            A = L @ R.mT
        return cls(problem, unit, LowRank(L, R), torch.cat([A, W[:, b:]], dim=1))

    def toward(self, Z: Tensor) -> _Point:
        """The first better point on the way back from Z, cut to the rank; else this one."""
        rank = self.factors.L.shape[1]
        for share in SHARES:
            found = self.cut(self.problem, self.unit, self.W + share * (Z - self.W), rank)
            if found.value < self.value:
                return found
        return self

    def with_better_B(self, steps: int) -> _Point:
        """The same A, and B nearer to its optimum by some steps of the active-set method."""
        p, b = self.problem, self.problem.ball
        A, B = self.W[:, :b], self.W[:, b:]
        if not B.numel():
            return self
        # With A fixed B is a problem of its own: to explain what A leaves of the targets.
        part = Problem(
            p.gram[b:, b:], p.cross[:, b:] - A @ p.gram[:b, b:],
            (p.norms + ((A @ p.gram[:b, :b] - 2 * p.cross[:, :b]) * A).sum(dim=1)).clamp(min=0),
            lam=p.lam, ridge=p.ridge, weights=None if p.weights is None else p.weights[..., b:],
            support=None if p.support is None else p.support[:, b:])
        V = B
        for V in itertools.islice(finish(part, B, GAP_OF_B), steps):  # noqa: B007
            pass
        better = part.objective(V) < part.objective(B)
        found = replace(self, W=torch.cat([A, torch.where(better[:, None], V, B)], dim=1))
        return found if found.value < self.value else self


class _Tangent:
    """The tangent space T of the matrices of rank r at a point's A, times all B.

    With bases U and V of A's columns and rows, orthonormal in the units of `even`, T is
    {U Mᵀ + N Vᵀ}: of W, the rows UᵀW are free, and the others have an A inside V's span. Below
    rank r the bases are completed by the directions in which A is farthest from `goal`, the
    optimum without the rank; small moves are not confined to one T there, so that nothing is
    normal to them.
    """

    def __init__(self, point: _Point, goal: Tensor, even: Problem) -> None:
        self.unit, self.spectrum, b = point.unit, even.spectrum, point.problem.ball
        U, size, turn = torch.linalg.svd(point.factors.L, full_matrices=False)
        V = (point.factors.R / self.unit[:b, None]) @ turn.mT
        rank = int((size > len(V) * torch.finfo(V.dtype).eps * size[0]).sum())
        self.whole = rank < len(size)
        if self.whole:
            U, V, goal = U[:, :rank], V[:, :rank], goal[:, :b] / self.unit[:b]
            away = goal - U @ (U.mT @ goal)
            left, _, right = torch.linalg.svd(away - (away @ V) @ V.mT, full_matrices=False)
            more = len(size) - rank
            U = torch.linalg.qr(torch.cat([U, left[:, :more]], dim=1)).Q
            V = torch.linalg.qr(torch.cat([V, right[:more].mT], dim=1)).Q
        self.U, self.V = U, V
        Q, r = even.Q, len(size)
        cross = V.mT @ Q[:b, b:]
        Q = torch.cat([torch.cat([V.mT @ Q[:b, :b] @ V, cross], dim=1),
                       torch.cat([cross.mT, Q[b:, b:]], dim=1)])
        values, vectors = torch.linalg.eigh(Q)
        self.values = values.clamp(min=0)
        self.vectors = torch.cat([V @ vectors[:r], vectors[r:]])

    def solve(self, C: Tensor, rho: Tensor) -> Tensor:
        """argmin over T of ½⟨W, W(Q + ρ diag(unit)⁻²)⟩ − ⟨C, W⟩."""
        values, vectors = self.spectrum
        C = C * self.unit
        top = self.U.mT @ C
        X = (((C - self.U @ top) @ self.vectors) / (self.values + rho)) @ self.vectors.mT
        return (X + self.U @ (((top @ vectors) / (values + rho)) @ vectors.mT)) * self.unit

    def normal(self, G: Tensor) -> Tensor:
        """The part of the first columns of G (k, d) that is normal to every small move of A."""
        unit = self.unit[:len(self.V)]
        G = G[:, :len(unit)] * unit
        if self.whole:
            return torch.zeros_like(G)
        G = G - self.U @ (self.U.mT @ G)
        return (G - (G @ self.V) @ self.V.mT) / unit
