"""The equilibrium x = φ(Ax + b) as a differentiable function of A and of the injection b.

By the implicit function theorem the gradient needs no record of the steps. With D = diag φ′
at the solution and g the gradient of the loss there, v = D (Aᵀ v + g), a fixed-point equation as
well-posed as the first; then v is the gradient with respect to b, and v xᵀ with respect to A.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import Activation, activation
from idl_lab.adjoints import (
    Adjoint,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Unrolled,
    check_adjoint,
)
from idl_lab.extras import (
    Function,
    followed,
    full_precision,
    never_compiled,
    one_tangent,
    refuse_traced,
    under_vmap,
)
from idl_lab.fixed_point import Pace, Picard, Solver, check_solver, reshape, run, told
from idl_lab.fixed_point.solution import ConvergenceError, Solution, Status, warn
from idl_lab.operators import Operator, check_finite, from_leaves, leaves, once
from idl_lab.sparse import Sparse
from idl_lab.state_map import StateMap
from idl_lab.unwatched import Unwatched, current

__all__ = ["Adjoint", "Implicit", "Neumann", "OneStep", "Phantom", "Unrolled", "check_adjoint",
           "equilibrium", "solve", "solve_map"]


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
    adjoint : Implicit, Unrolled, Neumann, OneStep or Phantom
        How gradients are taken. (A forward-mode derivative is exact with all of them.)
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
    for T in leaves(A):
        sparse = isinstance(T, Tensor) and T.layout == torch.sparse_csr
        validation.tensor("A", T.values() if sparse else T, finite=False)
    if isinstance(A, Tensor):
        validation.check_shape("A", A, "n n")
    n = A.shape[0]
    validation.tensor("injection", injection, "... n", like=leaves(A)[0], n=n, finite=False)
    if isinstance(A, Tensor) and A.layout != torch.strided:
        A = Sparse.of(A)
    check_finite({"A": A, "injection": injection})
    check_solver(solver)
    check_adjoint(adjoint)
    return solve(A, injection, activation(phi), X0, solver, adjoint, keep_states, throw)


@never_compiled
def solve(A: Operator, injection: Tensor, phi: Activation, X0: Tensor | None, solver: Solver,
          adjoint: Adjoint, keep_states: bool = False, throw: bool = False,
          paces: Sequence[Pace] = ()) -> Solution:
    """`equilibrium` for arguments that were checked before.

    Numbers of 16 bits are solved in float32 and rounded at the end, under autocast too.

    Parameters
    ----------
    A, injection, phi, X0, solver, adjoint, keep_states, throw
        As for `equilibrium`; phi is an `Activation`.
    paces : sequence of Pace
        Of similar solves, that of the equation and that of its adjoint; or none.

    Raises
    ------
    ValueError
        If X0 does not have the injection's shape.
    ConvergenceError
        As `equilibrium`.
    """
    lead, n, given = injection.shape[:-1], A.shape[0], injection.dtype
    if X0 is not None:
        validation.tensor("X0", X0, like=injection)
        if X0.shape != injection.shape:
            raise ValueError(f"X0 must have the shape of the injection, {tuple(injection.shape)}, "
                             f"got {tuple(X0.shape)}.")
        X0 = X0.detach().reshape(-1, n)
    b = injection if injection.dim() == 2 else injection.reshape(-1, n)
    if given.itemsize < 4:
        A, b = from_leaves([T.float() for T in leaves(A)], A), b.float()
        X0 = None if X0 is None else X0.float()
    solution = solve_map(StateMap(A, b, phi), X0, solver, adjoint, keep_states, throw,
                         paces if X0 is None else ())
    if solution.value.dtype != given:
        solution = replace(solution, value=solution.value.to(given))
    return reshape(solution, lead)


def solve_map(f: StateMap, X0: Tensor | None, solver: Solver, adjoint: Adjoint,
              keep_states: bool = False, throw: bool = False, paces: Sequence[Pace] = ()
              ) -> Solution:
    """The fixed point of a map that knows its derivatives, on batches (m, n); differentiable.

    Parameters
    ----------
    f : StateMap
        Or another class with its methods.
    X0 : Tensor, shape (m, n), optional
    solver, adjoint, keep_states, throw, paces
        As for `solve`.

    Raises
    ------
    RuntimeError
        Where torch traces or exports: the record of one solve would not be one for other inputs.
    ConvergenceError
        As `equilibrium`.
    """
    refuse_traced()
    with full_precision(f.tensors[0]):
        if isinstance(adjoint, Unrolled) and _followed(f.tensors):
            if under_vmap():
                raise RuntimeError("Unrolled() has no vmap, since each sample ends at its own "
                                   "step: use adjoint=Implicit().")
            solution = run(f, f.zero(), solver, keep_states, lean=not keep_states,
                           watch=current())
        else:
            solution = _Solve(f, solver, adjoint, keep_states, paces).at(X0)
    return told(solution, throw)


def _followed(tensors: Sequence[Tensor]) -> bool:
    """Whether someone differentiates or transforms what is made of these tensors."""
    return torch.is_grad_enabled() and any(T.requires_grad for T in tensors) or followed()


@dataclass
class _Solve:
    """One solve: what is asked for, and in the end the solution."""

    f: StateMap
    solver: Solver
    adjoint: Adjoint = Implicit()
    keep_states: bool = False
    paces: Sequence[Pace] = ()
    # Of the forward pass: a backward pass on a GPU runs in a thread of its own.
    watch: Unwatched | None = field(default_factory=current)
    solution: Solution = None  # type: ignore[assignment]
    solved: bool = False

    def __post_init__(self) -> None:
        # As they are now, so that every pass through one graph gives the same numbers; what is
        # learnt counts from the next backward pass on, so that equal inputs give equal outputs.
        self.own = [replace(pace) for pace in self.paces]
        self.back = self.paces[1].steps if len(self.paces) > 1 else 0

    def learnt(self) -> None:
        """Hand what this solve took on to the next training step."""
        for pace, own in zip(self.paces, self.own, strict=True):
            pace.steps = own.steps

    def at(self, X0: Tensor | None) -> Solution:
        """The solution, its value with derivatives."""
        if not _followed(self.f.tensors):
            self.run(self.f, X0)
            return self.solution
        value = _Equilibrium.apply(self, X0, *self.f.tensors)
        solution, self.solution = self.solution, None
        return replace(solution, value=value)

    def run(self, f: StateMap, X0: Tensor | None) -> Tensor:
        """The value alone; of several solves that torch.vmap makes, the worst is reported."""
        start = f.zero() if X0 is None else X0
        solution = run(f, start, self.solver, self.keep_states, lean=not self.keep_states,
                       watch=self.watch, pace=self.own[0] if self.own else None)
        self.solved = solution.status.ok
        if self.solution is None or not self.solved:
            self.solution = solution
        return solution.value

    def derivative(self, f: StateMap, solver: Solver, name: str) -> Tensor:
        """The fixed point of a linear map that a derivative is; itself differentiable."""
        back = _Solve(f, solver, watch=self.watch,
                      paces=self.paces[1:] if name == "adjoint" else ())
        for pace in back.own:
            pace.steps = self.back
        solution = back.at(None)
        if back.own:
            self.learnt()
            back.learnt()
        if solution.status.ok:
            return solution.value
        stats = solution.stats
        lost = ~stats.residual.isfinite()
        left = int((~stats.converged & ~lost).sum())
        if left:
            worst = float(stats.relative[~lost].max())
            # (Without a tolerance so many steps were wanted, whatever comes of them.)
            refused = self.solved and solver.rtol + solver.atol > 0
            if refused and worst > 0.1 and solution.status is Status.DIVERGED:
                raise ConvergenceError(
                    f"the {name} solve diverged, with a relative residual of {worst:.2e}, and "
                    f"there is no gradient to give: {solver} does not solve it. Give "
                    f"adjoint=Implicit(solver) another, PeacemanRachford() for a monotone A.")
            warn(f"the {name} solve stopped early ({solution.status.value}): in {left} of "
                 f"{len(lost)} samples the relative residual is up to {worst:.2e} after "
                 f"{stats.steps} steps, so gradients are inexact. Lower kappa, or give "
                 f"adjoint=Implicit(solver) more steps.")
        if lost.any() and len(solution.value) == len(lost):  # handed on as they are, as torch does
            return torch.where(lost[:, None], f(f.zero()), solution.value)
        return solution.value


_ONCE = "{} has no second derivatives, being no derivative itself: use Implicit() or Unrolled()."


class _Equilibrium(Function):
    """The solution X (m, n) of X = f(X) as a function of the tensors that f is made of."""

    @staticmethod
    def forward(task: _Solve, X0: Tensor | None, *tensors: Tensor) -> Tensor:
        plain = all(T is own for T, own in zip(tensors, task.f.tensors, strict=True))
        f = task.f if plain else task.f.of(tensors)  # a transform hands its own tensors on
        return task.run(f, X0).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.task, _, *tensors = inputs
        ctx.save_for_backward(output, *tensors)
        ctx.save_for_forward(output, *tensors)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        if torch._C._functorch.is_legacy_batchedtensor(g):
            raise RuntimeError("is_grads_batched=True and vectorize=True use an older vmap, which "
                               "knows no rules of others: use torch.func.vjp with torch.vmap.")
        X, *tensors = ctx.saved_tensors
        task, wanted = ctx.task, ctx.needs_input_grad[2:]
        how = task.adjoint
        with full_precision(X):
            f = task.f.of(tensors)
            if isinstance(how, Phantom):
                found = _phantom(f, X, g, how, wanted)
            else:
                to_solve = f.adjoint(X, g)
                if isinstance(how, Implicit):
                    solver = how.solver or looser(task.solver)
                    V = task.derivative(to_solve, solver, "adjoint")
                else:
                    V = to_solve(to_solve.zero())
                    for _ in range(how.terms - 1):
                        V = to_solve(V)
                found = f.pull(X, V, g, wanted)
        if torch.is_grad_enabled() and not isinstance(how, Implicit):
            found = [None if T is None else once(T, _ONCE.format(how), g, X, *tensors)
                     for T in found]
        return None, None, *found

    @staticmethod
    def jvp(ctx, _, __, *change: Tensor | None) -> Tensor:
        one_tangent()
        X, *tensors = ctx.saved_tensors
        with full_precision(X):
            to_solve, direct = ctx.task.f.of(tensors).tangent(X, change)
            moved = ctx.task.derivative(to_solve, ctx.task.solver, "tangent")
        return moved if direct is None else moved + direct

    @staticmethod
    def vmap(info, in_dims: tuple, task: _Solve, X0: Tensor | None, *tensors: Tensor
             ) -> tuple[Tensor, int]:
        size, shared = info.batch_size, task.f.shared
        given, dims = (X0, *tensors), in_dims[1:]

        def each(k: int) -> list[Tensor | None]:
            return [T if d is None else T.select(d, k) for T, d in zip(given, dims, strict=True)]

        if any(d is not None for d in dims[1:1 + shared]):  # each its own matrix
            return torch.stack([_Equilibrium.apply(task, *each(k)) for k in range(size)]), 0
        flat = [T if T is None or 0 < k <= shared else
                (T.expand(size, *T.shape) if d is None else T.movedim(d, 0)).flatten(0, 1)
                for k, (T, d) in enumerate(zip(given, dims, strict=True))]
        return _Equilibrium.apply(task, *flat).unflatten(0, (size, -1)), 0


# `apply` asks for the signature at every call; finding it anew takes longer than a small step.
_Equilibrium.forward.__signature__ = inspect.signature(_Equilibrium.forward)


@functools.cache
def looser(solver: Solver) -> Solver:
    """The forward equation's solver with the tolerance that is enough for its adjoint.

    Parameters
    ----------
    solver : Solver
    """
    # A gradient is of another size than the states: nothing absolute is meant for it.
    return replace(solver, rtol=min(100 * solver.rtol, max(solver.rtol, 1e-4)), atol=0.0)


def _phantom(f: StateMap, X: Tensor, g: Tensor, how: Phantom, wanted: Sequence[bool]
             ) -> list[Tensor | None]:
    """Gradients of damped steps from X."""
    def steps(*tensors: Tensor) -> Tensor:
        again, x = f.of(tensors), X
        for _ in range(how.steps):
            x = torch.lerp(x, again(x), how.damping)
        return x

    found = torch.func.vjp(steps, *f.tensors)[1](g)
    return [T if want else None for T, want in zip(found, wanted, strict=True)]
