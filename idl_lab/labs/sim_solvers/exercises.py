"""The exercise of lab 08: a solver of one's own, tried on a problem that it has not seen."""

from __future__ import annotations

import contextlib
import math
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import FrameType
from typing import ClassVar

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example
from idl_lab.labs.kit.problems import generator, normal
from idl_lab.sim import solvers
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, BaseSolver, SolveResult

STEPS, WITHIN = 300, 0.02
READY = tuple(kind for kind in vars(solvers).values() if isinstance(kind, type)
              and issubclass(kind, BaseSolver) and kind is not BaseSolver)
INHERITED = ("base", "incumbent", "result")  # what every solver works with
READY_CODE = {f"{solvers.__name__}.{module.name}"
              for module in pkgutil.iter_modules(solvers.__path__)
              if module.name not in INHERITED}


@dataclass(frozen=True, kw_only=True)
class Momentum(BaseSolver):
    """FISTA (Beck and Teboulle 2009), and without its momentum the plain proximal gradient."""

    momentum: ClassVar[float] = 1.0

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        """Each step from a point beyond the last one, in the direction of the last move."""
        step, t = 1 / problem.spectrum[0].amax(), 1.0
        W = ahead = problem.zeros()
        while True:
            before, W = W, problem.prox(ahead - step * problem.gradient(ahead), step)
            last, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
            ahead = W + self.momentum * (last - 1) / t * (W - before)
            yield W


class _Plain(Momentum):
    momentum: ClassVar[float] = 0.0


class _Outside(Momentum):
    honours_kappa: ClassVar[bool] = False

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield problem.zeros() + 1


class _Solved(Momentum):
    def solve(self, problem: Problem, watch: object = None) -> SolveResult:
        return ADMMSolver(device="cpu", progress=False).solve(problem)


class _Elsewhere(Momentum):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield torch.zeros(48, 112, dtype=torch.float64, device="cpu")


class _Relayed(Momentum):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield from ADMMSolver(device="cpu", progress=False).iterates(problem)


class _Asked(Momentum):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        W = ADMMSolver(tol=1e-9, device="cpu", progress=False).solve(problem).W
        while True:
            yield W


def _fresh() -> Problem:
    """Six rows of twenty unknowns, whose features differ a hundredfold; their ball binds."""
    draws = generator()
    Phi = normal(60, 20, generator=draws) * torch.logspace(
        0, -2, 20, dtype=torch.float64, device="cpu")
    T = 0.4 * Phi @ normal(20, 6, generator=draws) + 0.05 * normal(60, 6, generator=draws)
    return Problem(Phi.mT @ Phi, T.mT @ Phi, T.square().sum(dim=0), lam=1e-3, kappa=0.9, ball=7)


class _Trial:
    """An answer at work: computed as far as a condition asks."""

    def __init__(self, answer: object) -> None:
        self.answer, self.problem = answer, _fresh()
        self.borrowed = ""  # what of the library's own solvers it ran

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        # Seen call by call, in this thread alone: patched solvers would fail a panel that has one
        # running behind it, and a look at the source misses what is called through another name.
        def see(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if (event == "call" and frame.f_globals.get("__name__") in READY_CODE
                    and not code.co_name.startswith("__")):  # made, but not run
                self.borrowed = self.borrowed or code.co_qualname

        before = sys.getprofile()
        sys.setprofile(see)
        try:
            yield
        finally:
            sys.setprofile(before)

    @cached_property
    def solver(self) -> BaseSolver:
        return self.answer(max_steps=STEPS, check_every=STEPS // 20, device="cpu", progress=False)

    @property
    def first(self) -> object:
        with self._watched():
            W = next(iter(self.solver.iterates(self.problem)))
        return W[0] if isinstance(W, tuple) else W

    @cached_property
    def rows(self) -> SolveResult:
        with self._watched():
            return self.solver.solve(self.problem)

    @cached_property
    def above(self) -> float:
        """How far the answer is above the optimum, which ADMM certifies to nine digits."""
        best = ADMMSolver(tol=1e-9, device="cpu", progress=False).solve(self.problem)
        above = float(self.problem.objective(self.rows.W).sum() / best.stats.objective.sum()) - 1
        return max(above, 0.0)  # ADMM's own rounding is no merit; NaN stays NaN


own_solver = Example(
    look=_Trial,
    conditions=[
        (lambda trial: isinstance(trial.answer, type) and issubclass(trial.answer, BaseSolver),
         "That is no subclass of BaseSolver but {0.answer!r}."),
        (lambda trial: not issubclass(trial.answer, READY),
         "{0.answer.__name__} is one of the library's solvers, or inherits from one: inherit from "
         "BaseSolver itself and write iterates."),
        (lambda trial: trial.answer.solve is BaseSolver.solve,
         "Leave solve as it is inherited, and write iterates."),
        (lambda trial: getattr(trial.first, "shape", None) == trial.problem.shape,
         "The first W of your iterates has not the shape {0.problem.shape} of the problem that it "
         "was given: use that one, and no matrix from elsewhere."),
        (lambda trial: trial.rows and not trial.borrowed,
         "It let {0.borrowed} of the library work: compute each W yourself, from problem.gradient "
         "and problem.prox."),
        (lambda trial: not (trial.problem.violation(trial.rows.W) > 0).any(),
         "Its answer is not in the ball: do not turn honours_kappa off."),
        (lambda trial: trial.above <= WITHIN,  # not for NaN
         f"After {{0.rows.stats.steps}} steps the objective is {{0.above:.0%}} above the optimum; "
         f"the aim is {WITHIN:.0%}. Does the next step start beyond W, in the direction in which W "
         f"moved, and ever further?"),
    ],
    what="a subclass of BaseSolver",
    praise="On a problem that it had not seen, {0.rows.stats.steps} steps end {0.above:.1%} above "
           "the optimum.",
    right=Momentum,
    slips={"no subclass of BaseSolver but 3": 3, "but Momentum(": Momentum(progress=False),
           "instantiate abstract class": BaseSolver,
           "ADMMSolver is one of the library's": ADMMSolver,
           "or inherits from one": type("Mine", (ADMMSolver,), {}),
           "Leave solve as it is": _Solved,
           "It let ADMMSolver.iterates of the library": _Relayed,
           "compute each W yourself": _Asked,
           "has not the shape (6, 20)": _Elsewhere, "not in the ball": _Outside,
           "above the optimum; the aim is 2%": _Plain})
