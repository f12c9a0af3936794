"""Anderson acceleration: the best mixture of the last few points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solver import Guard, Map, Solver, SolverState, measure


@dataclass(frozen=True)
class Anderson(Solver):
    """Anderson acceleration, each sample with its own history and safeguard.

    The next iterate is Σ α_i ((1 − β) x_i + β f(x_i)) over the last ``window`` points, with the
    weights, Σ α_i = 1, that minimise ‖Σ α_i (f(x_i) − x_i)‖₂ plus a ridge. A mixed point whose
    residual is over four times the smallest so far is thrown away: the history is forgotten
    and the Picard step of the point before it taken instead. A system that cannot be solved
    gives a Picard step too.

    Parameters
    ----------
    rtol, atol, max_steps, damping
        As for `Solver`.
    window : int
        Points mixed at most.
    ridge : float
        Regularisation, relative to the squared residual of each point; at least
        10 · window · eps of the dtype.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its bounds.

    References
    ----------
    Anderson, J. ACM 12(4), 1965; Walker and Ni, SIAM J. Numer. Anal. 49(4), 2011.
    """

    window: int = 5
    ridge: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.integer("window", self.window)
        validation.real("ridge", self.ridge, at_least=0.0)

    def init(self, x: Tensor) -> SolverState:
        """The state before the first step: an empty history.

        The memory is R and G, the residuals and (damped) images of the window, (w, m, n); the
        products of residuals S, (m, w, w); which entries count, (m, w); and a `Guard`'s tensors.

        Parameters
        ----------
        x : Tensor, shape (m, n)
            The start.
        """
        m, w = len(x), self.window
        R = x.new_zeros(w, *x.shape)
        if not x.is_contiguous():  # laid out as x is: copies that turn are slow
            R = x.mT.new_zeros(w, *x.mT.shape).mT
        return SolverState(memory=(R, R.clone(), x.new_zeros(m, w, w),
                             x.new_zeros(m, w, dtype=torch.bool), *Guard.at(x)))

    def step(self, f: Map, x: Tensor, state: SolverState) -> tuple[Tensor, Tensor, SolverState]:
        """One evaluation of f: the next iterate, f(x) and the next state.

        Parameters
        ----------
        f : callable
            (m, n) to (m, n), each sample on its own.
        x : Tensor, shape (m, n)
        state : SolverState
        """
        R, G, S, counts, *guard = state.memory
        guard, fx = Guard(*guard), f(x)
        measured = measure(self, x, fx, state)
        rejected = guard.rejects(measured.residual)
        image = self.mix(x, fx)
        r = fx - x
        at = state.steps % self.window  # the oldest entry makes room
        if torch.is_grad_enabled():  # gradients through the steps need every version
            R, G, S, counts = R.clone(), G.clone(), S.clone(), counts.clone()
        R[at], G[at] = r, image
        products = (R * r).sum(dim=2).mT
        S[:, at], S[:, :, at] = products, products
        counts[:, at] = True
        counts &= ~rejected[:, None]
        weights, solved = self._weights(S, counts)
        candidate = (weights.mT[:, :, None] * G).sum(dim=0)
        following, guard = guard.follow(candidate, solved, image, measured.residual, rejected)
        return following, fx, replace(measured, memory=(R, G, S, counts, *guard))

    def _weights(self, S: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (m, w) of the counting points, and where there are several and a system (m,)."""
        size, dtype = S.diagonal(dim1=1, dim2=2), torch.finfo(S.dtype)
        # The gradient of 1/√size is its cube: of a sample that is done it would overflow, and
        # such a point needs no mixing. (Of the points left out, 1/√∞ = 0 has gradient 0.)
        one = torch.where(counts & (size > dtype.tiny ** (2 / 3)), size, torch.inf).rsqrt()
        ridge = max(self.ridge, 10 * self.window * dtype.eps)
        # Points that do not count have a zero row: the ridge alone keeps theirs solvable.
        gram = S * one[:, :, None] * one[:, None]
        gram.diagonal(dim1=1, dim2=2).add_(ridge)
        alpha, info = torch.linalg.solve_ex(gram, one)
        alpha = alpha * one
        total = alpha.sum(dim=1, keepdim=True)
        solved = (total > 0) & total.isfinite() & (info == 0)[:, None]
        # `where` hides a 0/0 from the value but not from the gradient, which would be NaN.
        weights = torch.where(solved, alpha / torch.where(solved, total, 1), 0)
        return weights, solved[:, 0] & ((one > 0).sum(dim=1) > 1)
