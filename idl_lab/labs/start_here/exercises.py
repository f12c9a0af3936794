"""The exercise of lab 00."""

from __future__ import annotations

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal

picard_step = Exercise(
    inputs=lambda draws: tuple(normal(*shape, generator=draws)
                               for shape in ((4, 4), (4, 3), (4, 4), (4, 3))),
    right=lambda A, B, X, U: (X @ A.T + U @ B.T).relu(),
    what="φ(XAᵀ + UBᵀ)",
    shape="The next states are a tensor of shape (4, 4), a row a sample",
    slips={
        "That is XAᵀ + UBᵀ; φ is still to be applied: torch.relu.":
            lambda A, B, X, U: X @ A.T + U @ B.T,
        "A is to be transposed: the states are rows, so X @ A.T.":
            lambda A, B, X, U: (X @ A + U @ B.T).relu(),
        "That is right for states that are columns; here they are rows, so X @ A.T.":
            lambda A, B, X, U: (A @ X + U @ B.T).relu(),
        "φ acts on the sum, not on each of its parts.":
            lambda A, B, X, U: (X @ A.T).relu() + (U @ B.T).relu(),
    },
    hints=[
        "Multiply X by Aᵀ and U by Bᵀ, add the two, and apply torch.relu to the sum."],
    praise="Repeat this step from X = 0 and you have Picard's iteration.")
