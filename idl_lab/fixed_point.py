"""Solvers for x = f(x): settings as frozen dataclasses, one entry function.

A solver is three methods, ``init / step / terminate``, so that a panel single-steps the very
code that training runs. States x are batches, shape (m, n); every sample converges on its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.solution import ConvergenceError, ConvergenceWarning, Solution, Stats, Status, Trace

Map = Callable[[Tensor], Tensor]
_SLACK = 4.0  # how far a mixed point's residual may rise: forbidding it costs steps


@dataclass(frozen=True)
class State:
    """Where a solve stands after some steps.

    Attributes
    ----------
    steps : int
        Evaluations of f so far.
    residual, first : Tensor, shape (m,), or None
        ‖f(x) − x‖∞ at the last and at the first point measured; None before the first step.
    worst : float
        The largest entry of ``residual``.
    best, best_residual : Tensor or None, shapes (m, n) and (m,)
        The best f(x) seen, to fall back on where a solve fails.
    memory : tuple of Tensor
        The solver's own.
    """

    steps: int = 0
    residual: Tensor | None = None
    first: Tensor | None = None
    worst: float = math.inf
    best: Tensor | None = None
    best_residual: Tensor | None = None
    memory: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Solver:
    """Settings and stopping rule that all solvers share; a solver adds ``init`` and ``step``.

    ``init(x)`` is the `State` before the first step; ``step(f, x, state)`` evaluates f once and
    returns the next iterate, f(x) and the next state. A solve stops once ‖f(x) − x‖∞ ≤ tol in
    every sample, and the point it returns is f(x); undamped, that is ‖x_{k+1} − x_k‖∞ ≤ tol at
    x_{k+1}. Damping does not enter the test: short steps cannot pass for convergence.

    Parameters
    ----------
    tol : float
        Stop once ‖f(x) − x‖∞ ≤ tol in every sample (or at the dtype's rounding).
    max_steps : int
    damping : float
        β in (0, 1]; 1 is undamped.
    """

    tol: float = 1e-6
    max_steps: int = 2000
    damping: float = 1.0

    def __post_init__(self) -> None:
        validation.real("tol", self.tol, at_least=0.0)
        validation.integer("max_steps", self.max_steps)
        validation.real("damping", self.damping, above=0.0, at_most=1.0)

    def terminate(self, x: Tensor, state: State) -> Status | None:
        """How the solve ended at f(x) = ``x``, or None to go on."""
        if state.worst <= self.tol:
            return Status.CONVERGED
        # The other questions cost a pass over x, so they are asked at every eighth step.
        last = state.steps >= self.max_steps
        if math.isfinite(state.worst) and not last and state.steps % 8:
            return None
        reached = _reached(x, state.residual, self.tol)
        if reached.all():
            return Status.ROUNDING
        lost = ~state.residual.isfinite()
        grew = lost | (state.residual > state.first)
        if (reached | lost).all() or (last and (grew & ~reached).any()):
            return Status.DIVERGED
        return Status.MAX_STEPS if last else None


def _reached(x: Tensor, residual: Tensor, tol: float) -> Tensor:
    """Samples whose residual is at most tol, or at most what rounding alone can leave, (m,)."""
    rounding = 4 * torch.finfo(x.dtype).eps * x.abs().amax(dim=1)
    return (residual <= tol) | ((residual <= rounding) & residual.isfinite())


def _measure(x: Tensor, fx: Tensor, state: State, tol: float) -> State:
    """The next state after f was evaluated at x; the memory is handed on."""
    with torch.no_grad():
        residual = (fx - x).abs_().amax(dim=1)
        worst = float(residual.amax())
    best, best_residual = state.best, state.best_residual
    if best is None:
        best, best_residual = x, torch.full_like(residual, math.inf)
    # At tol one point is as good as another; so a sample that is done does not cost a copy.
    better = (residual < best_residual) | (residual <= tol)
    if better.all():
        best, best_residual = fx, residual
    else:
        best = torch.where(better[:, None], fx, best)
        best_residual = torch.where(better, residual, best_residual)
    first = residual if state.first is None else state.first
    return State(state.steps + 1, residual, first, worst, best, best_residual, state.memory)


@dataclass(frozen=True)
class Picard(Solver):
    """Picard iteration x ← (1 − β) x + β f(x), with damping β.

    Parameters
    ----------
    tol, max_steps, damping
        As for `Solver`.
    """

    def init(self, x: Tensor) -> State:
        """The state before the first step."""
        return State()

    def step(self, f: Map, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One evaluation of f: the next iterate, f(x) and the next state."""
        fx = f(x)
        return (fx if self.damping == 1 else torch.lerp(x, fx, self.damping)), fx, _measure(
            x, fx, state, self.tol)


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
    tol, max_steps, damping
        As for `Solver`.
    window : int
        Points mixed at most.
    ridge : float
        Regularisation, relative to the squared residual of each point; at least
        10 · window · eps of the dtype.

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

    def init(self, x: Tensor) -> State:
        """The state before the first step: an empty history.

        The memory is R and G, the residuals and (damped) images of the window, (w, m, n);
        which entries count, (w, m); whether x is a mixed point, (m,); and of the last accepted
        point the image, (m, n); and the smallest residual, (m,).
        """
        w, m = self.window, len(x)
        empty = x.new_zeros(w, *x.shape)
        return State(memory=(empty, empty, x.new_zeros(w, m, dtype=torch.bool),
                             x.new_zeros(m, dtype=torch.bool), x, x.new_full((m,), math.inf)))

    def step(self, f: Map, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One evaluation of f: the next iterate, f(x) and the next state."""
        R, G, counts, mixed, fallback, reference = state.memory
        fx = f(x)
        measured = _measure(x, fx, state, self.tol)
        rejected = mixed & ~(measured.residual <= _SLACK * reference)

        image = fx if self.damping == 1 else torch.lerp(x, fx, self.damping)
        R = torch.cat([R[1:], (fx - x)[None]])
        G = torch.cat([G[1:], image[None]])
        counts = torch.cat([counts[1:], torch.ones_like(counts[:1])]) & ~rejected
        weights, solved = self._weights(R, counts)
        candidate = torch.einsum("wm,wmn->mn", weights, G)
        mixes = ~rejected & solved & (counts.sum(dim=0) > 1)
        following = torch.where(mixes[:, None], candidate, image)
        following = torch.where(rejected[:, None], fallback, following)

        fallback = torch.where(rejected[:, None], fallback, image)
        reference = torch.fmin(reference, measured.residual)
        memory = (R, G, counts, mixes, fallback, reference)
        return following, fx, replace(measured, memory=memory)

    def _weights(self, R: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (w, m) of the counting points, and where the system was solved (m,)."""
        R = torch.where(counts[:, :, None], R, 0)
        length = torch.linalg.vector_norm(R, dim=2)
        length = torch.where(length > 0, length, 1)
        unit = (R / length[:, :, None]).transpose(0, 1)
        gram = unit @ unit.mT
        ridge = max(self.ridge, 10 * self.window * torch.finfo(R.dtype).eps)
        # Points that do not count have a zero row: the ridge alone keeps theirs solvable.
        gram = gram + ridge * torch.eye(self.window, dtype=R.dtype, device=R.device)
        one = torch.where(counts, 1 / length, 0).mT
        alpha, info = torch.linalg.solve_ex(gram, one)
        alpha = (alpha * one).mT
        total = alpha.sum(dim=0)
        solved = (info == 0) & alpha.isfinite().all(dim=0) & (total > 0)
        return torch.where(solved, alpha / torch.where(solved, total, 1), 0), solved


def check_solver(solver: Solver) -> Solver:
    """Check that ``solver`` is settings, not a name or a class."""
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be settings such as Picard() or Anderson(), got {solver!r}.")
    return solver


def fixed_point(f: Map, x: Tensor, solver: Solver = Picard(), *, keep_states: bool = False,
                throw: bool = False) -> Solution:
    """Solve x = f(x) from a start.

    Parameters
    ----------
    f : callable
        Maps (..., n) to (..., n), each sample on its own, without overwriting its argument.
    x : Tensor, shape (..., n)
        The start.
    solver : Picard or Anderson
        Settings; nothing is stored on them.
    keep_states : bool
        Keep every iterate in ``trace.states``, for drawing.
    throw : bool
        Raise instead of warning when the solve stops early.

    Returns
    -------
    Solution
        ``value`` has the shape of ``x``; gradients flow through the steps if grad is enabled.

    Raises
    ------
    ConvergenceError
        With ``throw``, if some sample did not converge.

    Warns
    -----
    ConvergenceWarning
        If some sample did not converge; the message holds the residual and what to do.
    """
    validation.tensor("x", x)
    if x.dim() < 1 or x.shape[-1] == 0:
        raise ValueError(f"x must have shape (..., n) with n at least 1, got {tuple(x.shape)}.")
    check_solver(solver)
    shape = x.shape

    def flat(s: Tensor) -> Tensor:
        fs = f(s if s.shape == shape else s.reshape(shape))  # a view costs as much as a small sum
        if getattr(fs, "shape", None) != shape or fs.dtype != x.dtype:
            got = (tuple(fs.shape), fs.dtype) if isinstance(fs, Tensor) else fs
            raise ValueError(f"f must give a tensor of its argument's shape {tuple(shape)} and "
                             f"{x.dtype}, got {got}.")
        return fs if fs.shape == s.shape else fs.reshape(s.shape)

    solution = _solve(flat, x.reshape(-1, shape[-1]), solver, keep_states, shape)
    if not solution.status.ok:
        sentence = _advice(solution, solver)
        if throw:
            raise ConvergenceError(sentence)
        warnings.warn(sentence, ConvergenceWarning, stacklevel=2)
    return solution


def _solve(f: Map, x: Tensor, solver: Solver, keep_states: bool, shape: torch.Size) -> Solution:
    state = solver.init(x)
    states, residuals = [x.detach()], []
    status = Status.CONVERGED if len(x) == 0 else None
    fx = x
    while status is None:
        x, fx, state = solver.step(f, x, state)
        status = solver.terminate(fx, state)
        residuals.append(state.residual)
        if keep_states:
            states.append((fx if status else x).detach())
    value = fx if status.ok else state.best
    residual = residuals[-1] if residuals else x.new_zeros(0)
    if not status.ok:
        residual = state.best_residual
    scale = value.detach().abs().amax(dim=1)
    lead = shape[:-1]
    return Solution(
        value.reshape(shape), status,
        Stats(state.steps, residual.reshape(lead),
              (residual / torch.where(scale > 0, scale, 1)).reshape(lead),
              _reached(value.detach(), residual, solver.tol).reshape(lead)),
        Trace(torch.stack(residuals).reshape(len(residuals), *lead) if residuals
              else x.new_zeros(0, *lead),
              torch.stack(states).reshape(len(states), *shape) if keep_states else None))


def _advice(solution: Solution, solver: Solver) -> str:
    stats = solution.stats
    left = int((~stats.converged).sum())
    return (f"{solution.status.value}: {left} of {stats.converged.numel()} samples did not reach "
            f"tol={solver.tol:g} in {stats.steps} steps (residual at best "
            f"{float(stats.residual.max()):.2e}). Keep ‖A‖∞ below 1 (certificate() says what "
            f"holds), raise max_steps, or use Anderson().")
