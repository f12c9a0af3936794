"""Lab 08's checker asks for work on its own problem; test_exercises.py has the other answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch
from sim_cases import data, problem
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


@pytest.mark.parametrize(("written", "raced"), [
    (..., ["ADMM", "proximal gradient", "with momentum"]), (3, ["ADMM", "proximal gradient",
                                                                "with momentum"]),
    (Learnt, ["ADMM", "proximal gradient", "with momentum", "yours"])])
def test_the_race_of_lab_08_shows_the_solver_that_the_reader_wrote(written, raced):
    """Right or wrong: its curve says what it lacks. Untouched, there is none."""
    [lab] = (Path(__file__).parents[2] / "notebooks").glob("08_*.ipynb")
    [cell] = [cell for cell in nbformat.read(lab, as_version=4).cells
              if cell.cell_type == "code" and "contenders" in cell.source]
    quiet, drawn = {"device": "cpu", "progress": False}, {}
    given = problem(*data(), lam=0.5, kappa=0.9, ball=7)
    done = Learnt(max_steps=2, **quiet).solve(given)
    exec(compile(cell.source, "the race", "exec"), {
        "MySolver": written, "SolverSolution": check.sim_solvers.Momentum, "STEPS": 2, "on": quiet,
        "BaseSolver": BaseSolver, "problem": given, "by": [done], "plain": done, "kappa": 0.9,
        "draw_solves": lambda runs, *_, **__: drawn.update(runs)})
    assert list(drawn) == raced and all(run.stats.steps == 2 for run in drawn.values())
