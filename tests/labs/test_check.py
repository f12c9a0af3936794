"""What a checker says in particular; what holds for every exercise is in test_exercises.py."""

from __future__ import annotations

import pytest
import torch

from idl_lab.labs import check
from idl_lab.labs.kit import progress
from idl_lab.labs.kit.exercise import GRADING, Outcome
from idl_lab.runs import series


@pytest.mark.parametrize(("answer", "words"), [
    (lambda A, B, X, U: B @ U, "raised RuntimeError"),
    (lambda A, B, X, U: 3, "(4, 4), a row a sample, yours is 3"),
    (lambda A, B, X, U: X @ A.T, "A row of XAᵀ is Ax"),
    (lambda A, B, X: X, "raised TypeError"),
    (0.4, "A function is wanted, yours is 0.4"),
])
def test_a_wrong_function_is_told_what_is_wrong(answer, words):
    verdict = check.start_here.picard_step(answer)
    assert verdict.outcome is Outcome.HINT and words in verdict.sentence


BETAS = torch.linspace(0, 1, 10**6 + 1, dtype=torch.float64, device="cpu")


@pytest.mark.parametrize("answer", [
    lambda slope: torch.tensor(1 / (1 - slope), device="cpu"),
    lambda slope: BETAS[(1 - BETAS + BETAS * slope).abs().argmin()],
])
def test_the_fastest_damping_may_be_found_in_any_way(answer):
    assert check.fixed_points.fastest_damping(answer).right


@pytest.mark.parametrize(("answer", "words"), [
    ([[1.0, 2.0]], "(1, 2)"),
    ("A", "TypeError"),
    ([[0.5, 5.0], [1.0, 0.5]], "λ_PF(|A|) is 2.74, not below 1"),
    ([[0.5, 0.1], [0.1, 0.5]], "‖A‖∞ is 0.6; it must exceed 2"),
])
def test_a_matrix_that_does_not_do_is_told_its_numbers(answer, words):
    verdict = check.well_posedness.norm_without_need(answer)
    assert verdict.outcome is Outcome.HINT and words in verdict.sentence


def test_any_matrix_that_meets_the_conditions_is_right():
    verdict = check.well_posedness.norm_without_need([[0.1, -4.0], [0.1, 0.1]])
    assert verdict.right and "‖A‖∞ = 4.1 but λ_PF(|A|) = 0.732" in verdict.sentence


def test_a_verdict_is_shown_and_escaped():
    verdict = check.start_here.picard_step(lambda *arguments: "<b>")
    assert repr(verdict).startswith("Not yet. ") and "<b>Not yet.</b>" in verdict._repr_html_()
    assert "&lt;b&gt;" in check.start_here.picard_step("<b>")._repr_html_()
    exercise = check.well_posedness.project_row.exercise
    assert "this is <code>Project</code>." in exercise(exercise.right)._repr_html_()


@pytest.mark.parametrize("name", ["start_her", "kit", "check", "__path__", ""])
def test_an_unknown_lab_is_an_attribute_that_is_not_there(name):
    assert not hasattr(check, name)
    with pytest.raises(AttributeError, match=f"called '{name}'; there is any_layer, .*start"):
        getattr(check, name)


def test_each_lab_has_exercises():
    assert len(check.labs()) == len(series.of(series.shipped()))
    assert all(getattr(check, lab).exercises for lab in check.labs())


# ---- tries, hints, solutions, points ----------------------------------------------------------

STEP = check.start_here.picard_step


def right(A, B, X, U):
    return torch.relu(X @ A.T + U @ B.T)


def half(A, B, X, U):
    return X @ A.T + U @ B.T


def wrong(A, B, X, U):
    return X


def test_each_try_gets_the_next_hint():
    said = [STEP(wrong).sentence for _ in range(3)]
    assert said[0].startswith(STEP.exercise.hints[0]) and "[hint 1 of 2]" in said[0]
    assert said[1] == said[2] and said[1].startswith(STEP.exercise.hints[1])


def test_hints_are_given_on_demand_one_more_a_call():
    first, second, third = (repr(STEP.hint()) for _ in range(3))
    assert first == f"Hint 1 of 2: {STEP.exercise.hints[0]}"
    assert second == third == f"{first}\nHint 2 of 2: {STEP.exercise.hints[1]}"
    assert check.summary().points == 0


def test_the_solution_is_shown_after_three_wrong_answers():
    for tried in range(3):
        assert f"you have tried {tried} time" in repr(STEP.solution())
        STEP(wrong)
    assert "return torch.relu(X @ A.T + U @ B.T)" in repr(STEP.solution())
    assert "###" not in repr(STEP.solution()) and "check." not in repr(STEP.solution())


def test_the_solution_is_shown_after_a_right_answer():
    STEP(right)
    assert repr(STEP.solution()).startswith("def my_step(A, B, X, U):")


def test_every_exercise_has_a_solution_in_the_notebooks():
    asked = {c.name for lab in check.labs() for c in getattr(check, lab).exercises.values()}
    assert asked == check.solutions().keys()
    assert all(text for text in check.solutions().values())


def test_a_summary_counts_the_best_try_of_each():
    for answer in (..., lambda *arguments: ..., wrong, half, wrong):
        STEP(answer)
    summary = check.start_here.summary()
    assert summary.rows["start_here.picard_step"] == ("warm-up", 0.5, 1, 3)
    assert (summary.points, summary.of) == (0.5, 5)
    first, *_, last = repr(summary).splitlines()
    assert first == "start_here.picard_step  warm-up     0.5 of 1  (3 wrong)"
    assert last == "0 of 3 exercises, 0.5 of 5 points"
    STEP(right)
    assert repr(check.start_here.summary()).endswith("1 of 3 exercises, 1 of 5 points")
    STEP(wrong)
    assert check.start_here.summary().points == 1 == check.summary().points
    assert check.summary().of == sum(getattr(check, lab).summary().of for lab in check.labs())


def test_what_lets_the_library_work_is_a_wrong_try():
    assert not STEP(lambda *given: STEP.exercise.right(*given)).right
    assert check.start_here.summary().rows["start_here.picard_step"] == ("warm-up", 0, 1, 1)


def test_a_kernel_that_grades_shows_points_and_leaves_the_folder_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "FILE", "progress.json")
    monkeypatch.setenv(GRADING, "1")
    assert [repr(STEP(answer)) for answer in (right, half, wrong, ...)] == ["1", "0.5", "0", "0"]
    assert not [*tmp_path.iterdir()]
    monkeypatch.delenv(GRADING)
    STEP(right)
    assert (tmp_path / "progress.json").exists()


@pytest.mark.parametrize(("name", "known"), [
    ("picard", "picard_step, one_state, picard_loop, prediction_settles"), ("summry", "picard")])
def test_an_unknown_exercise_is_told_what_there_is(name, known):
    assert not hasattr(check.start_here, name)
    with pytest.raises(AttributeError, match=f"no exercise '{name}'; it has {known}"):
        getattr(check.start_here, name)


def test_completion_shows_what_there_is():
    assert {*dir(check.start_here)} == {"picard_step", "one_state", "picard_loop", "summary",
                                        "prediction_settles"}
    assert dir(check) == sorted([*check.labs(), "summary"])
