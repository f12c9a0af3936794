"""What a checker says in particular; what holds for every exercise is in test_exercises.py."""

from __future__ import annotations

import pytest
import torch

from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Outcome
from idl_lab.runs import series


@pytest.mark.parametrize(("answer", "words"), [
    (lambda A, B, X, U: B @ U, "raised RuntimeError"),
    (lambda A, B, X, U: 3, "(4, 4), a row a sample, yours is 3"),
    (lambda A, B, X, U: X @ A.T, "add the two"),
    (lambda A, B, X: X, "raised TypeError"),
    (0.4, "A function is wanted, yours is 0.4"),
])
def test_a_wrong_function_is_told_what_is_wrong(answer, words):
    verdict = check.start_here.picard_step(answer)
    assert verdict.outcome is Outcome.HINT and words in verdict.sentence


@pytest.mark.parametrize("answer", [
    lambda slope: torch.tensor(1 / (1 - slope), device="cpu"),
    lambda slope: min((k / 1e6 for k in range(1, 10**6 + 1)),
                      key=lambda beta: abs(1 - beta + beta * slope)),
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


@pytest.mark.parametrize("name", ["start_her", "kit", "check", "__path__", ""])
def test_an_unknown_lab_is_an_attribute_that_is_not_there(name):
    assert not hasattr(check, name)
    with pytest.raises(AttributeError, match=f"called '{name}'; there is any_layer, .*start"):
        getattr(check, name)


def test_each_lab_has_exercises():
    assert len(check.labs()) == len(series.of(series.shipped()))
    assert all(getattr(check, lab).exercises for lab in check.labs())
