"""Every exercise: untouched, each slip, right, hard-coded, and answers that are odd."""

from __future__ import annotations

import pickle
from pathlib import Path

import cloudpickle
import pytest
import torch
from lab_code import answers

from idl_lab.labs import check, judge
from idl_lab.labs.kit.exercise import Example, Exercise, Level, Outcome, Partly
from idl_lab.labs.kit.problems import generator

LABS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CHECKERS = {checker.name: checker for lab in check.labs()
            for checker in getattr(check, lab).exercises.values()}
EXERCISES = {name: checker.exercise for name, checker in CHECKERS.items()}
FUNCTIONS = {name: e for name, e in EXERCISES.items() if isinstance(e, Exercise)}
EXAMPLES = {name: e for name, e in EXERCISES.items() if isinstance(e, Example)}
SEEDS = 0, judge.SEED  # of a notebook, and of the judge


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


# ---- all --------------------------------------------------------------------------------------


@named(EXERCISES)
def test_untouched_is_not_attempted(exercise):
    assert exercise(...).outcome is Outcome.NOT_ATTEMPTED
    assert exercise.what in exercise(...).sentence


@named(EXERCISES)
def test_three_usual_wrong_answers_are_known_at_least(exercise):
    assert len(exercise.slips) >= 3
    assert exercise.what and exercise.praise and not exercise.praise.endswith(" ")


@named(EXERCISES)
def test_another_exercises_right_answer_is_not_right(exercise):
    for other in EXERCISES.values():
        if other is not exercise:
            assert not exercise(other.right, **getattr(exercise, "options", {})).right


@named(EXERCISES)
def test_no_answer_raises(exercise):
    for k, answer in enumerate(ODD):
        verdict = exercise(answer, **getattr(exercise, "options", {}))
        assert not verdict.right and verdict.sentence, k


@pytest.mark.parametrize("answer", ODD, ids=lambda a: type(a).__name__)
def test_no_answer_raises_where_a_checker_watches(answer):
    verdict = check.start_here.one_state.judged(answer)
    assert not verdict.right and verdict.points == 0


@pytest.mark.parametrize("checker", CHECKERS.values(), ids=CHECKERS)
def test_the_checkers_own_answer_earns_nothing(checker):
    if callable(checker.exercise.right):
        verdict = checker.judged(checker.exercise.right)
        assert not verdict.right and "of the library work" in verdict.sentence


# ---- functions --------------------------------------------------------------------------------


@named(FUNCTIONS)
def test_the_right_function_is_right_whatever_it_is_given(exercise):
    for seed in SEEDS:
        assert exercise(exercise.right, seed=seed).right
        verdict = exercise(lambda *arguments: exercise.right(*arguments) + 1, seed=seed)
        assert verdict.outcome is Outcome.HINT


@named(FUNCTIONS)
def test_a_stub_that_returns_its_dots_is_not_attempted(exercise):
    assert exercise(lambda *arguments: ...).outcome is Outcome.NOT_ATTEMPTED
    assert exercise(lambda *arguments: None).outcome is Outcome.NOT_ATTEMPTED


def test_a_forgotten_return_and_errors_of_torch_say_what_to_do():
    def forgetful(a, b):
        torch.relu(b) / (1 - a)

    state = CHECKERS["start_here.one_state"]
    assert "returns nothing" in state.judged(forgetful).sentence
    assert "torch.where" in state.judged(lambda a, b: max(0, b / (1 - a))).sentence
    step = CHECKERS["start_here.picard_step"]
    assert "Samples are rows" in step.judged(lambda A, B, X, U: A @ X + B @ U).sentence


def test_a_checker_without_brackets_tells_no_hint():
    for name, checker in CHECKERS.items():
        assert repr(checker).startswith(f"check.{name}: ") and len(repr(checker)) < 120


def test_the_solutions_of_a_matrix_have_no_negative_zero():
    said = CHECKERS["well_posedness.unique_without_pf"].judged([[0, 2], [2, 0]]).sentence
    assert "these: [[0.0, 0.0], [1.0, 1.0]]" in said


def test_a_solution_is_shown_without_the_dots_it_replaces():
    assert not [name for name, text in check.solutions().items() if "= ...\n" in text]


