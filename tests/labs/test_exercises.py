"""Every exercise: untouched, each slip, right, hard-coded, and answers that are odd."""

from __future__ import annotations

import pytest
import torch

from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Example, Exercise, Outcome
from idl_lab.labs.kit.problems import generator

EXERCISES = {checker.name: checker.exercise for lab in check.labs()
             for checker in getattr(check, lab).exercises.values()}
FUNCTIONS = {name: e for name, e in EXERCISES.items() if isinstance(e, Exercise)}
EXAMPLES = {name: e for name, e in EXERCISES.items() if isinstance(e, Example)}


class Unshown(Exception):
    """Neither `repr` nor `str` works on it; called, it raises itself."""

    def __repr__(self) -> str:
        raise ValueError("no picture of me")

    __str__ = __repr__

    def __call__(self, *arguments: object) -> None:
        raise self


ODD = [None, 3, 1.5, "x", [1.0, 2.0], {}, torch.ones(2, 3, device="cpu"), int,
       torch.ones(4, dtype=torch.complex128, device="cpu"), lambda *arguments: "x",
       Unshown(), type("Silent", (), {"__repr__": Unshown.__repr__})(),
       lambda *arguments: Unshown(), lambda *arguments: 1j, lambda: 0.0,
       lambda *arguments: arguments[0], object(),
       lambda *arguments: torch.ones(4, 4, device="cpu").to_sparse(),
       lambda *arguments: torch.tensor(float("nan"), device="cpu")]


def named(exercises: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("exercise", exercises.values(), ids=exercises)


def slips(exercises: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("exercise", "said", "slip"),
        [pytest.param(e, said, slip, id=f"{name}-{k}")
         for name, e in exercises.items() for k, (said, slip) in enumerate(e.slips.items())])


@named(EXERCISES)
def test_untouched_is_not_attempted(exercise):
    assert exercise(...).outcome is Outcome.NOT_ATTEMPTED
    assert exercise.what in exercise(...).sentence


@named(FUNCTIONS)
def test_the_right_function_is_right_whatever_it_is_given(exercise):
    assert exercise(exercise.right).right
    verdict = exercise(lambda *arguments: exercise.right(*arguments) + 1)
    assert verdict.outcome is Outcome.HINT


@named(FUNCTIONS)
def test_a_stub_that_returns_its_dots_is_not_attempted(exercise):
    assert exercise(lambda *arguments: ...).outcome is Outcome.NOT_ATTEMPTED


@named(FUNCTIONS)
def test_a_hard_coded_answer_is_not_right(exercise):
    draws = generator()
    values = [exercise.right(*exercise.inputs(draws)) for _ in range(exercise.draws)]
    assert len(values) > 1
    for value in values:
        assert exercise(lambda *arguments, value=value: value).outcome is Outcome.HINT


@named(EXERCISES)
def test_another_exercises_right_answer_is_not_right(exercise):
    for other in EXERCISES.values():
        if other is not exercise:
            assert not exercise(other.right, **getattr(exercise, "options", {})).right


@slips(FUNCTIONS)
def test_each_slip_gets_its_own_sentence(exercise, said, slip):
    assert exercise(slip).sentence == said
    assert not exercise(slip).right


@named(EXAMPLES)
def test_the_right_example_is_right(exercise):
    assert exercise(exercise.right, **exercise.options).right


@slips(EXAMPLES)
def test_each_wrong_example_gets_its_own_sentence(exercise, said, slip):
    verdict = exercise(slip, **exercise.options)
    assert verdict.outcome is Outcome.HINT and said in verdict.sentence, verdict


@named(EXERCISES)
@pytest.mark.parametrize("answer", ODD, ids=lambda a: type(a).__name__)
def test_no_answer_raises(exercise, answer):
    verdict = exercise(answer, **getattr(exercise, "options", {}))
    assert not verdict.right and verdict.sentence


@named(FUNCTIONS)
def test_an_answer_that_overwrites_what_it_is_given_spoils_nothing(exercise):
    def careless(*arguments):
        value = exercise.right(*arguments)
        for a in arguments:
            if isinstance(a, torch.Tensor):
                a.zero_()
        return value

    assert exercise(careless).right
