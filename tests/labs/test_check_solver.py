"""Lab 08's checker asks for work on its own problem; test_exercises.py has the other answers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from idl_lab.labs import check
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import BaseSolver


class Learnt(BaseSolver):
    """Yields a matrix of the right shape that solves some other problem."""

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        while True:
            yield torch.full(problem.shape, 0.1, dtype=torch.float64, device="cpu")


class Failing(BaseSolver):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield problem.zeros()
        raise ArithmeticError("no further")


def test_an_answer_found_elsewhere_is_not_near_the_optimum():
    verdict = check.sim_solvers.own_solver(Learnt)
    assert not verdict.right and "above the optimum" in verdict.sentence


def test_what_it_raises_is_said():
    assert "ArithmeticError: no further" in check.sim_solvers.own_solver(Failing).sentence


def test_the_verdict_says_how_near_it_came():
    verdict = check.sim_solvers.own_solver(check.sim_solvers.Momentum)
    assert verdict.right and "300 steps end 0.3% above" in verdict.sentence