@named(FUNCTIONS)
def test_a_hard_coded_answer_is_not_right(exercise):
    for seed in SEEDS:
        draws = generator(seed)
        values = [exercise.right(*exercise.inputs(draws)) for _ in range(exercise.draws)]
        assert len(values) > 1
        for value in values:
            verdict = exercise(lambda *arguments, value=value: value, seed=seed)
            assert verdict.outcome is Outcome.HINT


@named(FUNCTIONS)
def test_a_table_of_the_notebooks_numbers_is_not_right_for_the_judge(exercise):
    draws = generator(0)
    table = [exercise.inputs(draws) for _ in range(exercise.draws)]

    def number(a):
        return torch.as_tensor(a).double() if isinstance(a, torch.Tensor | float | int) else None

    def far(given, known):
        pairs = [(number(a), number(b)) for a, b in zip(given, known, strict=True)]
        return sum(float((a - b).abs().sum()) if a.shape == b.shape else 1e9
                   for a, b in pairs if a is not None)

    def remembered(*arguments):
        """The value at the nearest of the inputs that a reader may have printed."""
        return exercise.right(*min(table, key=lambda known: far(arguments, known)))

    assert exercise(remembered).right
    assert not exercise(remembered, seed=judge.SEED).right


@slips(FUNCTIONS)
def test_each_slip_gets_its_own_sentence(exercise, said, slip):
    share, slip = (slip.share, slip.slip) if isinstance(slip, Partly) else (0, slip)
    for seed in SEEDS:
        verdict = exercise(slip, seed=seed)
        assert verdict.outcome is Outcome.HINT and verdict.sentence == said, seed
        assert verdict.share == share < 1


@named(FUNCTIONS)
def test_an_answer_that_overwrites_what_it_is_given_spoils_nothing(exercise):
    def careless(*arguments):
        value = exercise.right(*arguments)
        for a in arguments:
            if isinstance(a, torch.Tensor):
                a.zero_()
        return value

    assert exercise(careless).right


@named(FUNCTIONS)
def test_the_hints_come_one_a_try(exercise):
    said = [exercise(lambda *arguments: exercise.right(*arguments) + 1e3, tries=k).sentence
            for k in range(len(exercise.hints) + 1)]
    assert exercise.hints and said[-1] == said[-2]
    assert all(text.startswith(step) for text, step in zip(said, exercise.hints, strict=False))


# ---- examples ---------------------------------------------------------------------------------


@named(EXAMPLES)
def test_the_right_example_is_right(exercise):
    assert exercise(exercise.right, **exercise.options).right


@slips(EXAMPLES)
def test_each_wrong_example_gets_its_own_sentence(exercise, said, slip):
    verdict = exercise(slip, **exercise.options)
    assert verdict.outcome is Outcome.HINT and said in verdict.sentence, verdict
    assert verdict.share < 1


# ---- the notebooks' own answers ---------------------------------------------------------------


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_the_judge_calls_the_notebooks_answers_right(lab):
    """Each alone, as the judge gets it: pickled, and tried on other numbers."""
    found = answers(lab)
    assert [*found] == [n for n in CHECKERS if n.startswith(f"{lab.stem.partition('_')[2]}.")]
    for name, answer in found.items():
        sent = pickle.loads(cloudpickle.dumps(answer))
        verdict = CHECKERS[name].judged(sent, seed=judge.SEED)
        assert verdict.points == CHECKERS[name].exercise.level.points, verdict


@pytest.mark.parametrize("lab", LABS, ids=lambda path: path.stem)
def test_with_dots_for_answers_nothing_is_attempted(lab):
    for name, answer in answers(lab, stub=True).items():
        assert CHECKERS[name].judged(answer).outcome is Outcome.NOT_ATTEMPTED, name


def test_in_a_process_of_its_own_the_verdict_is_the_same(capsys):
    assert judge.points("start_here.one_state", lambda a, b: b / (1 - a)) == 1
    here = check.start_here.one_state.judged(lambda a, b: b / (1 - a), seed=judge.SEED)
    assert capsys.readouterr().out.strip() == here._text()


def test_levels_and_points():
    assert [level.points for level in Level] == [1, 2, 2, 3]
