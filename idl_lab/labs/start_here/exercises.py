"""The exercise of lab 00."""

from __future__ import annotations

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal

picard_step = Exercise(
    inputs=lambda draws: tuple(normal(*shape, generator=draws)
                               for shape in ((4, 4), (4, 3), (4,), (3,))),
    right=lambda A, B, x, u: (A @ x + B @ u).relu(),
    what="φ(Ax + Bu)",
    shape="The next state is a tensor of shape (4,)",
    slips={
        "That is Ax + Bu; φ is still to be applied: torch.relu.":
            lambda A, B, x, u: A @ x + B @ u,
        "A and its transpose are mixed up: the state is a column here, so A @ x.":
            lambda A, B, x, u: (A.T @ x + B @ u).relu(),
    },
    hint="Apply A to x, B to u, add the two, and apply torch.relu to the sum.",
    praise="Repeat this step from x = 0 and you have Picard's iteration.")
