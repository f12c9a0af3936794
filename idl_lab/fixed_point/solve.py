"""The one entry function: run a solver on x = f(x) until it ends, and report."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.anderson import Anderson
from idl_lab.fixed_point.picard import Pace, Picard
from idl_lab.fixed_point.solution import (
    ConvergenceError,
    Solution,
    Stats,
    Status,
    Trace,
    warn,
)
from idl_lab.fixed_point.solver import SLOW, Map, Solver, check_solver, rounding
from idl_lab.state_map import StateMap
from idl_lab.unwatched import Unwatched


def fixed_point(f: Map, x: Tensor, solver: Solver = Picard(), *, keep_states: bool = False,
                lean: bool = False, throw: bool = False) -> Solution:
    """Solve x = f(x) from a start.

    Parameters
    ----------
    f : callable
        Maps (..., n) to (..., n), each sample on its own, without overwriting its argument.
    x : Tensor, shape (..., n)
        The start.
    solver : Picard, Anderson, …
        Settings; nothing is stored on them.
    keep_states : bool
        Keep every iterate in ``trace.states``, for drawing.
    lean : bool
        Test for convergence only where the residuals so far say that it may hold, as training
        does; the trace then has those steps alone. Not with ``keep_states``.
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
    check_solver(solver)
    if isinstance(f, StateMap) and x.dim() == 2:
        solution = run(f, x, solver, keep_states, lean)
    else:
        validation.tensor("x", x)
        if x.dim() < 1 or x.shape[-1] == 0:
            raise ValueError(f"x must have shape (..., n) with n at least 1, got {tuple(x.shape)}.")
        flat = x.reshape(-1, x.shape[-1])
        solution = reshape(run(_checked(f, x), flat, solver, keep_states, lean), x.shape[:-1])
    return told(solution, throw)


def _checked(f: Map, x: Tensor) -> Map:
    """f on flat batches (m, n), its answer's shape and dtype checked."""
    shape = x.shape

    def flat(s: Tensor) -> Tensor:
        # A reshape that changes nothing still costs as much as a small sum, at every step.
        fs = f(s if s.shape == shape else s.reshape(shape))
        if getattr(fs, "shape", None) != shape or fs.dtype != x.dtype:
            got = (tuple(fs.shape), fs.dtype) if isinstance(fs, Tensor) else fs
            raise ValueError(f"f must give a tensor of its argument's shape {tuple(shape)} and "
                             f"{x.dtype}, got {got}.")
        return fs if fs.shape == s.shape else fs.reshape(s.shape)

    return flat


def run(f: Map, x: Tensor, solver: Solver, keep_states: bool = False, lean: bool = False,
        watch: Unwatched | None = None, pace: Pace | None = None) -> Solution:
    """`fixed_point` for a batch (m, n) that was checked before, without a word on how it ended.

    Parameters
    ----------
    f, x, solver, keep_states, lean
        As for `fixed_point`.
    watch : Unwatched, optional
        Who reads later whether its number of steps was enough.
    pace : Pace, optional
        What similar solves needed; for a lean one by `Picard`.
    """
    if watch is not None:
        return _unwatched(f, x, solver, watch)
    state = replace(solver.init(x), start=x.detach())
    if isinstance(f, StateMap):
        state = replace(state, gain=f.gain)
    states, steps, log = [x.detach()], [], _Log(x)
    status = Status.CONVERGED if len(x) == 0 else None
    value, residual, slow = x, x.new_empty(len(x)), False
    while status is None:
        skip = 0
        if lean and not keep_states and state.steps:
            skip = solver.untested(state)
        elif lean and not keep_states and pace and isinstance(solver, Picard):
            skip = max(min(pace.steps, solver.max_steps) - 1, 0)
        x, fx, state = solver.step(f, x, state, skip) if skip else solver.step(f, x, state)
        value, residual, status = state.point, state.residual, solver.terminate(state)
        slow = slow or state.rate > SLOW
        log.append(residual)
        steps.append(state.steps)
        if status is not None and status.ok and not state.image:
            # An accelerated point may be far from f(x) where f expands, and is no value of φ.
            value, again, state = fx, f(fx), replace(state, steps=state.steps + 1)
            residual = (again.detach() - value.detach()).abs_().amax(dim=1)
            log.append(residual)
            steps.append(state.steps)
            states.append(value.detach())
            if not solver.reached(value, residual, state).all():
                status = Status.MAX_STEPS if state.steps >= solver.max_steps else None
        states.append(x.detach())
        if not keep_states:
            states.clear()
    if pace:
        # Of a slow solve every test is wanted: only they see how large the numbers became.
        pace.steps = 0 if slow else pace.after(solver, state)
    residuals = log.rows()
    if not status.ok:
        value, residual = state.best, state.best_residual
    elif slow and _is_drowned(value.detach(), residuals, state.start):
        status = Status.ILL_CONDITIONED
    return Solution(
        value, status, Stats(state.steps, residual, value.detach(), solver.rtol, solver.atol),
        Trace(residuals, tuple(steps) if lean else None,
              torch.stack(states) if keep_states else None))


