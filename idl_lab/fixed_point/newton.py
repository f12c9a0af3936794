"""Newton's and Broyden's methods for some 20 states: few steps, each of them dear."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idl_lab.fixed_point.solver import Guard, Map, Solver, SolverState, measure
from idl_lab.operators import dense
from idl_lab.state_map import StateMap

_PIVOT = 1e-8  # of |sᵀHΔ| over its factors' lengths: below, the update would be mostly rounding


@dataclass(frozen=True)
class Newton(Solver):
    """Newton's method on x − f(x) = 0, each sample with its own Jacobian.

    x ← x + (I − J)⁻¹(f(x) − x), J = f′(x). A step costs O(n³) a sample and O(n²) memory, so it is
    for n up to some 20: at 100 a solve takes forty times Picard's (docs/speed.md). Near the
    solution the number of right digits doubles at each step, and for ReLU the solve ends once the
    active states are found. A jump that makes the residual more than four times worse is taken
    back (`Guard`).

    Parameters
    ----------
    rtol, atol, max_steps
        As for `Solver`.
    damping : float
        β in (0, 1], of the Picard step that stands in where a jump failed.

    References
    ----------
    L. Qi, J. Sun, A nonsmooth version of Newton's method, Math. Programming 58 (1993).
    """

    def init(self, x: Tensor) -> SolverState:
        """The state before the first step.

        Parameters
        ----------
        x : Tensor, shape (m, n)
            The start.
        """
        return SolverState(memory=tuple(Guard.at(x)))

    def step(self, f: Map, x: Tensor, state: SolverState) -> tuple[Tensor, Tensor, SolverState]:
        """One evaluation of f and its Jacobian: the next iterate, f(x) and the next state.

        Parameters
        ----------
        f : callable
            (m, n) to (m, n), each sample on its own, differentiable.
        x : Tensor, shape (m, n)
        state : SolverState
        """
        fx, J = _value_and_jacobian(f, x)
        measured = measure(self, x, fx, state)
        guard = Guard(*state.memory)
        image = self.mix(x, fx)
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        move, info = torch.linalg.solve_ex(eye - J, fx - x)
        usable = (info == 0) & move.isfinite().all(dim=1)
        if not usable.all():  # the gradient through a singular system is NaN even if nobody uses it
            move = torch.linalg.solve(torch.where(usable[:, None, None], eye - J, eye), fx - x)
        following, guard = guard.follow(x + move, usable, image, measured.residual,
                                        guard.rejects(measured.residual))
        return following, fx, replace(measured, memory=tuple(guard))


def _value_and_jacobian(f: Map, x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x), (m, n), and each sample's Jacobian, (m, n, n)."""
    if isinstance(f, StateMap):
        fx = f(x)
        return fx, f.slope(x, fx)[:, :, None] * dense(f.A)
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        fx = f(at)
        if not fx.requires_grad:  # constant
            return fx, x.new_zeros(*x.shape, x.shape[1])
        rows = [torch.autograd.grad(fx[:, i].sum(), at, retain_graph=True)[0]
                for i in range(x.shape[1])]
    return fx.detach(), torch.stack(rows, dim=1)


@dataclass(frozen=True)
class Broyden(Solver):
    """Broyden's good method: Newton's with a Jacobian learnt from the steps.

    H, an estimate of (I − J)⁻¹ that starts at I, gives x ← x + H(f(x) − x); after a step
    s with Δ = change of x − f(x), H ← H + (s − HΔ) sᵀH / (sᵀHΔ). A step costs O(n²) a sample
    in time and memory. A jump that makes the residual more than four times worse is taken
    back (`Guard`) and H forgotten.

    Parameters
    ----------
    rtol, atol, max_steps
        As for `Solver`.
    damping : float
        β in (0, 1], of the Picard step that stands in where a jump failed.

    References
    ----------
    C. G. Broyden, A class of methods for solving nonlinear simultaneous equations, Math. Comp.
    19 (1965); J. Sherman, W. J. Morrison, Ann. Math. Statist. 21 (1950).
    """

    def init(self, x: Tensor) -> SolverState:
        """The state before the first step.

        The memory is H (m, n, n), the last point and its residual vector, (m, n), whether there
        is one, (m,), and the three tensors of a `Guard`.

        Parameters
        ----------
        x : Tensor, shape (m, n)
            The start.
        """
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        known = x.new_zeros(len(x), dtype=torch.bool)
        return SolverState(memory=(eye.expand(len(x), -1, -1), x, x, known, *Guard.at(x)))

    def step(self, f: Map, x: Tensor, state: SolverState) -> tuple[Tensor, Tensor, SolverState]:
        """One evaluation of f: the next iterate, f(x) and the next state.

        Parameters
        ----------
        f : callable
            (m, n) to (m, n), each sample on its own.
        x : Tensor, shape (m, n)
        state : SolverState
        """
        H, last, last_r, known, *guard = state.memory
        guard, fx = Guard(*guard), f(x)
        measured = measure(self, x, fx, state)
        r = fx - x  # of g(x) = x − f(x) this is −g
        image = self.mix(x, fx)

        s, change = x - last, last_r - r
        Hc = (H @ change[:, :, None])[:, :, 0]
        sH = (s[:, None, :] @ H)[:, 0]
        pivot = (sH * change).sum(dim=1)
        scale = torch.linalg.vector_norm(sH, dim=1) * torch.linalg.vector_norm(change, dim=1)
        learns = known & (pivot.abs() > _PIVOT * scale) & (scale > 0)
        update = (s - Hc) / torch.where(learns, pivot, 1)[:, None]
        H = H + torch.where(learns[:, None, None], update[:, :, None] * sH[:, None, :], 0)

        rejected = guard.rejects(measured.residual)
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        usable = H.isfinite().all(dim=(1, 2)) & ~rejected
        H = torch.where(usable[:, None, None], H, eye)
        jump = x + (H @ r[:, :, None])[:, :, 0]
        usable = usable & jump.isfinite().all(dim=1)
        following, guard = guard.follow(jump, usable, image, measured.residual, rejected)
        return following, fx, replace(measured, memory=(H, x, r, ~rejected, *guard))
