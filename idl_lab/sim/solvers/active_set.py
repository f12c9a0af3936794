"""The exact finish: which entries are zero is guessed, solved for, and corrected.

On a face (support S, signs σ) a row is a linear system and one multiplier θ ≥ 0 for the ball.
Every move lowers the objective, all rows move at once, and only the support is ever factored.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from idl_lab.sim.problem import Problem

PATIENCE = 100
BLOCK = 2**20  # numbers in the factored parts of Q that are held at a time
DAMPING = 1e-11  # of the factored part of Q, whose diagonal is one


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
        self.weights = problem.weights * self.unit
        held = torch.arange(len(diagonal), device=W.device) < problem.ball
        self.pull = self.unit * held  # what a unit of each column takes up of the ball
        self.kappa = problem.kappa or 0.0
        self.free = used & ~held & (problem.weights == 0)
        self.used = used & ~(held & (self.kappa == 0))
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
        """
        self.sign[rows] = torch.where(self.free, 0, self.V[rows].sign())  # free ones have no kink
        self.theta[rows], self.damping[rows], self.careful[rows] = 0.0, DAMPING, False

    @property
    def W(self) -> Tensor:
        """The point, in the problem's own units."""
        return self.V * self.unit

    def _change(self, V: Tensor, X: Tensor, residual: Tensor) -> Tensor:
        """Objective at X less that at V, with c − QV at hand: two objectives are alike in most
        of their digits where the fit is almost exact."""
        move = X - V
        return ((0.5 * move @ self.Q - residual) * move).sum(dim=1) + (
            X.abs() - V.abs()) @ self.weights

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
        # Measured from the θ of the step before: near a singular face P and R are huge and
        # nearly parallel, and only a small correction keeps its digits.
        start = self.theta[rows]
        slope = residual - self.weights * sign - start[:, None] * pull
        P, R, failed = self._directions(rows, inside, slope, pull)
        # What θ changes by, in closed form: what brings the full step to the ball, or θ to zero.
        room = self.kappa - (pull * V).sum(dim=1)
        bend = (pull * R).sum(dim=1)
        more = (pull * P).sum(dim=1) - room
        more = torch.where(bend > 0, more / torch.where(bend > 0, bend, 1), 0)
        more = torch.maximum(more, -start)
        theta = start + more
        D = P - more[:, None] * R
        V_new, full = self._search(V, D, sign, residual)
        worse = ((V_new == V).all(dim=1) & ~full) | failed
        V_new = torch.where(worse[:, None], V, V_new)
        # Entries that were put in and would leave at once, or that the move brought to zero.
        leaves = (V_new == 0) & (sign != 0) & ((D * sign < 0) | (V != 0))
        sign = torch.where(leaves, 0, sign)
        moved = leaves.any(dim=1)
        # What pulls, against the multiplier of this face.
        s = cross - V_new @ self.Q
        excess = s.abs() - self.weights - theta[:, None] * self.pull
        excess = torch.where((sign == 0) & ~self.free & self.used, excess, 0)
        excess = torch.where(leaves, 0, excess)
        top = excess.amax(dim=1, keepdim=True)
        share = torch.where(self.careful[rows], 1.0, 0.3)[:, None]
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
        # A row's width does not depend on the rows beside it, nor then does its rounding: where
        # rows are shared out among processes, each gets the same answer.
        widths = 32 * (inside.sum(dim=1) // 32 + 1)
        for width in widths.unique().tolist():
            alike = torch.nonzero(widths == width)[:, 0]
            for part in alike.split(max(BLOCK // width**2, 1)):
                out[part], failed[part] = self._solved(
                    self.damping[rows[part]], inside[part], min(width, len(self.Q)), right[part])
        self.damping[rows] = torch.where(failed, self.damping[rows] * 100, self.damping[rows])
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

    def _search(self, V: Tensor, D: Tensor, sign: Tensor, residual: Tensor
                ) -> tuple[Tensor, Tensor]:
        """The best of a few points along V + αD, cut off where signs change; was it the end?"""
        toward = (D * sign < 0) & (V != 0)
        hit = torch.where(toward, -V / torch.where(toward, D, 1), torch.inf)
        first = hit.amin(dim=1).clamp(max=1.0)
        best_V, best = V, torch.zeros_like(first)
        full = torch.zeros_like(best, dtype=torch.bool)
        slack = 16 * torch.finfo(V.dtype).eps * (V.abs() @ self.weights
                                                 + (V * residual).abs().sum(dim=1))
        held = self.pull > 0
        for k in range(8):
            alpha = first if k == 0 else torch.full_like(first, 0.5 ** (k - 1)).maximum(first)
            X = V + alpha[:, None] * D
            X = torch.where((X * sign > 0) | self.free, X, 0)
            X = torch.where(hit <= alpha[:, None], 0, X)
            size = X.abs() @ self.pull
            over = size > self.kappa
            if held.any():
                X = torch.where(over[:, None] & held,
                                X * (self.kappa / torch.where(over, size, 1))[:, None], X)
            value = self._change(V, X, residual)
            # At the end of a face the change has no digits left that the gradient still has; and
            # an entry that is rounding stands in the way of all others until it is zero.
            whole = (alpha >= 1) & (first >= 1)
            better = value <= best + slack if k == 0 else value < best
            best_V = torch.where(better[:, None], X, best_V)
            best = torch.where(better, value, best)
            full = torch.where(better, whole, full)
        return best_V, full


def finish(problem: Problem, W: Tensor, tol: float) -> Iterator[Tensor]:
    """Iterates of the active-set method; rows that reached tol are left alone.

    Parameters
    ----------
    problem : Problem
    W : Tensor, shape (k, d)
        The start.
    tol : float
        Relative gap of a row below which it is done.
    """
    state = ActiveSet(problem, W)
    open_ = torch.arange(len(W), device=W.device)
    best, age = torch.full_like(problem.norms, torch.inf), torch.zeros_like(open_)
    while len(open_):
        state.step(open_)
        yield state.W
        part = problem.rows(open_)
        W = part.project(state.W[open_])
        gap = part.gap(W)
        # Steps that change the support may leave the gap as it is for a while, not for long.
        age[open_] = torch.where(gap < 0.99 * best[open_], 0, age[open_] + 1)
        best[open_] = torch.minimum(gap, best[open_])
        # A row may turn in a circle of faces that rounding cannot tell apart.
        state.restart(open_[age[open_] % 25 == 24])
        done = gap <= tol * torch.maximum(part.objective(W), part.scale)
        open_ = open_[~done & (age[open_] < PATIENCE)]
