"""ADMM on all rows at once, with an exact finish; where columns depend on each other, the path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers.active_set import finish
from idl_lab.sim.solvers.base import BaseSolver
from idl_lab.sim.solvers.path import follow

PATIENCE = 20  # steps of the finish without progress after which a row follows its path instead
# By how much the weights that fall are spread on a row's first path, and on the next where that one
# led nowhere. Tied kinks hold up a path whose weights fall alike; copies of a column, of which the
# ball holds one, a path whose weights do not.
SPREADS = (0.01, 0.0)
# Eigenvalues of Q below this part of its largest are rounding. A rank below the number of columns
# leaves a support that ADMM finds too large to be one of an optimum, and the path finds it as soon;
# above THIN a row's inverse no longer fits a processor's cache, and kinks cost more than they gain.
RANK, THIN = 1e-13, 512
SMALL = 2**16  # entries of W
# ρ is balanced now and then, and not for ever: with a ρ that keeps changing ADMM need not converge.
BALANCE_EVERY, BALANCE_UNTIL = 5, 100
MOST = 5.0  # ρ grows or shrinks by no more at a time: one step's residuals say little
LEAST = 1.5  # and is left alone for less
NO_RESIDUAL = 1e-12  # a relative residual of rounding alone


@dataclass(frozen=True, kw_only=True)
class ADMMSolver(BaseSolver):
    """Alternating direction method of multipliers; then the active set that it has found.

    With h the ℓ₁ weight and the ball, every row repeats, over-relaxed by α,

        w ← (Q + ρI)⁻¹(c + ρ(z − u)),  z ← prox_{h/ρ}(αw + (1 − α)z + u),
        u ← u + αw + (1 − α)z₋ − z

    One eigendecomposition of Q serves all rows, steps and ρ; each row balances its ρ by its own
    residuals. ADMM finds the zeros soon and the last digits late, so `splitting_steps` of it
    start a primal active-set method, whose answers are exact.

    Where columns are nearly functions of each other ADMM finds supports that are singular, and
    the active set loses itself in them. Rows in which it makes no progress follow their exact path
    instead, from weights at which they are zero to their own; so do all rows, without ADMM, where Q
    has a rank below its size and below 512. The active set then has the last word again.

    Parameters
    ----------
    tol, max_steps, check_every, seconds, device, progress
        As for `BaseSolver`.
    relaxation : float
        α, in (0, 2).
    splitting_steps : int
        Steps of ADMM before the finish.

    Raises
    ------
    TypeError, ValueError
        As `BaseSolver`; for a relaxation outside (0, 2) and a negative number of steps.

    References
    ----------
    Boyd, Parikh, Chu, Peleato, Eckstein, Found. Trends Mach. Learn. 3(1), 2011, sections 3.4, 6.4.
    Efron, Hastie, Johnstone, Tibshirani, Least Angle Regression, Ann. Stat. 32(2), 2004.
    """

    relaxation: float = 1.6
    splitting_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.real("relaxation", self.relaxation, above=0.0, below=2.0)
        validation.integer("splitting_steps", self.splitting_steps, at_least=0)

    def iterates(self, problem: Problem, start: Tensor | None = None) -> Iterator[Tensor]:
        """The feasible half z of each ADMM step, points of the finish, points on the path.

        Parameters
        ----------
        problem : Problem
            In float64, on the solver's device.
        start : Tensor, shape (k, d), optional
            A first guess of the answer.
        """
        W = problem.zeros() if start is None else problem.project(start)
        rows = torch.arange(len(W), device=W.device)
        if not _thin(problem):
            splitting = self._splitting(problem, W)
            for _, W in zip(range(self.splitting_steps), splitting, strict=False):
                yield W
            W, rows = yield from finish(problem, W, self.tol, PATIENCE)
        for spread in SPREADS:
            if len(rows):
                part = problem.rows(rows)
                # A GPU waits at every kink, which costs more than a small one takes.
                part = part.to("cpu") if part.cross.numel() < SMALL else part
                for V in follow(part, spread):
                    yield (W := W.index_copy(0, rows, V.to(W)))
                W, rows = yield from finish(problem, W, self.tol)

    def _splitting(self, problem: Problem, Z: Tensor) -> Iterator[Tensor]:
        values, vectors = problem.spectrum
        rho = values.mean().clamp(min=torch.finfo(values.dtype).tiny).expand(problem.shape[0], 1)
        u = -problem.gradient(Z) / rho if Z.any() else Z  # what u is where Z is the answer
        c = problem.cross @ vectors
        step = 0
        while True:
            W = ((c + rho * ((Z - u) @ vectors)) / (values + rho)) @ vectors.mT
            before = Z
            relaxed = self.relaxation * W + (1 - self.relaxation) * before
            Z = problem.prox(relaxed + u, 1 / rho)
            u = u + relaxed - Z
            step += 1
            if step % BALANCE_EVERY == 0 and step <= BALANCE_UNTIL:
                rho, u = _balance(rho, u, W - Z, Z - before, W, Z)
            yield Z


def _thin(problem: Problem) -> bool:
    """Whether the columns depend on each other, with a small rank."""
    values, used = problem.spectrum[0], problem.Q.diagonal() > 0
    return int((values > RANK * values.amax()).sum()) < min(int(used.sum()), THIN)


def _balance(rho: Tensor, u: Tensor, primal: Tensor, moved: Tensor, W: Tensor, Z: Tensor
             ) -> tuple[Tensor, Tensor]:
    """ρ of each row towards equal relative residuals; u is scaled by ρ and follows it."""
    def norm(M: Tensor) -> Tensor:
        return torch.linalg.vector_norm(M, dim=1, keepdim=True)

    tiny = torch.finfo(rho.dtype).tiny
    r = norm(primal) / torch.maximum(norm(W), norm(Z)).clamp(min=tiny)
    s = norm(moved) / norm(u).clamp(min=tiny)
    factor = imbalance(r, s)
    return rho * factor, u / factor


def imbalance(primal: Tensor, dual: Tensor) -> Tensor:
    """What ρ is to be multiplied by for equal relative residuals; 1 where they nearly are.

    Parameters
    ----------
    primal, dual : Tensor
        Relative residuals of the two halves of ADMM.
    """
    ratio = primal.clamp(min=NO_RESIDUAL) / dual.clamp(min=NO_RESIDUAL)
    factor = ratio.sqrt().clamp(1 / MOST, MOST)
    return torch.where((factor > LEAST) | (factor < 1 / LEAST), factor, 1)
