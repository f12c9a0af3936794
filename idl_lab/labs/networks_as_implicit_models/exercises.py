"""The exercises of this lab."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Verdict, hint, not_attempted, right_answer
from idl_lab.model import ImplicitModel


def cascade_matrix(answer: Tensor, first: ImplicitModel, last: ImplicitModel) -> Verdict:
    """Lab 03: A of the cascade u → ``first`` → ``last``, the last model's states on top."""
    if answer is ...:
        return not_attempted("a matrix")
    A1, A2, C1, B2 = (M.detach() for M in (first.A, last.A, first.C, last.B))
    n1, n2 = len(A1), len(A2)
    if not isinstance(answer, Tensor) or answer.shape != (n1 + n2, n1 + n2):
        shown = tuple(answer.shape) if isinstance(answer, Tensor) else repr(answer)
        return hint(f"A has a row and a column for each of the {n2} + {n1} states, so its shape "
                     f"is ({n1 + n2}, {n1 + n2}); yours is {shown}. torch.cat stacks blocks.")
    if answer.is_complex() or not torch.isfinite(answer).all():
        return hint("A holds real, finite numbers.")
    got = answer.detach().to(A1)

    def is_(M: Tensor, N: Tensor) -> bool:
        return torch.allclose(M, N, rtol=1e-4, atol=1e-6)

    blocks = got[:n2, :n2], got[:n2, n2:], got[n2:, :n2], got[n2:, n2:]
    if is_(got[:n1, :n1], A1) and is_(got[n1:, n1:], A2):
        return hint("The order is turned round: the last model's states come first, x = (x₂, x₁), "
                     "as in a network.")
    if not (is_(blocks[0], A2) and is_(blocks[3], A1)):
        return hint("On the diagonal, each state listens to its own model as before: A₂, then A₁.")
    if (blocks[2] != 0).any():
        return hint("The lower left block must be zero: the first model does not hear the last.")
    if (blocks[1] == 0).all():
        return hint("The upper right block is missing: the last model hears ŷ₁ = C₁x₁ + D₁u "
                     "through its B.")
    if not is_(blocks[1], B2 @ C1):
        return hint("Upper right: the last model's input is C₁x₁ + D₁u, and B₂ multiplies it.")
    return right_answer("Block triangular, so λ_PF(|A|) is the larger of the two models' own.")
