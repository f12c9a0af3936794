"""The loop over time as one differentiable function of its matrices and of what the inputs add.

    [b_t; r_t] = fed_t + W h_{t−1},    x_t = φ(A x_t + b_t),    h_t = C x_t + r_t

with fed_t the part of [B; D] v_t that is of u, and W the columns of [B; D] that are of h. Backwards,
with g_t the gradient of h_t and S = diag φ′ at x_t, v_t = S (Aᵀ v_t + Cᵀ g_t) is the gradient of
b_t and Wᵀ [v_t; g_t] what h_{t−1} gets; those of the matrices are one product each, over all times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from idl_lab.activations import Activation
from idl_lab.equilibrium import Adjoint, Implicit, Unrolled, solve
from idl_lab.extras import never_compiled
from idl_lab.fixed_point import Solver, run
from idl_lab.fixed_point.solution import Status, warn
from idl_lab.operators import Operator, StateMap, from_leaves, gradients, leaves, transpose


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

    def loop(self, fed: Tensor, h: Tensor, W: Tensor, C: Tensor, A: Operator
             ) -> tuple[Tensor, Tensor, Tensor]:
        """h_t at every time, the last one of every sequence, and x_t at every time.

        Parameters
        ----------
        fed : Tensor, shape (steps, n + hidden)
            Time after time.
        h : Tensor, shape (batch, hidden)
            Before the first step.
        W, C : Tensor, shapes (n + hidden, hidden) and (hidden, n)
        A : Tensor, shape (n, n), or LowRank
        """
        n, back, forth = C.shape[1], W.mT, C.mT
        # Started at a solution, an unrolled gradient would see one step and be a one-step gradient.
        warm = not isinstance(self.adjoint, Unrolled)
        x, states, hidden, ended = None, [], [], []
        for now in fed.split(self.sizes):
            if len(now) < len(h):
                ended.append(h[len(now):])
                h, x = h[:len(now)], x[:len(now)]
            now = torch.addmm(now, h, back)
            x = solve(A, now[:, :n], self.phi, x if warm else None, self.solver,
                      self.adjoint).value
            h = torch.addmm(now[:, n:], x, forth)
            states.append(x)
            hidden.append(h)
        return torch.cat(hidden), torch.cat([h, *reversed(ended)]), torch.cat(states)


@never_compiled
def over_time(steps: Steps, fed: Tensor, h: Tensor, W: Tensor, C: Tensor, A: Operator
              ) -> tuple[Tensor, Tensor]:
    """`Steps.loop`, differentiable in whichever way is asked for: the first two of its results.

    Parameters
    ----------
    steps : Steps
    fed, h, W, C, A
        As for `Steps.loop`.
    """
    own = (isinstance(steps.adjoint, Implicit) and torch.is_grad_enabled()
           and not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0
           and not torch.jit.is_tracing())
    if own:
        return _OverTime.apply(steps, fed, h, W, C, *leaves(A))
    return steps.loop(fed, h, W, C, A)[:2]


class _OverTime(torch.autograd.Function):
    """`Steps.loop` without a record of its operations: the backward pass is a loop of its own."""

    @staticmethod
    def forward(ctx, steps: Steps, fed: Tensor, h: Tensor, W: Tensor, C: Tensor, *A: Tensor
                ) -> tuple[Tensor, Tensor]:
        hidden, last, X = steps.loop(fed, h, W, C, from_leaves(A))
        ctx.steps = steps
        ctx.save_for_backward(hidden, X, fed, h, W, C, *A)
        return hidden, last

    @staticmethod
    def backward(ctx, g: Tensor, g_last: Tensor) -> tuple[Tensor | None, ...]:
        hidden, X, fed, h, W, C, *A = ctx.saved_tensors
        if torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(g):
            return None, *_recorded(ctx.steps, (fed, h, W, C, *A), (g, g_last))
        steps, n, A = ctx.steps, C.shape[1], from_leaves(tuple(A))
        sizes, At = steps.sizes, transpose(A)
        solver = steps.adjoint.solver or replace(steps.solver, rtol=100 * steps.solver.rtol)
        carry, early, parts = g_last[:0], [], []
        before = [h, *(part[:k] for part, k in zip(hidden.split(sizes), sizes[1:]))]
        injection = None
        if steps.phi.slope_of_value is None:
            injection = (fed + torch.cat(before) @ W.mT)[:, :n]
        S = StateMap(A, X if injection is None else injection, steps.phi).slope(X, X)
        for s, now in zip(reversed(S.split(sizes)), reversed(g.split(sizes)), strict=True):
            if len(carry) < len(now):
                carry = torch.cat([carry, g_last[len(carry):len(now)]])
            now = now + carry
            adjoint = StateMap(At, now @ C, steps.phi, s)
            solution = run(adjoint, adjoint.zero(), solver, lean=True)
            if not solution.status.ok:
                early.append(solution.status)
            both = torch.cat([solution.value, now], dim=1)
            carry = both @ W
            parts.append(both)
        if early:
            _warn(early, len(sizes))
        both = torch.cat(parts[::-1])
        V = both[:, :n]
        return (None, both, carry, both.mT @ torch.cat(before), both[:, n:].mT @ X,
                *gradients(A, V, X))


def _recorded(steps: Steps, inputs: Sequence[Tensor], grads: Sequence[Tensor]
              ) -> Sequence[Tensor | None]:
    """The gradient by a record of all operations, which has derivatives of its own."""
    wanted = [T for T in inputs if T.requires_grad]
    with torch.enable_grad():
        outputs = steps.loop(*inputs[:4], from_leaves(tuple(inputs[4:])))[:2]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=torch.is_grad_enabled(),
                                     allow_unused=True))
    return [next(found) if T.requires_grad else None for T in inputs]


def _warn(early: Sequence[Status], time: int) -> None:
    warn(f"the adjoint solves of {len(early)} of {time} time steps stopped early (the last: "
         f"{early[-1].value}), so gradients are inexact. Lower kappa, or give "
         f"adjoint=Implicit(solver) more steps.")
