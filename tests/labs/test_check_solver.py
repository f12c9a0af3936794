"""Lab 08's checker asks for work on its own problem; test_exercises.py has the other answers."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from sim_cases import data, problem
from torch import Tensor

from idl_lab.labs import check
from idl_lab.labs.sim_solvers import Momentum
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, BaseSolver

QUIET = {"device": "cpu", "progress": False}


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


class Written(BaseSolver):
    """A reader's own, as the notebook asks for it."""

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        step, t = 1 / problem.spectrum[0].max(), 1.0
        W = ahead = problem.zeros()
        while True:
            before, W = W, problem.prox(ahead - step * problem.gradient(ahead), step)
            last, t = t, (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead = W + (last - 1) / t * (W - before)
            yield W


class Relayed(BaseSolver):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        yield from ADMMSolver(**QUIET).iterates(problem)


class Asked(BaseSolver):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        W = ADMMSolver(tol=1e-9, **QUIET).solve(problem).W
        while True:
            yield W


class Sliced(BaseSolver):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        return itertools.islice(ADMMSolver(**QUIET).iterates(problem), 300)


class Passed(BaseSolver):
    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        return ADMMSolver(**QUIET).iterates(problem)


class Above(ADMMSolver):
    def iterates(self, problem: Problem, start: Any = None) -> Iterator[Tensor]:
        yield from super().iterates(problem, start)


class Bound(BaseSolver):
    iterates = functools.partialmethod(ADMMSolver.iterates)


class Renamed(BaseSolver):
    iterates = types.FunctionType(ADMMSolver.iterates.__code__.replace(co_name="mine"),
                                  ADMMSolver.iterates.__globals__)


class Prepared(BaseSolver):
    """Solves while it is made."""

    def __post_init__(self) -> None:
        super().__post_init__()
        [condition, *_] = check.sim_solvers.own_solver.exercise.conditions
        fresh = condition[0].__globals__["_fresh"]()
        object.__setattr__(self, "W", ADMMSolver(tol=1e-9, **QUIET).solve(fresh).W)

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        while True:
            yield self.W


def test_the_verdict_says_how_near_it_came():
    verdict = check.sim_solvers.own_solver(Written)
    assert verdict.right and "300 steps end 0.3% above" in verdict.sentence


@pytest.mark.parametrize("cheat", [Relayed, Asked, Sliced, Passed, Above, Bound, Renamed,
                                   Prepared, Momentum, ADMMSolver,
                                   type("Mine", (ADMMSolver,), {}),
                                   type("Mine", (Momentum,), {})])
def test_a_solver_of_the_library_earns_nothing_however_it_is_dressed(cheat):
    verdict = check.sim_solvers.own_solver(cheat)
    assert not verdict.right and verdict.points == 0, verdict


@pytest.mark.parametrize(("written", "raced"), [
    (..., ["ADMM", "proximal gradient", "with momentum"]), (3, ["ADMM", "proximal gradient",
                                                                "with momentum"]),
    (Learnt, ["ADMM", "proximal gradient", "with momentum", "yours"])])
def test_the_race_of_lab_08_shows_the_solver_that_the_reader_wrote(written, raced):
    """Right or wrong: its curve says what it lacks. Untouched, there is none."""
    [lab] = (Path(__file__).parents[2] / "notebooks").glob("08_*.ipynb")
    [cell] = [cell for cell in nbformat.read(lab, as_version=4).cells
              if cell.cell_type == "code" and "contenders" in cell.source]
    drawn = {}
    given = problem(*data(), lam=0.5, kappa=0.9, ball=7)
    done = Learnt(max_steps=2, **QUIET).solve(given)
    exec(compile(cell.source, "the race", "exec"), {
        "MySolver": written, "STEPS": 2, "on": QUIET,
        "BaseSolver": BaseSolver, "problem": given, "by": [done], "plain": done, "kappa": 0.9,
        "draw_solves": lambda runs, *_, **__: drawn.update(runs)})
    assert list(drawn) == raced and all(run.stats.steps == 2 for run in drawn.values())
