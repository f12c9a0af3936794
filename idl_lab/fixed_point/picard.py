"""Picard iteration, the plain repetition of f."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from idl_lab.fixed_point.solver import Map, Solver, SolverState, measure

_FURTHEST = 15  # steps at most without a test, so that a wrong guess costs little


@dataclass
class Pace:
    """How many steps the last solve of its kind needed, so that the next is tested about then.

    A test costs as much as several steps of a small solve, and on a GPU a wait; a training step's
    solves are like those of the step before.

    Attributes
    ----------
    steps : int
        Before the first test; 0 where nothing is known.
    """

    steps: int = 0

    @staticmethod
    def after(solver: Solver, state: SolverState) -> int:
        """The steps for the next solve after one that ended, or 0 if it did not converge.

        Parameters
        ----------
        solver : Solver
        state : SolverState
            At its end.
        """
        # From a relative residual of about 1 down to worst · rtol, at one rate.
        rate = (state.worst * solver.rtol) ** (1 / state.steps) if state.worst <= 1 else 0.0
        spare = int(math.log(state.worst) / math.log(rate)) if 0 < rate < 1 else 1
        return max(state.steps - spare, 1) if state.worst <= 1 else 0


@dataclass(frozen=True)
class Picard(Solver):
    """Picard iteration x ← (1 − β) x + β f(x), with damping β.

    Parameters
    ----------
    rtol, atol, max_steps, damping
        As for `Solver`.
    """

    def step(self, f: Map, x: Tensor, state: SolverState, skip: int = 0
             ) -> tuple[Tensor, Tensor, SolverState]:
        """``skip`` evaluations of f and a tested one: the next iterate, f(x) and the state.

        Parameters
        ----------
        f : callable
            (m, n) to (m, n), each sample on its own.
        x : Tensor, shape (m, n)
        state : SolverState
        skip : int
            Steps taken before the one that is tested.
        """
        for _ in range(skip):
            x = f(x) if self.damping == 1 else self.mix(x, f(x))
        fx = f(x)
        image = self.damping == 1 and state.steps + skip > 0
        return self.mix(x, fx), fx, measure(self, x, fx, state, image=image, skipped=skip)

    def untested(self, state: SolverState) -> int:
        """How many steps the residuals so far say are needed, less one.

        At most as many as were taken, since early rates mislead: no solve is twice too long.

        Parameters
        ----------
        state : SolverState
        """
        if not 0 < state.rate < 1:
            wanted = 2  # no rate is known yet: one step unseen, then a test
        else:
            wanted = -math.log(state.worst) / math.log(state.rate)
        left = self.max_steps - state.steps
        return max(min(math.ceil(wanted) - 1, state.steps, _FURTHEST, left - 1), 0)