def _unwatched(f: Map, x: Tensor, solver: Solver, watch: Unwatched) -> Solution:
    """So many plain steps, Anderson's too, without a wait for the device."""
    if not isinstance(solver, (Picard, Anderson)):
        raise RuntimeError(f"{type(solver).__name__}() has no steps that can be taken unwatched: "
                           f"Picard() and Anderson() have.")
    steps = watch.begin()
    for _ in range(steps - 1):
        x = solver.mix(x, f(x))
    x = f(x)  # an image of f, as every value is: at a damped point the slopes may be others
    residual = (f(x) - x).detach().abs_().amax(dim=1)
    # More steps do not help below rounding.
    floor = rounding(x.dtype) * x.detach().abs().amax(dim=1)
    watch.end((residual / torch.maximum(solver.tolerance(x.detach()), floor)).amax())
    return Solution(x, Status.UNWATCHED, Stats(steps + 1, residual, x.detach(), solver.rtol,
                                               solver.atol), Trace(residual[None], (steps + 1,)))


class _Log:
    """Residuals, stacked at the end; of many steps in blocks.

    Kept as a tensor a step, thousands of them would lie between the large temporaries and keep
    the allocator from using that memory again.
    """

    def __init__(self, x: Tensor) -> None:
        self.blocks, self.new = [x.new_empty(0, len(x))], []

    def append(self, residual: Tensor) -> None:
        self.new.append(residual)
        if len(self.new) == 32:
            self.blocks, self.new = [self.rows()], []

    def rows(self) -> Tensor:
        return torch.cat([*self.blocks, torch.stack(self.new)]) if self.new else self.blocks[0]


def _is_drowned(x: Tensor, residuals: Tensor, start: Tensor) -> bool:
    """Whether rounding of what a solve went through may reach a thousandth of some solution."""
    size = x.abs().amax(dim=1)
    grown = residuals.amax(dim=0) - 2 * start.abs().amax(dim=1)  # a start's own size is forgotten
    return bool(((rounding(x.dtype) * grown > 1e-3 * size) & (size > 0)).any())


def reshape(solution: Solution, lead: torch.Size) -> Solution:
    """A batch's solution (m, n) with the leading dimensions ``lead`` instead of m.

    Parameters
    ----------
    solution : Solution
    lead : torch.Size
        Its product is m.
    """
    if solution.value.shape[:-1] == lead:
        return solution
    stats, trace, n = solution.stats, solution.trace, solution.value.shape[-1]
    states = trace.states
    return Solution(
        solution.value.reshape(*lead, n), solution.status,
        replace(stats, residual=stats.residual.reshape(lead), value=stats.value.reshape(*lead, n)),
        Trace(trace.residuals.reshape(len(trace.residuals), *lead), trace.steps,
              None if states is None else states.reshape(len(states), *lead, n)))


def told(solution: Solution, throw: bool = False) -> Solution:
    """The solution, after a warning, or an error, where it is not within its tolerance.

    Parameters
    ----------
    solution : Solution
    throw : bool
        Raise instead of warning.

    Raises
    ------
    ConvergenceError
        With ``throw``, if its status is not ok.
    """
    if (sentence := _sentence(solution)) and throw and not solution.status.ok:
        raise ConvergenceError(sentence)
    if sentence:
        warn(sentence)
    return solution


def _sentence(solution: Solution) -> str:
    """What the caller should know of how the solve ended; empty where all is well."""
    stats, dtype = solution.stats, solution.value.dtype
    status = solution.status
    if status.ok and not (status is Status.ROUNDING and dtype.itemsize == 2):
        return ""
    worst = float(stats.residual.max())
    if solution.status is Status.ROUNDING:
        return (f"rtol={stats.rtol:g} is below what {dtype} resolves (eps = "
                f"{torch.finfo(dtype).eps:.1e}): the solve ended at rounding with residual "
                f"{worst:.2e}. Give an rtol of {rounding(dtype):.0e} or more, or use float32.")
    if solution.status is Status.ILL_CONDITIONED:
        return (f"{solution.status.value}: residuals of up to "
                f"{float(solution.trace.residuals.max()):.1e} on the way to a solution of "
                f"{float(stats.size.min()):.1e} in {dtype}. Use float64, or a "
                f"smaller A.")
    left = int((~stats.converged).sum())
    return (f"{solution.status.value}: {left} of {stats.residual.numel()} samples did not reach "
            f"rtol={stats.rtol:g}, atol={stats.atol:g} in {stats.steps} steps (residual at best "
            f"{worst:.2e}). Keep ‖A‖∞ below 1 (certificate() says what holds), raise max_steps, or "
            f"use Anderson().")
