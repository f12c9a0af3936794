"""The exercises of lab 12."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise
from idl_lab.labs.kit.problems import normal, random_matrix

# ---- an interval through a linear map ---------------------------------------------------------


def _box(draws: torch.Generator) -> tuple[Tensor, ...]:
    """W (3, 5) of both signs, and a box of inputs."""
    low = normal(5, generator=draws)
    return normal(3, 5, generator=draws), low, low + normal(5, generator=draws).abs()


def _interval(W: Tensor, low: Tensor, high: Tensor) -> Tensor:
    middle, half = W @ (low + high) / 2, W.abs() @ (high - low) / 2
    return torch.stack([middle - half, middle + half])


interval_of_a_map = Exercise(
    inputs=_box,
    right=_interval,
    what="lower and upper bounds of W u, one above the other",
    shape="Lower and upper bounds, stacked, have the shape (2, 3)",
    slips={
        "Those are W's values at the two corners low and high. A negative weight is smallest where "
        "its input is largest.": lambda W, low, high: torch.stack([W @ low, W @ high]),
        "Upper and lower change places.": lambda W, low, high: _interval(W, low, high).flip(0),
        "With |W| on the middle too the box is moved. Only its width is met by |W|.":
            lambda W, low, high: torch.stack([W.abs() @ low, W.abs() @ high]),
        "Twice as wide as it must be: from the middle it is half a width to each side.":
            lambda W, low, high: torch.stack([
                W @ (low + high) / 2 + sign * (W.abs() @ (high - low)) for sign in (-1, 1)]),
    },
    hints=[
        "Each term w_j u_j is smallest at one of its ends, and the terms do not know of each "
        "other. Write the box as its middle and its half width."],
    praise="Exact for one linear map: some corner of the box attains each bound.")

# ---- S of a small model -----------------------------------------------------------------------


def _model(draws: torch.Generator) -> tuple[Tensor, ...]:
    return (random_matrix(4, 0.8, generator=draws),
            *(normal(*shape, generator=draws) for shape in ((4, 3), (2, 4), (2, 3))))


def _inverse(A: Tensor) -> Tensor:
    return torch.linalg.inv(torch.eye(len(A), dtype=A.dtype, device=A.device) - A)


sensitivity_matrix = Exercise(
    inputs=_model,
    right=lambda A, B, C, D: D.abs() + C.abs() @ _inverse(A.abs()) @ B.abs(),
    what="the sensitivity matrix of the model A, B, C, D",
    shape="S has a row an output and a column an input, (2, 3)",
    slips={
        "Without |·| that is the derivative where all states are active. A bound must hold "
        "whatever the signs do.": lambda A, B, C, D: D + C @ _inverse(A) @ B,
        "The absolute value comes before the products: |X Y| ≤ |X||Y|, and only that holds for "
        "every state.": lambda A, B, C, D: (D + C @ _inverse(A) @ B).abs(),
        "|D| is missing: the input reaches the output directly too.":
            lambda A, B, C, D: C.abs() @ _inverse(A.abs()) @ B.abs(),
        "|(I − A)⁻¹| is smaller than (I − |A|)⁻¹: where some states rest, A's terms no longer "
        "cancel.": lambda A, B, C, D: D.abs() + C.abs() @ _inverse(A).abs() @ B.abs(),
        "That is one step of the equation. A change goes on round the loop: |A| + |A|² + ….":
            lambda A, B, C, D: D.abs() + C.abs() @ B.abs(),
    },
    hints=[
        "Let e = |x − x′|. From x = φ(Ax + Bu) and |φ(a) − φ(b)| ≤ |a − b| find an inequality "
        "e ≤ … with e on both sides, and solve it."],
    praise="Solving e ≤ |A| e + |B||u − u′| is allowed since λ_PF(|A|) < 1.")

# ---- an FGSM step -----------------------------------------------------------------------------


def _attack(draws: torch.Generator) -> tuple:
    return torch.rand(8, generator=draws, dtype=torch.float64, device="cpu"), normal(
        8, generator=draws), 0.3


fgsm_step = Exercise(
    inputs=_attack,
    right=lambda u, g, eps: (u + eps * g.sign()).clamp(0, 1),
    what="the image after one step",
    shape="An image of the shape of u is wanted",
    slips={
        "Some pixels are outside [0, 1] now.": lambda u, g, eps: u + eps * g.sign(),
        "That goes down the loss: an attacker wants it large.":
            lambda u, g, eps: (u - eps * g.sign()).clamp(0, 1),
        "Along the gradient itself most pixels move by less than they may, or by more. In a box "
        "the best of a linear function is a corner.":
            lambda u, g, eps: (u + eps * g).clamp(0, 1),
        "A gradient of 2-norm 1 belongs to the ball of the 2-norm.":
            lambda u, g, eps: (u + eps * g / g.norm()).clamp(0, 1),
    },
    hints=[
        "Which change δ with |δ_j| ≤ ε for each j raises gᵀδ most? Then keep pixels in [0, 1]."],
    praise="For a loss that is linear in u no other image of the box is worse.")
