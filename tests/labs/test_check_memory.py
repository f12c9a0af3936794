"""Lab 06's checker: each common slip has its own hint."""

from __future__ import annotations

import pytest
import torch

from idl_lab.labs import check
from idl_lab.labs.kit.exercise import Outcome


def inverse(M, R):
    return torch.linalg.solve(torch.eye(4, dtype=M.dtype, device=M.device) - M, R)


def by_autograd(A, B, C, D, slope):
    """Unroll x = slope · (Ax + Bh), whose slope is what it says, and differentiate."""
    def h_after(h):
        x = torch.zeros(4, dtype=A.dtype, device=A.device)
        for _ in range(300):
            x = slope * (A @ x + B @ h)
        return C @ x + D @ h
    return torch.autograd.functional.jacobian(h_after, torch.zeros_like(D[0]))


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (lambda A, B, C, D, s: ..., Outcome.NOT_ATTEMPTED, "Replace the ..."),
    (lambda A, B, C, D, s: None, Outcome.NOT_ATTEMPTED, "Replace the ..."),
    (lambda A, B, C, D: D, Outcome.HINT, "raised TypeError"),
    (lambda A, B, C, D, s: A, Outcome.HINT, "yours is (4, 4)"),
    (lambda A, B, C, D, s: 3.0, Outcome.HINT, "yours is 3.0"),
    (lambda A, B, C, D, s: C @ inverse(s[:, None] * A, s[:, None] * B), Outcome.HINT, "directly"),
    (lambda A, B, C, D, s: D + C @ inverse(A, B), Outcome.HINT, "φ is missing"),
    (lambda A, B, C, D, s: D + C @ (s[:, None] * B), Outcome.HINT, "one step from x = 0"),
    (lambda A, B, C, D, s: D + C @ inverse(s[:, None] * A, B), Outcome.HINT, "B too"),
    (lambda A, B, C, D, s: D.T, Outcome.HINT, "Solve for dx"),
    (by_autograd, Outcome.RIGHT, "the direct way"),
    (lambda A, B, C, D, s: D + C @ inverse(s[:, None] * A, s[:, None] * B), Outcome.RIGHT, "way"),
])
def test_memory_matrix(answer, outcome, words):
    verdict = check.implicit_rnn.memory_matrix(answer)
    assert verdict.outcome is outcome and words in verdict.sentence, verdict
