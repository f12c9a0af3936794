"""The loop over time as one differentiable function of its matrices and of what the inputs add.

    [b_t; r_t] = W [u_t; h_{t−1}] + bias,    x_t = φ(A x_t + b_t),    h_t = C x_t + r_t

with W = [B; D]. Backwards, with g_t the gradient of h_t and S = diag φ′ at x_t, the gradient of b_t
is v_t = S (Aᵀ v_t + Cᵀ g_t), and h_{t−1} gets its part of Wᵀ [v_t; g_t]; those of the matrices are
one product each, over all times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from idl_lab import unwatched
from idl_lab.activations import Activation
from idl_lab.equilibrium import Adjoint, Implicit, Unrolled, looser, solve
from idl_lab.extras import full_precision
from idl_lab.fixed_point import Picard, Solver, run, told
from idl_lab.fixed_point.solution import Solution, Status, one_warning
from idl_lab.operators import LowRank, Operator, gradients, leaves, transpose
from idl_lab.state_map import StateMap

# A solve that needs more steps is slow: its tests then cost little, and tell of trouble.
_FEW_STEPS, _FEW_TESTS = 32, 3


class SimilarSolves:
    """Solves of equations that are like one another, each tested after the steps of the last.

    A test for convergence costs as much as several steps of a small solve, and the equations of
    neighbouring times take about as many. A solve that does not end so is taken up by the
    ordinary loop, and so is every one whose solver is not an undamped Picard.

    Parameters
    ----------
    solver : Solver
    report : callable
        Is given each `Solution` that ended in another way than converged.
    """

    def __init__(self, solver: Solver, report: Callable[[Solution], object]) -> None:
        self.solver, self.report = solver, report
        self._picard = solver if isinstance(solver, Picard) and solver.damping == 1 else None
        self._steps, self._rate = 0, 0.0  # that the last solve took; its residual's factor a step

    def __call__(self, f: StateMap, x: Tensor | None = None) -> Tensor:
        """The fixed point of f (m, n).

        Parameters
        ----------
        f : StateMap
        x : Tensor, shape (m, n), optional
            The start, zero by default.
        """
        start = f.zero() if x is None else x
        if self._picard and self._steps and len(start):
            x, state, skip = start, self._picard.init(start), self._steps - 1
            for _ in range(_FEW_TESTS):
                x, _, state = self._picard.step(f, x, state, skip)
                if state.point is not None and state.worst <= 1:
                    spare = math.log(max(state.worst, 1e-9)) / math.log(self._rate)
                    self._steps = max(state.steps - int(spare), 2)
                    return state.point
                skip = self._picard.untested(state)
            start = x if math.isfinite(state.worst) else start
        solution = run(f, start, self.solver, lean=True)
        steps, self._steps = solution.stats.steps, 0
        if solution.status is not Status.CONVERGED:
            self.report(solution)
        elif 0 < steps <= _FEW_STEPS:
            worst = solution.trace.worst
            first, last = torch.stack([worst[0], worst[-1]]).tolist()
            fell = last / first if first > 0 else 0.0
            self._steps = max(steps, 2)
            self._rate = min(max(fell ** (1 / max(steps - 1, 1)), 0.05), 0.95)
        return solution.value


@dataclass(frozen=True)
class Steps:
    """What the time steps have in common, apart from tensors.

    Attributes
    ----------
    sizes : list of int
        How many sequences, the first ones, run at each time.
    phi : Activation
    solver : Solver
    adjoint : Adjoint
    """

    sizes: list[int]
    phi: Activation
    solver: Solver
    adjoint: Adjoint

    def loop(self, u: Tensor, h: Tensor, W: Tensor, bias: Tensor | None, C: Tensor,
             find: Callable[[Tensor, Tensor | None], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """h_t at every time, the last one of every sequence, and x_t at every time.

        Parameters
        ----------
        u : Tensor, shape (steps, p)
            Time after time.
        h : Tensor, shape (batch, hidden)
            Before the first step.
        W, bias : Tensor, shapes (n + hidden, p + hidden) and (n + hidden,)
        C : Tensor, shape (hidden, n)
        find : callable
            Gives x_t for b_t, from a start: the state of the step before.
        """
        n, p = C.shape[1], u.shape[1]
        # What is of u for all times at once; the rest is left to the loop.
        fed, back, forth = nn.functional.linear(u, W[:, :p], bias), W[:, p:].mT, C.mT
        x, states, hidden, ended = None, [], [], []
        for now in fed.split(self.sizes):
            if len(now) < len(h):
                ended.append(h[len(now):])
                h, x = h[:len(now)], x[:len(now)]
            now = torch.addmm(now, h, back)
            x = find(now[:, :n], x)
            h = torch.addmm(now[:, n:], x, forth)
            states.append(x)
            hidden.append(h)
        return torch.cat(hidden), torch.cat([h, *reversed(ended)]), torch.cat(states)

    def recorded(self, u: Tensor, h: Tensor, W: Tensor, bias: Tensor | None, C: Tensor,
                 A: Operator) -> tuple[Tensor, Tensor]:
        """The first two of `loop`, by operations that torch can differentiate and transform.

        Parameters
        ----------
        u, h, W, bias, C
            As for `loop`.
        A : Tensor, shape (n, n), or LowRank
        """
        # Started at a solution, an unrolled gradient would see one step and be a one-step gradient.
        warm = not isinstance(self.adjoint, Unrolled)
        return self.loop(u, h, W, bias, C, lambda b, x: solve(
            A, b, self.phi, x if warm else None, self.solver, self.adjoint).value)[:2]

    def unrecorded(self, u: Tensor, h: Tensor, W: Tensor, bias: Tensor | None, C: Tensor,
                   A: Operator) -> tuple[Tensor, Tensor, Tensor]:
        """`loop` without derivatives.

        Parameters
        ----------
        u, h, W, bias, C, A
            As for `recorded`.
        """
        solved = SimilarSolves(self.solver, told)
        return self.loop(u, h, W, bias, C, lambda b, x: solved(StateMap(A, b, self.phi), x))


def over_time(steps: Steps, u: Tensor, h: Tensor, W: Tensor, bias: Tensor | None, C: Tensor,
              A: Operator) -> tuple[Tensor, Tensor]:
    """The first two of `Steps.loop`, differentiable in whichever way is asked for.

    Parameters
    ----------
    steps : Steps
    u, h, W, bias, C, A
        As for `Steps.recorded`.
    """
    if (torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
            or unwatched.current() is not None):
        return steps.recorded(u, h, W, bias, C, A)
    if not torch.is_grad_enabled():
        return steps.unrecorded(u, h, W, bias, C, A)[:2]
    if not isinstance(steps.adjoint, Implicit):
        return steps.recorded(u, h, W, bias, C, A)
    return _OverTime.apply(steps, u, h, W, bias, C, *leaves(A))


def _operator(tensors: Sequence[Tensor]) -> Operator:
    return LowRank(*tensors) if len(tensors) == 2 else tensors[0]


class _OverTime(torch.autograd.Function):
    """`Steps.loop` without a record of its operations: the backward pass is a loop of its own."""

    @staticmethod
    def forward(ctx, steps: Steps, u: Tensor, h: Tensor, W: Tensor, bias: Tensor | None, C: Tensor,
                *A: Tensor) -> tuple[Tensor, Tensor]:
        hidden, last, X = steps.unrecorded(u, h, W, bias, C, _operator(A))
        ctx.steps = steps
        ctx.save_for_backward(hidden, X, u, h, W, bias, C, *A)
        return hidden, last

    @staticmethod
    def backward(ctx, g: Tensor, g_last: Tensor) -> tuple[Tensor | None, ...]:
        steps, (hidden, X, *inputs) = ctx.steps, ctx.saved_tensors
        with full_precision(X):
            found = None
            if not (torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(g)):
                found = _gradients(steps, steps.adjoint.solver, hidden, X, inputs, g, g_last)
            return None, *(found or _recorded(steps, inputs, (g, g_last)))


def _gradients(steps: Steps, backward: Solver | None, hidden: Tensor, X: Tensor,
               inputs: Sequence[Any], g: Tensor, g_last: Tensor) -> Sequence[Tensor | None] | None:
    """The gradients of the inputs; None where some adjoint solve failed."""
    u, h, W, bias, C, *tensors = inputs
    A, sizes, p, n = _operator(tensors), steps.sizes, u.shape[1], C.shape[1]
    before = [h, *(part[:k] for part, k in zip(hidden.split(sizes), sizes[1:], strict=False))]
    v = torch.cat([u, torch.cat(before)], dim=1)
    # The slopes follow from X alone, or else from b too.
    b = X if steps.phi.slope_of_value else nn.functional.linear(v, W, bias)[:, :n]
    slopes, At, back = StateMap(A, b, steps.phi).slope(X, X).split(sizes), transpose(A), W[:, p:]
    others: list[Solution] = []
    solved = SimilarSolves(backward or looser(steps.solver), others.append)
    carry, parts = g_last[:0], []
    for S, now in zip(reversed(slopes), reversed(g.split(sizes)), strict=True):
        if len(carry) < len(now):  # sequences whose last step this is
            carry = torch.cat([carry, g_last[len(carry):len(now)]])
        now = now + carry
        both = torch.cat([solved(StateMap(At, now @ C, steps.phi, S)), now], dim=1)
        carry = both @ back
        parts.append(both)
    if any(not solution.status.ok for solution in others):
        return None
    both = torch.cat(parts[::-1])
    return (both @ W[:, :p] if u.requires_grad else None, carry, both.mT @ v,
            None if bias is None else both.sum(dim=0), both[:, n:].mT @ X,
            *gradients(A, both[:, :n], X))


def _recorded(steps: Steps, inputs: Sequence[Any], grads: Sequence[Tensor]
              ) -> Sequence[Tensor | None]:
    """Gradients by a record of all operations: they have derivatives, or say how solves failed."""
    again = torch.is_grad_enabled()
    wanted = [T for T in inputs if T is not None and T.requires_grad]
    with torch.enable_grad(), one_warning("a backward pass over time"):
        u, h, W, bias, C, *A = inputs
        outputs = steps.recorded(u, h, W, bias, C, _operator(A))
        found = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True,
                                         create_graph=again))
    return [next(found) if T is not None and T.requires_grad else None for T in inputs]
