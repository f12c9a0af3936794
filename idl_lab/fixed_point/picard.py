"""Picard iteration, the plain repetition of f."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab.fixed_point.solver import Map, Solver, State, measure


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

    def step(self, f: Map, x: Tensor, state: State, skip: int = 0) -> tuple[Tensor, Tensor, State]:
        """``skip`` evaluations of f and a tested one: the next iterate, f(x) and the state."""
        for _ in range(skip):
            x = self._mixed(x, f(x))
        fx = f(x)
        return self._mixed(x, fx), fx, measure(x, fx, state, self.tol, skip)

    def _mixed(self, x: Tensor, fx: Tensor) -> Tensor:
        return fx if self.damping == 1 else torch.lerp(x, fx, self.damping)

    def untested(self, state: State) -> int:
        """How many steps the residuals so far say are needed, less one.

        At most as many as were taken, since early rates mislead: no solve is twice too long.
        """
        if not 0 < state.rate < 1:
            wanted = 2
        else:
            wanted = math.log(max(self.tol, 1e-300) / state.worst) / math.log(state.rate)
        left = self.max_steps - state.steps
        return max(min(math.ceil(wanted) - 1, state.steps, 15, left - 1), 0)
