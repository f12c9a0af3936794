"""The checker of lab 04: it knows the usual slips by their results."""

from __future__ import annotations

import pytest
import torch

from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Outcome


def solve(make):
    """An answer that solves make(A, D) v = g."""
    return lambda A, d, g: torch.linalg.solve(make(A, torch.diag(d)), g)


def eye(A):
    return torch.eye(len(A), dtype=A.dtype, device=A.device)


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (lambda A, d, g: ..., Outcome.NOT_ATTEMPTED, "Replace the ... by v"),
    (lambda A, d, g: None, Outcome.NOT_ATTEMPTED, "Replace the ... by v"),
    (lambda A, d, g: A @ g[:2], Outcome.HINT, "raised RuntimeError"),
    (lambda A, d, g: A, Outcome.HINT, "shape (4,), yours is (4, 4)"),
    (lambda A, d, g: 2, Outcome.HINT, "yours is 2"),
    (lambda A, d, g: g, Outcome.HINT, "torch.linalg.solve"),
    (solve(lambda A, D: eye(A) - D @ A), Outcome.HINT, "transpose is missing"),
    (solve(lambda A, D: eye(A) - A.T), Outcome.HINT, "D is forgotten"),
    (solve(lambda A, D: eye(A) - A), Outcome.HINT, "D and the transpose"),
    (solve(lambda A, D: eye(A) - D @ A.T), Outcome.HINT, "wrong side"),
    (solve(lambda A, D: eye(A) + A.T @ D), Outcome.HINT, "sign"),
    (lambda A, d, g: d * solve(lambda A, D: eye(A) - A.T @ D)(A, d, g), Outcome.HINT, "Dv"),
    (solve(lambda A, D: eye(A) - A.T @ D), Outcome.RIGHT, "One linear solve"),
    (lambda A, d, g: torch.linalg.inv(eye(A) - A.T * d) @ g, Outcome.RIGHT, "One linear solve"),
])
def test_adjoint_vector(answer, outcome, words):
    verdict = check.implicit_gradients.adjoint_vector(answer)
    assert verdict.outcome is outcome and words in verdict.sentence, verdict


def test_a_neumann_sum_that_converged_is_right():
    def series(A, d, g):
        v = g
        for _ in range(300):
            v = g + A.T @ (d * v)
        return v
    assert check.implicit_gradients.adjoint_vector(series).right
