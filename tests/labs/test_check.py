"""The exercise checkers: each answers not attempted, a helpful hint, or right."""

from __future__ import annotations

import re

import pytest
import torch

from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Outcome


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (lambda A, B, x, u: ..., Outcome.NOT_ATTEMPTED, "Replace the ..."),
    (lambda A, B, x, u: None, Outcome.NOT_ATTEMPTED, "Replace the ..."),
    (lambda A, B, x, u: A @ x + B @ u, Outcome.HINT, "φ is still to be applied"),
    (lambda A, B, x, u: (A.T @ x + B @ u).relu(), Outcome.HINT, "transpose"),
    (lambda A, B, x, u: (A @ x).relu(), Outcome.HINT, "add the two"),
    (lambda A, B, x, u: B @ x, Outcome.HINT, "raised RuntimeError"),
    (lambda A, B, x, u: 3, Outcome.HINT, r"shape \(4,\), yours is 3"),
    (lambda A, B, x, u: torch.relu(A @ x + B @ u), Outcome.RIGHT, "Picard"),
])
def test_picard_step(answer, outcome, words):
    verdict = check.start_here.picard_step(answer)
    assert verdict.outcome is outcome and verdict.right == (outcome is Outcome.RIGHT)
    assert re.search(words, verdict.sentence), verdict


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (..., Outcome.NOT_ATTEMPTED, "a number"),
    ("x", Outcome.HINT, "got 'x'"),
    (1.4, Outcome.HINT, "in (0, 1]"),
    (0.9, Outcome.HINT, "grows by the factor 1.25"),
    (0.5, Outcome.HINT, "shrinks by the factor 0.25"),
    (0.4, Outcome.RIGHT, "one step"),
])
def test_fastest_damping(answer, outcome, words):
    verdict = check.fixed_points.fastest_damping(answer, slope=-1.5)
    assert verdict.outcome is outcome and words in verdict.sentence


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (..., Outcome.NOT_ATTEMPTED, "2 × 2"),
    ([[1.0, 2.0]], Outcome.HINT, "(1, 2)"),
    ("A", Outcome.HINT, "TypeError"),
    ([[0.5, 5.0], [0.0, 0.5]], Outcome.HINT, "zero"),
    ([[0.5, 0.1], [0.1, 0.5]], Outcome.HINT, "must exceed 2"),
    ([[0.5, 5.0], [1.0, 0.5]], Outcome.HINT, "not below 1"),
    ([[0.1, -4.0], [0.1, 0.1]], Outcome.RIGHT, "well-posed"),
])
def test_norm_without_need(answer, outcome, words):
    verdict = check.well_posedness.norm_without_need(answer)
    assert verdict.outcome is outcome and words in verdict.sentence
    assert verdict.outcome.value in repr(verdict) and words in verdict._repr_html_()
