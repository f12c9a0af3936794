"""The checker of lab 08: momentum passes, plain steps do not, and no answer makes it raise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from sim_cases import Fista, data, optimum, problem
from torch import Tensor

from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Outcome, Verdict
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import BaseSolver

OPTIONS = {"lam": 0.5, "kappa": 0.9, "ball": 7}
SCALES = np.logspace(0, -2, 12)


@dataclass(frozen=True, kw_only=True)
class Plain(BaseSolver):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        step = 1 / problem.spectrum[0].amax()
        W = problem.zeros()
        while True:
            W = problem.prox(W - step * problem.gradient(W), step)
            yield W


@dataclass(frozen=True, kw_only=True)
class Outside(Plain):
    honours_kappa: ClassVar[bool] = False

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield problem.zeros() + 1


@dataclass(frozen=True, kw_only=True)
class Failing(Plain):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield problem.zeros()[:, :3]


def verdict(answer) -> Verdict:
    Phi, T = data()
    best = optimum(Phi * SCALES, T, **OPTIONS).sum()
    return check.sim_solvers.own_solver(answer, problem(Phi * SCALES, T, **OPTIONS), optimum=best,
                                        within=0.001, steps=100)


def test_momentum_is_right_and_plain_steps_are_too_slow():
    assert verdict(Fista).right and "100 steps" in verdict(Fista).sentence
    slow = verdict(Plain)
    assert slow.outcome is Outcome.HINT and "above the optimum" in slow.sentence


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (..., Outcome.NOT_ATTEMPTED, "subclass of BaseSolver"),
    (3, Outcome.HINT, "no subclass of BaseSolver but 3"),
    (Fista(), Outcome.HINT, "no subclass"),
    (BaseSolver, Outcome.HINT, "It raises TypeError"),
    (Failing, Outcome.HINT, "It raises"),
    (Outside, Outcome.HINT, "not in the ball"),
])
def test_other_answers_get_a_hint(answer, outcome, words):
    found = verdict(answer)
    assert found.outcome is outcome and words in found.sentence
