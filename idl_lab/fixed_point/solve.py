"""The one entry function: run a solver on x = f(x) until it ends, and report."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.picard import Picard
from idl_lab.fixed_point.solution import (
    ConvergenceError,
    ConvergenceWarning,
    Solution,
    Stats,
    Status,
    Trace,
)
from idl_lab.fixed_point.solver import Map, Solver, check_solver
from idl_lab.operators import StateMap


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
        If some sample did not converge; the message holds the residual and what to do. Also
        where ``tol`` is below what a 16-bit dtype resolves: the solve then ends at rounding.
    """
    check_solver(solver)
    if isinstance(f, StateMap) and x.dim() == 2:
        solution = _solve(f, x, solver, keep_states, lean)
    else:
        validation.tensor("x", x)
        if x.dim() < 1 or x.shape[-1] == 0:
            raise ValueError(f"x must have shape (..., n) with n at least 1, got {tuple(x.shape)}.")
        flat = x.reshape(-1, x.shape[-1])
        solution = reshape(_solve(_checked(f, x), flat, solver, keep_states, lean), x.shape[:-1])
    sentence = _sentence(solution, solver)
    if sentence:
        if throw and not solution.status.ok:
            raise ConvergenceError(sentence)
        warnings.warn(sentence, ConvergenceWarning, stacklevel=2)
    return solution


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


def _solve(f: Map, x: Tensor, solver: Solver, keep_states: bool, lean: bool) -> Solution:
    state = solver.init(x)
    states, steps = [x.detach()], []
    # Residuals go into one block that doubles when full. Kept as a tensor a step, they would lie
    # between the large temporaries and keep the allocator from using that memory again.
    log = x.new_empty(16, len(x))
    status = Status.CONVERGED if len(x) == 0 else None
    fx = x
    while status is None:
        skip = solver.untested(state) if lean and state.steps and not keep_states else 0
        x, fx, state = solver.step(f, x, state, skip) if skip else solver.step(f, x, state)
        status = solver.terminate(fx, state)
        if len(steps) == len(log):
            log = torch.cat([log, torch.empty_like(log)])
        log[len(steps)] = state.residual
        steps.append(state.steps)
        if keep_states:
            states.append((fx if status else x).detach())
    value = fx if status.ok else state.best
    residual = state.best_residual if not status.ok else log[len(steps) - 1] if steps else log[0]
    return Solution(
        value, status,
        Stats(state.steps, residual, value.detach(), solver.tol),
        Trace(log[:len(steps)], tuple(steps) if lean else None,
              torch.stack(states) if keep_states else None))


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


def _sentence(solution: Solution, solver: Solver) -> str:
    """What the caller should know of how the solve ended; empty where all is well."""
    if solution.status is Status.CONVERGED:
        return ""
    stats, dtype = solution.stats, solution.value.dtype
    worst = float(stats.residual.max())
    if solution.status is Status.ROUNDING:
        eps = torch.finfo(dtype).eps
        return "" if dtype.itemsize > 2 else (
            f"tol={solver.tol:g} is below what {dtype} resolves (eps = {eps:.1e}): the solve ended "
            f"at rounding with residual {worst:.2e}. Give a tol of {4 * eps:.0e} or more, or use "
            f"float32.")
    left = int((~stats.converged).sum())
    return (f"{solution.status.value}: {left} of {stats.residual.numel()} samples did not reach "
            f"tol={solver.tol:g} in {stats.steps} steps (residual at best {worst:.2e}). Keep ‖A‖∞ "
            f"below 1 (certificate() says what holds), raise max_steps, or use Anderson().")
