"""The exact finish: which entries are zero is guessed, solved for, and corrected.

On a face (support S, signs σ) a row is a linear system and one multiplier θ ≥ 0 for the ball.
Every move lowers the objective, all rows move at once, and only the support is ever factored.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from idl_lab.sim.duality import ROUNDINGS
from idl_lab.sim.problem import Problem

PATIENCE = 100  # steps without progress after which a row is given up
FINEST, BRIEF = 0.01, 5  # of tol: sought by rows below tol for as long as the next few steps help
PROGRESS = 0.99  # a gap below this part of the row's best one is progress
CIRCLE = 25  # steps without progress after which a row starts afresh from where it is
ENTERING = 0.3  # columns that pull at least this much of the strongest pull enter together
HALVINGS = 8  # points that are tried along a direction
WIDTH = 32  # supports are filled up to a multiple of this, so that many are factored at once
BLOCK = 2**20  # numbers in the factored parts of Q that are held at a time
# Added to the diagonal of the factored part of Q, which is one, so that a singular part has a
# Cholesky factor; where it has none all the same, it grows.
DAMPING = 1e-11
DAMPING_GROWTH = 100


class ActiveSet:
    """Rows on their faces, in columns of unit length.

    Parameters
    ----------
    problem : Problem
    W : Tensor, shape (k, d)
        Where to start; its non-zeros are the first support.
    """

    def __init__(self, problem: Problem, W: Tensor) -> None:
        diagonal = problem.Q.diagonal()
        used = diagonal > 0
        self.unit = torch.where(used, 1 / torch.where(used, diagonal, 1).sqrt(), 0)
        self.Q = self.unit[:, None] * problem.Q * self.unit
        self.cross = problem.cross * self.unit
        self.weights = problem.penalty * self.unit
        held = torch.arange(len(diagonal), device=W.device) < problem.ball
        self.pull = self.unit * held  # what a unit of each column takes up of the ball's radius
        self.kappa = problem.radius
        self.free = used & ~held & (problem.penalty == 0).all(dim=0)
        self.used = used & ~(held & (self.kappa[:, None] == 0))
        self.used = self.used if problem.support is None else self.used & problem.support
        self.problem = problem
        V = torch.where(self.used, problem.project(W) / torch.where(used, self.unit, 1), 0)
        self.V, self.sign = V, torch.zeros_like(V)
        self.theta = torch.zeros_like(problem.norms)
        self.damping = torch.zeros_like(problem.norms)
        self.careful = torch.zeros_like(problem.norms, dtype=torch.bool)
        self.restart(torch.arange(len(V), device=V.device))

    def restart(self, rows: Tensor) -> None:
        """Forget what led these rows to where they are: faces, multipliers, damping.

        Parameters
        ----------
        rows : Tensor of int, shape (r,)
            Their numbers.
        """
        # A sign says on which side of its kink |w| an entry is held; free entries have none.
        self.sign[rows] = torch.where(self.free, 0, self.V[rows].sign())
        self.theta[rows], self.damping[rows], self.careful[rows] = 0.0, DAMPING, False

    @property
    def W(self) -> Tensor:
        """The point, in the problem's own units."""
        return self.V * self.unit

    def _change(self, rows: Tensor, V: Tensor, X: Tensor, residual: Tensor) -> Tensor:
        """Objective at X less that at V, from c − QV and the move alone.

        Where the fit is almost exact the two objectives agree in most of their digits, and their
        difference would be rounding.
        """
        move = X - V
        return ((0.5 * move @ self.Q - residual) * move).sum(dim=1) + (
            (X.abs() - V.abs()) * self.weights[rows]).sum(dim=1)

    def step(self, rows: Tensor) -> None:
        """Solve on the face, move as far as it pays, drop what reached zero, add what pulls.

        Parameters
        ----------
        rows : Tensor of int, shape (r,)
            The rows to move.
        """
        V, cross = self.V[rows], self.cross[rows]
        residual = cross - V @ self.Q
        sign = self.sign[rows]
        inside = (sign != 0) | self.free
        pull = self.pull * sign
        # The step is P − more · R, with P for slope and R for the ball's pull. On a nearly singular
        # face both are huge and almost parallel, and their difference is rounding; with θ counted
        # from the step before, P is what is left to do and `more` a small correction.
        start = self.theta[rows]
        slope = residual - self.weights[rows] * sign - start[:, None] * pull
        P, R, failed = self._directions(rows, inside, slope, pull)
        # What θ changes by, in closed form: the full step ends on the ball, or θ at zero.
        room = self.kappa[rows] - (pull * V).sum(dim=1)
        bend = (pull * R).sum(dim=1)
        more = (pull * P).sum(dim=1) - room
        more = torch.where(bend > 0, more / torch.where(bend > 0, bend, 1), 0)
        more = torch.maximum(more, -start)
        theta = start + more
        D = P - more[:, None] * R
        V_new, full = self._search(rows, V, D, sign, residual)
        worse = ((V_new == V).all(dim=1) & ~full) | failed
        V_new = torch.where(worse[:, None], V, V_new)
        # An entry that would leave on the other side at once, or that the move brought to zero, is
        # taken out: kept, it would block every later step at length zero.
        leaves = (V_new == 0) & (sign != 0) & ((D * sign < 0) | (V != 0))
        sign = torch.where(leaves, 0, sign)
        moved = leaves.any(dim=1)
        # A zero entry pulls where its gradient exceeds λ and the ball's multiplier: optimality
        # fails there, and it may enter. Entering before a step has gone its full length, or while
        # others leave, would judge by a θ that does not belong to the point.
        s = cross - V_new @ self.Q
        excess = s.abs() - self.weights[rows] - theta[:, None] * self.pull
        excess = torch.where((sign == 0) & ~self.free & self.used[rows], excess, 0)
        excess = torch.where(leaves, 0, excess)
        top = excess.amax(dim=1, keepdim=True)
        # After a step that did not pay, one at a time: of several that enter together some may
        # only hinder each other.
        share = torch.where(self.careful[rows], 1.0, ENTERING)[:, None]
        enters = (excess >= share * top) & (excess > 0) & (full | worse)[:, None]
        enters &= ~moved[:, None]
        self.careful[rows] = worse & ~moved
        sign = torch.where(enters, s.sign(), sign)
        self.V[rows], self.sign[rows], self.theta[rows] = V_new, sign, theta

    def _directions(self, rows: Tensor, inside: Tensor, slope: Tensor, pull: Tensor
                    ) -> tuple[Tensor, Tensor, Tensor]:
        """(Q_SS + εI)⁻¹ of slope and pull on each row's support S, and which rows failed."""
        right = torch.stack([slope, pull], dim=2)
        out = torch.zeros_like(right)
        failed = torch.zeros_like(rows, dtype=torch.bool)
        # Rows are factored together with those of like width, not of the widest of all: a row's
        # own arithmetic is then the same wherever the rows beside it are, and processes that
        # share the rows out take the same steps as one that has them all.
        widths = WIDTH * (inside.sum(dim=1) // WIDTH + 1)
        for width in widths.unique().tolist():
            alike = torch.nonzero(widths == width)[:, 0]
            for part in alike.split(max(BLOCK // width**2, 1)):
                out[part], failed[part] = self._solved(
                    self.damping[rows[part]], inside[part], min(width, len(self.Q)), right[part])
        self.damping[rows] *= torch.where(failed, DAMPING_GROWTH, 1)
        return out[:, :, 0], out[:, :, 1], failed

    def _solved(self, damping: Tensor, inside: Tensor, width: int, right: Tensor
                ) -> tuple[Tensor, Tensor]:
        """The same for rows whose supports hold at most `width` columns."""
        at = inside.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        real = inside.gather(1, at)
        M = self.Q[at[:, :, None], at[:, None, :]]
        if not real.all():
            M *= real[:, :, None] & real[:, None, :]
        M.diagonal(dim1=1, dim2=2).add_(torch.where(real, damping[:, None], 1.0))
        where = at[:, :, None].expand(-1, -1, 2)
        root, info = torch.linalg.cholesky_ex(M)
        failed = info > 0
        if failed.any():
            root[failed] = torch.eye(width, dtype=M.dtype, device=M.device)
        found = torch.cholesky_solve(right.gather(1, where) * real[:, :, None], root)
        return torch.zeros_like(right).scatter_(1, where, found * real[:, :, None]), failed

    def _search(self, rows: Tensor, V: Tensor, D: Tensor, sign: Tensor, residual: Tensor
                ) -> tuple[Tensor, Tensor]:
        """The best of a few points along V + αD, cut off where signs change; was it the end?"""
        toward = (D * sign < 0) & (V != 0)
        hit = torch.where(toward, -V / torch.where(toward, D, 1), torch.inf)
        first = hit.amin(dim=1).clamp(max=1.0)
        best_V, best = V, torch.zeros_like(first)
        full = torch.zeros_like(best, dtype=torch.bool)
        slack = ROUNDINGS * torch.finfo(V.dtype).eps * (
            (V.abs() * self.weights[rows] + (V * residual).abs()).sum(dim=1))
        held = self.pull > 0
        # First up to where the first sign changes; then the whole way, half of it, a quarter, …
        for k in range(HALVINGS):
            alpha = first if k == 0 else torch.full_like(first, 0.5 ** (k - 1)).maximum(first)
            X = V + alpha[:, None] * D
            X = torch.where((X * sign > 0) | self.free, X, 0)
            X = torch.where(hit <= alpha[:, None], 0, X)
            size = X.abs() @ self.pull
            over = size > self.kappa[rows]
            if held.any():
                X = torch.where(over[:, None] & held,
                                X * (self.kappa[rows] / torch.where(over, size, 1))[:, None], X)
            value = self._change(rows, V, X, residual)
            # The first of the points may also be worse by rounding. Near the optimum of a face
            # every step looks so, and the search would never end; and an entry as small as rounding
            # must be allowed to reach zero, or every step would stop at it.
            whole = (alpha >= 1) & (first >= 1)
            better = value <= best + slack if k == 0 else value < best
            best_V = torch.where(better[:, None], X, best_V)
            best = torch.where(better, value, best)
            full = torch.where(better, whole, full)
        return best_V, full


def finish(problem: Problem, W: Tensor, tol: float, patience: int = PATIENCE
           ) -> Generator[Tensor, None, tuple[Tensor, Tensor]]:
    """Iterates of the active-set method; rows that reached tol are left alone.

    Parameters
    ----------
    problem : Problem
        In float64.
    W : Tensor, shape (k, d)
        The start.
    tol : float
        Relative gap of a row that is enough; it goes on to a hundredth of it while that is quick.
    patience : int
        Steps without progress after which a row is given up.

    Returns
    -------
    Tensor, shape (k, d), and Tensor of int
        The last W, and the rows that were given up: what ``yield from`` evaluates to.
    """
    active = ActiveSet(problem, W)
    open_ = torch.arange(len(W), device=W.device)
    best, age = torch.full_like(problem.norms, torch.inf), torch.zeros_like(open_)
    given_up = open_[:0]
    while len(open_):
        active.step(open_)
        yield active.W
        part = problem.rows(open_)
        W = part.project(active.W[open_])
        gap = part.gap(W)
        # Steps that only change the support leave the gap as it is. Many in a row are a sign that
        # the row turns in a circle of faces that rounding cannot tell apart: another start helps.
        age[open_] = torch.where(gap < PROGRESS * best[open_], 0, age[open_] + 1)
        best[open_] = torch.minimum(gap, best[open_])
        active.restart(open_[age[open_] % CIRCLE == CIRCLE - 1])
        size = torch.maximum(part.objective(W), part.scale)
        done = (gap <= FINEST * tol * size) | ((gap <= tol * size) & (age[open_] >= BRIEF))
        late = ~done & (age[open_] >= patience)
        given_up = torch.cat([given_up, open_[late]])
        open_ = open_[~done & ~late]
    return active.W, given_up
