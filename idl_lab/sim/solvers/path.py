"""The exact path of all rows: from weights at which they are zero to their own, kink by kink.

As the weights fall the optimum moves on straight lines, and turns where an entry comes in or
reaches zero, or where the ball is met or left. Only non-zeros are ever factored, one at a time, so
that columns which are nearly functions of each other do no harm.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from idl_lab.sim.problem import Problem

SHOWN = 10  # kinks from one iterate to the next
WIDTH = 32  # slots for non-zeros grow by so many
REFRESH = 50  # kinks after which the inverses are computed afresh
STILL, CIRCLE = 0.999, 100  # a row whose t falls by less in so many kinks is in a circle: it ends
# Added to Q, whose diagonal is one, so that non-zeros which depend on each other have an inverse.
DAMPING = 1e-12
CORRECTIONS = 4  # of a row at its end
GOLDEN = 0.5 * (5**0.5 - 1)  # fractions of its multiples are spread as random numbers are
LOSES = 1e4  # updates of an inverse by more than this cost it digits: it is computed afresh
FLAT = 1e-14  # of λ's own rate: a residual that comes nearer to its bound slower than this does not
# Over zero it is infinite, where zero over zero is not a number; `abs` takes the sign off a zero.
TINY = 1e-300


class Path:
    """Rows between weights of ∞ and their own, in columns of unit length.

    Row by row, with S the non-zeros, σ their signs and θ the ball's multiplier, optimality at the
    weights α + tβ is

        Q_SS v_S + θ p_S = c_S − σ(α + tβ)_S,  σ-signed p_S · v_S = κ or θ = 0

    so that (v, θ) is linear in t. H is the inverse of the matrix on the left, in slots: θ takes
    one beside the non-zeros where the ball is met, as column number d. Every kink changes one
    slot, which changes H by a matrix of rank one.

    Parameters
    ----------
    problem : Problem
    spread : float
        As for `follow`.
    """

    def __init__(self, problem: Problem, spread: float = 0.0) -> None:
        k, d = problem.shape
        diagonal = problem.Q.diagonal()
        held = torch.arange(d, device=diagonal.device) < problem.ball
        used = (diagonal > 0) & ~(held & (problem.radius[:, None] == 0))
        used = used if problem.support is None else used & problem.support
        unit = torch.where(diagonal > 0, 1 / torch.where(diagonal > 0, diagonal, 1).sqrt(), 0)
        penalty = problem.penalty
        # t multiplies the row's own weights, or lengths of columns where there are none; a column
        # that nothing holds is not zero from the start.
        weighed = (penalty > 0).any()
        free = used & (penalty == 0) & ~held & weighed
        beta = torch.where(penalty > 0, penalty, torch.where(free, 0, torch.where(
            weighed, penalty.mean(), diagonal.clamp(min=0).sqrt())))
        # Any positive β leads to the same end.
        number = torch.arange(1, d + 1, device=unit.device, dtype=unit.dtype)
        beta = beta * (1 + spread * (number * GOLDEN).frac())

        def wide(M: Tensor) -> Tensor:  # with a column for θ
            return torch.cat([M, M.new_zeros(len(M), 1)], dim=1)

        Q = unit[:, None] * problem.Q * unit
        Q.diagonal().add_(DAMPING)
        self.Q = wide(wide(Q).mT).mT.contiguous()
        self.unit, self.border = unit, d
        self.cross, self.alpha = wide(problem.cross * unit), wide(penalty * unit)
        self.beta, self.pull = wide(beta * unit), wide((unit * held).expand(k, d))
        self.kappa, self.inside = problem.radius, wide(free)
        self.open = wide(used & ~free).to(Q.dtype)  # 1 where a column may enter
        self.rows = torch.arange(k, device=unit.device)
        self.W = problem.zeros()
        self.V, self.sign = torch.zeros_like(self.cross), torch.zeros_like(self.cross)
        self.t = torch.zeros_like(problem.norms)
        self._refresh()
        start = (self.open > 0) & (self.beta > 0)
        excess = -self.slack.amin(dim=0) / torch.where(start, self.beta, 1)
        self.t = torch.where(start, excess, 0).amax(dim=1)
        self.slack += self.t[:, None] * self.beta
        self.mark, self.since = self.t, torch.zeros_like(self.rows)

    def _refresh(self) -> None:
        """Slots and inverses of all rows afresh."""
        size = int(self.inside.sum(dim=1).amax()) if len(self.V) else 0
        shape = (len(self.V), WIDTH * (size // WIDTH + 2))
        self.at = torch.full(shape, self.border, device=self.V.device)
        self.real = torch.zeros(shape, dtype=torch.bool, device=self.V.device)
        self.H = self.V.new_zeros(*shape, shape[1])
        self.down, self.press, self.move = (self.V.new_zeros(shape) for _ in range(3))
        self.slack = self.V.new_zeros(2, *self.V.shape)  # bound less residual, bound plus residual
        self.worn, self.age = torch.zeros_like(self.t), 0
        self.dropped = torch.zeros_like(self.rows), torch.full_like(self.rows, self.border)
        self._invert(torch.arange(len(self.V), device=self.V.device))

    def _invert(self, rows: Tensor, last: bool = False) -> None:
        """H of some rows afresh, and what rounding has moved them off their line is put right.

        At a row's end what the damping has moved is put right too, in steps: H is damped itself.
        """
        inside, width = self.inside[rows], self.at.shape[1]
        at = inside.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        at = torch.nn.functional.pad(at, (0, width - at.shape[1]))
        real = torch.arange(width, device=at.device) < inside.sum(dim=1, keepdim=True)
        at = torch.where(real, at, self.border)  # an empty slot is a column of zeros
        sign = self.sign[rows].gather(1, at) * real
        down, press = self.beta[rows].gather(1, at) * sign, self.pull[rows].gather(1, at) * sign
        border = (at == self.border) & real
        met, hole = border.any(dim=1).to(sign.dtype), (at == self.border).to(sign.dtype)
        # Where the ball is met, Q_SS need not have an inverse, but Q_SS + ppᵀ has.
        K = self.Q[at[:, :, None], at[:, None, :]]
        K.baddbmm_((met[:, None] * press)[:, :, None], press[:, None, :])
        K.diagonal(dim1=1, dim2=2).add_(hole)
        root, info = torch.linalg.cholesky_ex(K)
        root[info > 0] = torch.eye(width, dtype=root.dtype, device=root.device)  # the gap will tell
        H = torch.cholesky_inverse(root)
        H.diagonal(dim1=1, dim2=2).sub_(hole)
        g = (press[:, None, :] @ H)[:, 0]
        bend = (press * g).sum(dim=1)
        # Nothing may be left inside a ball that was met: then there is nothing to bend.
        bend = torch.where((met > 0) & (bend != 0), bend, 1)
        g = g - border.to(g.dtype)
        H.baddbmm_(g[:, :, None], (-(met / bend)[:, None] * g)[:, None, :])
        H.diagonal(dim1=1, dim2=2).add_(border)
        V = self.V[rows]
        for _ in range(CORRECTIONS if last else 1):
            v = V.gather(1, at) * real
            left = self.cross[rows] - V @ self.Q - self.alpha[rows] * self.sign[rows]
            left = left + DAMPING * V if last else left
            left = (left.gather(1, at) - self.t[rows, None] * down - V[:, -1:] * press) * real
            left = torch.where(border, (self.kappa[rows] - (press * v).sum(dim=1))[:, None], left)
            fix = (left[:, None, :] @ H)[:, 0]
            # In columns that nearly depend on each other the correction itself is rounding. It may
            # not change a sign, which would lead onto another line.
            away = (fix * sign < 0) & real
            share = torch.where(away, (v * sign).clamp(min=0) / torch.where(away, -fix * sign, 1),
                                1).amin(dim=1, keepdim=True)
            V = V.scatter_add(1, at, share.clamp(max=1) * fix * real)
        residual = self.cross[rows] - V @ self.Q
        bound = self.alpha[rows] + self.t[rows, None] * self.beta[rows]
        bound = bound + V[:, -1:] * self.pull[rows]
        self.V[rows], self.slack[:, rows] = V, torch.stack([bound - residual, bound + residual])
        self.at[rows], self.real[rows], self.H[rows] = at, real, H
        self.down[rows], self.press[rows] = down, press
        self.move[rows] = (down[:, None, :] @ H)[:, 0]
        self.worn[rows] = 0.0

    def step(self) -> None:
        """Every row on to its next kink; a row that is at its own λ is put into W and left out."""
        r = torch.arange(len(self.V), device=self.V.device)
        v, sign = self.V.gather(1, self.at) * self.real, self.sign.gather(1, self.at) * self.real
        move = torch.zeros_like(self.V).scatter_add(1, self.at, self.move)
        pull = move @ self.Q
        falls = torch.addcmul(self.beta, move[:, -1:], self.pull, value=-1)
        # How far t can fall: until a column's residual meets its bound on either side, …
        rate = torch.stack([falls - pull, falls + pull])
        closing = (rate - FLAT * self.beta).mul_(self.open)
        # What has just reached zero is still at its bound, and moves away from it.
        closing[self.dropped[0], r, self.dropped[1]] = 0
        room, column = (self.slack.clamp(min=TINY) / closing.clamp_(min=0).abs_()).min(dim=2)
        enters, side = room.min(dim=0)
        # … until an entry, or the ball's multiplier, reaches zero, …
        speed = (-self.move * sign).clamp(min=0).abs()
        leaves, slot = ((v * sign).clamp(min=TINY) / speed).min(dim=1)
        # … until the ball is met, or to the row's own λ.
        grows = (self.press * self.move).sum(dim=1).clamp(min=0).abs()
        left = (self.kappa - (self.press * v).sum(dim=1)).clamp(min=TINY)
        fills = torch.where(self.inside[:, -1] | (self.kappa == 0), torch.inf, left / grows)
        far, which = torch.stack([self.t, enters, leaves, fills]).min(dim=0)
        self.V.addcmul_(far[:, None], move)
        self.slack.addcmul_(far[:, None], rate, value=-1)
        self.t = self.t - far
        done, out = which == 0, which == 2
        fell = self.t <= STILL * self.mark
        self.mark = torch.where(fell, self.t, self.mark)
        self.since = torch.where(fell, 0, self.since + 1)
        done |= self.since > CIRCLE
        out &= ~done
        column = torch.where(which == 3, self.border, column[side, r])
        self._change(r, done, out, slot, column, torch.where(which == 3, 1, 1 - 2 * side))
        self.age += 1
        if done.any():
            self._invert(torch.nonzero(done)[:, 0], last=True)
            self.W[self.rows[done]] = (self.V[:, :-1] * self.unit)[done]
            self._keep(~done)
        if len(self.V) and (self.age >= REFRESH or self.real.all(dim=1).any()):
            self._refresh()
        elif (self.worn > LOSES).any():
            self._invert(torch.nonzero(self.worn > LOSES)[:, 0])

    def _change(self, r: Tensor, done: Tensor, out: Tensor, slot: Tensor, column: Tensor,
                side: Tensor) -> None:
        """Take a slot out where `out` says so, fill an empty one elsewhere; not where done."""
        into = ~done & ~out
        slot = torch.where(into, (~self.real).to(torch.int8).argmax(dim=1), slot)
        column = torch.where(out, self.at[r, slot], column)
        # The new column against the slots; θ's own are the signed pulls of the ball.
        new = self.Q[column[:, None], self.at]
        new += ((self.at == self.border) & self.real) * (side * self.pull[r, column])[:, None]
        new += (column == self.border)[:, None] * self.press
        y = (new[:, None, :] @ self.H)[:, 0]
        pivot = self.Q.diagonal()[column] - (new * y).sum(dim=1)
        pivot = torch.where(column == self.border, pivot, pivot.clamp(min=DAMPING))
        y[r, slot] = -1
        y = torch.where(out[:, None], self.H[r, slot], y)
        pivot = torch.where(out, -y[r, slot], pivot)
        scale = torch.where(done | (pivot == 0), 0, 1 / pivot)
        self.worn += scale.abs()
        for slots, weights in ((self.down, self.beta), (self.press, self.pull)):
            slots[r, slot] = torch.where(into, side * weights[r, column], slots[r, slot])
        scaled = scale[:, None] * y
        self.move += (scaled * self.down).sum(dim=1)[:, None] * y
        self.H.baddbmm_(y[:, :, None], scaled[:, None, :])
        sign = self.sign[r, column]
        self.dropped = (sign < 0).long(), torch.where(out, column, self.border)
        self.at[r, slot] = torch.where(into, column, torch.where(
            out, self.border, self.at[r, slot]))
        self.real[r, slot] = (self.real[r, slot] | into) & ~out
        self.inside[r, column] = (self.inside[r, column] | into) & ~out
        self.open[r, column] = torch.where(column == self.border, 0.0, torch.where(
            into, 0.0, torch.where(out, 1.0, self.open[r, column])))
        self.sign[r, column] = torch.where(into, side, sign * ~out)
        self.V[r, column] *= ~out
        for slots in (self.down, self.press, self.move):
            slots[r, slot] *= ~out
        keep = (~out).to(y.dtype)[:, None]  # rounding must not leave anything in an empty slot
        self.H[r, slot] *= keep
        self.H[r, :, slot] *= keep

    def _keep(self, rows: Tensor) -> None:
        for name in ("cross", "alpha", "beta", "pull", "kappa", "open", "rows", "V", "sign",
                     "inside", "t", "mark", "since", "at", "real", "H", "down", "press", "move",
                     "worn"):
            setattr(self, name, getattr(self, name)[rows])
        self.slack = self.slack[:, rows]
        self.dropped = self.dropped[0][rows], self.dropped[1][rows]


def follow(problem: Problem, spread: float = 0.0) -> Iterator[Tensor]:
    """Where each row is on its path, every few kinks; the last one is at the rows' own λ.

    Parameters
    ----------
    problem : Problem
        In float64.
    spread : float
        By how much the weights that fall differ from column to column, at most, as a part of
        themselves. A row in which many kinks are at the same λ can turn in a circle of them.
    """
    path, step = Path(problem, spread), 0
    while len(path.rows):
        path.step()
        step += 1
        if step % SHOWN == 0 or not len(path.rows):
            W = path.W.clone()
            W[path.rows] = path.V[:, :-1] * path.unit
            yield W
