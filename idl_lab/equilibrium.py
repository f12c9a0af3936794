"""The equilibrium x = φ(Ax + b) as a differentiable function of A and of the injection b.

By the implicit function theorem the gradient needs no record of the steps. With D = diag φ′
at the solution and g the gradient of the loss there, v = D (Aᵀ v + g), a fixed-point equation as
well-posed as the first; then v is the gradient with respect to b, and v xᵀ with respect to A.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import Activation, activation
from idl_lab.extras import never_compiled
from idl_lab.fixed_point import Picard, Solver, check_solver, fixed_point, reshape
from idl_lab.fixed_point.solution import ConvergenceWarning, Solution
from idl_lab.operators import (
    LowRank,
    Operator,
    StateMap,
    check_finite,
    detach,
    from_leaves,
    gradients,
    leaves,
    once,
)


@dataclass(frozen=True)
class Implicit:
    """Exact gradient from the adjoint fixed point; memory does not grow with the steps.

    Parameters
    ----------
    solver : Picard or Anderson, optional
        For the adjoint equation, solved relative to each sample's own gradient; by default
        the solver of the forward equation. Once differentiable: for second derivatives use
        `Unrolled`.

    Raises
    ------
    TypeError
        If ``solver`` is none.
    """

    solver: Solver | None = None

    def __post_init__(self) -> None:
        if self.solver is not None:
            check_solver(self.solver)


@dataclass(frozen=True)
class Unrolled:
    """Gradient through every step of the solver, as back-propagation has it.

    Memory grows with the steps; the gradient is that of the last iterate, so it is as exact
    as the solve. Differentiable as often as φ is.
    """


@dataclass(frozen=True)
class OneStep:
    """Gradient of one application of f at the solution, (I − DA)⁻¹ taken as I.

    Cheap and biased; a descent direction where the map contracts enough (Fung et al. 2022,
    JFB: Jacobian-Free Backpropagation, AAAI).
    """


Adjoint = Implicit | Unrolled | OneStep


def check_adjoint(adjoint: Adjoint) -> Adjoint:
    """Check that ``adjoint`` is one of the three, not a name or a class.

    Parameters
    ----------
    adjoint : Implicit, Unrolled or OneStep

    Raises
    ------
    TypeError
        If it is none of them.
    """
    if not isinstance(adjoint, Adjoint):
        raise TypeError(f"adjoint must be Implicit(), Unrolled() or OneStep(), got {adjoint!r}.")
    return adjoint


def equilibrium(A: Operator, injection: Tensor, phi: str | Activation | Callable = "relu", *,
                X0: Tensor | None = None, solver: Solver = Picard(),
                adjoint: Adjoint = Implicit(), keep_states: bool = False,
                throw: bool = False) -> Solution:
    """Solve X = φ(X Aᵀ + injection); differentiable in A and the injection.

    Parameters
    ----------
    A : Tensor, shape (n, n), dense or sparse (CSR); or LowRank
    injection : Tensor, shape (..., n)
        U Bᵀ, what the input adds to each state.
    phi : str, Activation or callable
    X0 : Tensor, shape (..., n), optional
        Warm start, zero by default. It does not enter the gradient.
    solver : Picard, Anderson, …
    adjoint : Implicit, Unrolled or OneStep
        How the gradient is taken.
    keep_states : bool
        Keep every iterate in ``trace.states``, and test at each for convergence.
    throw : bool
        Raise `ConvergenceError` instead of warning when the solve stops early.

    Returns
    -------
    Solution
        ``value`` has shape (..., n) and carries the gradient.

    Raises
    ------
    TypeError, ValueError
        If A and the injection do not match or are not finite, or an option is none.
    ConvergenceError
        With ``throw``, if some sample did not converge.

    Warns
    -----
    ConvergenceWarning
        When the solve, or later the adjoint solve, stops early; the message has the residual.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning; Winston and Kolter 2020, arXiv 2006.08591.
    """
    check_finite(A)
    if not isinstance(A, LowRank):
        validation.check_shape("A", A, "n n")
    n = A.shape[0]
    validation.tensor("injection", injection, "... n", like=leaves(A)[0], n=n)
    check_solver(solver)
    check_adjoint(adjoint)
    return solve(A, injection, activation(phi), X0, solver, adjoint, keep_states, throw)


@never_compiled
def solve(A: Operator, injection: Tensor, phi: Activation, X0: Tensor | None, solver: Solver,
          adjoint: Adjoint, keep_states: bool = False, throw: bool = False) -> Solution:
    """`equilibrium` for arguments that were checked before.

    Parameters
    ----------
    A, injection, phi, X0, solver, adjoint, keep_states, throw
        As for `equilibrium`; phi is an `Activation`.

    Raises
    ------
    ValueError
        If X0 does not have the injection's shape.
    ConvergenceError
        As `equilibrium`.
    """
    lead, n = injection.shape[:-1], A.shape[0]
    b = injection if injection.dim() == 2 else injection.reshape(-1, n)
    if X0 is not None:
        validation.tensor("X0", X0, like=injection)
        if X0.shape != injection.shape:
            raise ValueError(f"X0 must have the shape of the injection, {tuple(injection.shape)}, "
                             f"got {tuple(X0.shape)}.")
        X0 = X0.detach().reshape(b.shape)
    wanted = torch.is_grad_enabled() and any(T.requires_grad for T in (*leaves(A), b))
    unrolled = isinstance(adjoint, Unrolled) and wanted
    f = StateMap(A, b, phi) if unrolled else StateMap(detach(A), b.detach(), phi)
    if X0 is None:
        X0 = torch.zeros_like(b) if unrolled else f.zero()
    with torch.set_grad_enabled(unrolled):
        solution = fixed_point(f, X0, solver, keep_states=keep_states, lean=not keep_states,
                               throw=throw)
    if wanted and not unrolled:
        how = None if isinstance(adjoint, OneStep) else adjoint.solver or solver
        value = _Attach.apply(f, how, solution.value, b, *leaves(A))
        solution = dataclasses.replace(solution, value=value)
    return reshape(solution, lead)


_ONCE = "Implicit() and OneStep() have no second derivatives: use adjoint=Unrolled() for them."


class _Attach(torch.autograd.Function):
    """The solution X (m, n), with its gradient: V = φ′ ∘ (V A + g) for b, VᵀX for A."""

    @staticmethod
    def forward(f: StateMap, solver: Solver | None, X: Tensor, b: Tensor, *A: Tensor) -> Tensor:
        return X.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        f, ctx.solver, X, b, *A = inputs
        ctx.phi = f.phi
        ctx.save_for_backward(X, b, *A)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        X, b, *tensors = ctx.saved_tensors
        with torch.no_grad():
            A = from_leaves(tuple(tensors))
            f = StateMap(A, b, ctx.phi)
            slope = f.slope(X, X)
            V = slope * g if ctx.solver is None else _solve_adjoint(f, slope, g, ctx.solver)
            dA = gradients(A, V, X) if any(ctx.needs_input_grad[4:]) else [None] * len(tensors)
        if torch.is_grad_enabled():  # V depends on A, which a second derivative would not see
            V, *dA = (T if T is None else once(T, _ONCE, g, b, *tensors) for T in (V, *dA))
        return None, None, None, V, *dA


# `apply` asks for the signature at every call; finding it anew takes longer than a small step.
_Attach.forward.__signature__ = inspect.signature(_Attach.forward)


def _solve_adjoint(f: StateMap, slope: Tensor, g: Tensor, solver: Solver) -> Tensor:
    # Gradients are of any size, so the tolerance is taken relative to each sample's.
    size = g.abs().amax(dim=1, keepdim=True)
    finite = size.isfinite()
    if not finite.all():  # such a sample's gradient is handed on as it is, as torch does
        V = _solve_adjoint(f, slope, torch.where(finite, g, 0), solver)
        return torch.where(finite, V, slope * g)
    size = size.clamp_min_(torch.finfo(g.dtype).tiny)
    adjoint = f.adjoint(slope, g / size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solution = fixed_point(adjoint, adjoint.zero(), solver, lean=True)
    if not solution.status.ok:
        left = int((~solution.stats.converged).sum())
        warnings.warn(
            f"the adjoint solve stopped early ({solution.status.value}): in {left} of {len(g)} "
            f"samples the gradient's relative residual is up to "
            f"{float(solution.stats.residual.max()):.2e} after {solution.stats.steps} steps, so "
            f"gradients are inexact. Lower kappa, or give adjoint=Implicit(solver) more steps.",
            ConvergenceWarning, stacklevel=2)
    return solution.value * size
