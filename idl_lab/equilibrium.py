"""The equilibrium x = φ(Ax + b) as a differentiable function of A and of the injection b.

By the implicit function theorem the gradient needs no record of the steps. With D = diag φ′
at the solution, v = (I − (DA)ᵀ)⁻¹ g solves v = g + Aᵀ D v, a fixed-point equation as
well-posed as the first, and everything else is one ordinary application of φ(A x* + b).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import Activation, activation
from idl_lab.fixed_point import Picard, Solver, check_solver, fixed_point
from idl_lab.solution import ConvergenceWarning, Solution


@dataclass(frozen=True)
class Implicit:
    """Exact gradient from the adjoint fixed point; memory does not grow with the steps.

    Parameters
    ----------
    solver : Picard or Anderson, optional
        For the adjoint equation, solved relative to each sample's own gradient; by default
        the solver of the forward equation. Once differentiable: for second derivatives use
        `Unrolled`.
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
    """Check that ``adjoint`` is one of the three, not a name or a class."""
    if not isinstance(adjoint, Adjoint):
        raise TypeError(f"adjoint must be Implicit(), Unrolled() or OneStep(), got {adjoint!r}.")
    return adjoint


def equilibrium(A: Tensor, injection: Tensor, phi: str | Activation | Callable = "relu", *,
                X0: Tensor | None = None, solver: Solver = Picard(),
                adjoint: Adjoint = Implicit(), keep_states: bool = False,
                throw: bool = False) -> Solution:
    """Solve X = φ(X Aᵀ + injection); differentiable in A and the injection.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    injection : Tensor, shape (..., n)
        U Bᵀ, what the input adds to each state.
    phi : str, Activation or callable
    X0 : Tensor, shape (..., n), optional
        Warm start, zero by default. It does not enter the gradient.
    solver : Picard or Anderson
    adjoint : Implicit, Unrolled or OneStep
        How the gradient is taken.
    keep_states : bool
        Keep every iterate in ``trace.states``.
    throw : bool
        Raise `ConvergenceError` instead of warning when the solve stops early.

    Returns
    -------
    Solution
        ``value`` has shape (..., n) and carries the gradient.

    Warns
    -----
    ConvergenceWarning
        When the solve, or later the adjoint solve, stops early; the message has the residual.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning; Winston and Kolter 2020, arXiv 2006.08591.
    """
    validation.square("A", A)
    n = A.shape[0]
    validation.tensor("injection", injection, "... n", like=A, n=n)
    if X0 is not None:
        validation.tensor("X0", X0, like=A)
        if X0.shape != injection.shape:
            raise ValueError(f"X0 must have the shape of the injection, {tuple(injection.shape)}, "
                             f"got {tuple(X0.shape)}.")
    check_adjoint(adjoint)
    phi = activation(phi)
    start = torch.zeros_like(injection) if X0 is None else X0.detach()
    f = _map(A, injection, phi)
    unrolled = isinstance(adjoint, Unrolled)
    with torch.set_grad_enabled(unrolled and torch.is_grad_enabled()):
        solution = fixed_point(f, start, solver, keep_states=keep_states, throw=throw)
    wanted = torch.is_grad_enabled() and (A.requires_grad or injection.requires_grad)
    if unrolled or not wanted:
        return solution
    value = _attach(A, injection.reshape(-1, n), phi, solution.value.reshape(-1, n), solver,
                    adjoint)
    return dataclasses.replace(solution, value=value.reshape(injection.shape))


def _map(A: Tensor, injection: Tensor, phi: Activation) -> Callable[[Tensor], Tensor]:
    """X ↦ φ(X Aᵀ + injection) on (..., n): one fused product, φ in place where it may."""
    At, act = A.mT, phi.in_place or phi.fn
    if injection.dim() == 2:
        return lambda X: act(torch.addmm(injection, X, At))
    shape, b = injection.shape, injection.reshape(-1, A.shape[0])
    return lambda X: act(torch.addmm(b, X.reshape(b.shape), At)).reshape(shape)


def _attach(A: Tensor, b: Tensor, phi: Activation, X: Tensor, solver: Solver,
            adjoint: Implicit | OneStep) -> Tensor:
    """The solution X, (m, n), with its gradient attached."""
    pre = torch.addmm(b, X, A.mT)
    once = phi(pre)
    if isinstance(adjoint, OneStep):
        return _Adjoint.apply(once, X, None, None, None)
    slope = phi.derivative(pre)
    return _Adjoint.apply(once, X, A.detach(), slope, adjoint.solver or solver)


class _Adjoint(torch.autograd.Function):
    """Returns the solution; turns its gradient g into v = g + (v ∘ φ′) A for one application."""

    @staticmethod
    def forward(ctx, once: Tensor, X: Tensor, A: Tensor | None, slope: Tensor | None,
                solver: Solver | None) -> Tensor:
        ctx.save_for_backward(A, slope)
        ctx.solver = solver
        return X.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        A, slope = ctx.saved_tensors
        if A is None:
            return g, None, None, None, None
        if torch.is_grad_enabled():  # v depends on A, which a second derivative would not see
            raise RuntimeError("Implicit() has no second derivatives (create_graph=True): "
                               "use adjoint=Unrolled() for them.")
        return _solve_adjoint(A, slope, g, ctx.solver), None, None, None, None


def _solve_adjoint(A: Tensor, slope: Tensor, g: Tensor, solver: Solver) -> Tensor:
    # Gradients are of any size, so the tolerance is taken relative to each sample's.
    size = g.abs().amax(dim=1, keepdim=True)
    finite = size.isfinite()  # else the gradient is handed on as it is, as torch does
    size = torch.where(finite & (size > 0), size, 1)
    unit = torch.where(finite, g / size, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solution = fixed_point(lambda V: torch.addmm(unit, V * slope, A), unit, solver)
    if not solution.status.ok:
        left = int((~solution.stats.converged).sum())
        warnings.warn(
            f"the adjoint solve stopped early ({solution.status.value}): in {left} of {len(g)} "
            f"samples the gradient's relative residual is up to "
            f"{float(solution.stats.residual.max()):.2e} after {solution.stats.steps} steps, so "
            f"gradients are inexact. Lower kappa, or give adjoint=Implicit(solver) more steps.",
            ConvergenceWarning, stacklevel=2)
    return torch.where(finite, solution.value * size, g)
