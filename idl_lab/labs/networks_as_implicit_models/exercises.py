"""The exercises of lab 03."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import change_units, normal
from idl_lab.well_posedness import inf_norm, perron_frobenius

halving_kappa = Guess(
    what="a factor",
    found="The largest unit grows by {0:.1f}; you said {1}. A polynomial of degree five in 1/κ "
          "grows by almost 2⁵.")


def _square(A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """[A B; C D]."""
    return torch.cat([torch.cat([A, B], 1), torch.cat([C, D], 1)])


def _blocks(rows: list[list[Tensor | None]]) -> Tensor:
    """A matrix of blocks; where none is given it is zero, of its row's and column's size."""
    high = [next(len(M) for M in row if M is not None) for row in rows]
    wide = [next(M.shape[1] for M in column if M is not None)
            for column in zip(*rows, strict=True)]
    like = next(M for M in rows[0] if M is not None)
    return torch.cat([torch.cat([like.new_zeros(h, w) if M is None else M
                                 for M, w in zip(row, wide, strict=True)], 1)
                      for row, h in zip(rows, high, strict=True)])

# ---- other units ------------------------------------------------------------------------------


def _model(draws: torch.Generator) -> tuple[Tensor, ...]:
    """A, B, C, D of a model with 3 states, 2 inputs and 4 outputs, and units."""
    A, B, C, D = (normal(*shape, generator=draws) for shape in ((3, 3), (3, 2), (4, 3), (4, 2)))
    return A, B, C, D, normal(3, generator=draws).abs() + 0.3


def _in_units(A: Tensor, B: Tensor, C: Tensor, D: Tensor, v: Tensor) -> Tensor:
    return change_units(_square(A, B, C, D), v)


model_in_units = Exercise(
    inputs=_model,
    right=_in_units,
    what="[A′ B′; C′ D′]",
    shape="[A′ B′; C′ D′] has 3 + 4 rows and 3 + 2 columns, so its shape is (7, 5)",
    slips={
        "That is the model in the units 1/v: A′ = V⁻¹AV divides row i by vᵢ and multiplies column "
        "j by vⱼ.": lambda A, B, C, D, v: _in_units(A, B, C, D, 1 / v),
        "A is right. B and C see the states too: B′ = V⁻¹B, C′ = CV.":
            Partly(0.5, lambda A, B, C, D, v: _square(A * v / v[:, None], B, C, D)),
        "B is not in the new units yet: B′ = V⁻¹B.":
            Partly(0.5, lambda A, B, C, D, v: _square(A * v / v[:, None], B, C * v, D)),
        "C is not in the new units yet: C′ = CV.":
            Partly(0.5, lambda A, B, C, D, v: _square(A * v / v[:, None], B / v[:, None], C, D)),
        "Dividing A by v divides its columns; V⁻¹ from the left divides its rows, v[:, None].":
            lambda A, B, C, D, v: _square(A / v * v[:, None], B / v[:, None], C * v, D),
        "Those are the units of the rows alone; the columns of A are states too: A′ = V⁻¹AV.":
            lambda A, B, C, D, v: _square(A / v[:, None], B / v[:, None], C * v, D),
    },
    hints=[
        "A * v multiplies the columns of A, A / v[:, None] divides its rows: no V is needed.",
        "A * v / v[:, None], B / v[:, None], C * v and D, put together with torch.cat."],
    praise="The same predictions, other numbers: what a norm says of A depends on v.",
    level=Level.WARM_UP)

# ---- a network read off -----------------------------------------------------------------------


def _network(draws: torch.Generator) -> tuple[Tensor, ...]:
    """W0 (3, 2), W1 (3, 3), W2 (4, 3), W3 (2, 4), W4 (2, 2)."""
    return tuple(normal(*shape, generator=draws)
                 for shape in ((3, 2), (3, 3), (4, 3), (2, 4), (2, 2)))


def _read(W0: Tensor, W1: Tensor, W2: Tensor, W3: Tensor, W4: Tensor) -> Tensor:
    return _blocks([[W3.new_zeros(4, 4), W2, W2, None], [None, None, W1, None],
                    [None, None, None, W0], [W3, None, None, W4]])


def _but(*entries: tuple[slice, slice], swap: bool = False):
    """The network read off with some blocks left out, or with the first layer first."""
    def read(*weights: Tensor) -> Tensor:
        M = _read(*weights).clone()
        for place in entries:
            M[place] = 0
        order = [7, 8, 9, 4, 5, 6, 0, 1, 2, 3]
        return M[[*order, 10, 11]][:, [*order, 10, 11]] if swap else M
    return read


read_off = Exercise(
    inputs=_network,
    right=_read,
    what="[A B; C D]",
    shape="With 4 + 3 + 3 states, 2 outputs and 2 inputs [A B; C D] has the shape (12, 12)",
    slips={
        "The states of the last layer come first, x = (x₃, x₂, x₁).": Partly(0.5, _but(swap=True)),
        "h₂ = h₁ + x₂ is a sum of two states, and x₃ listens to both of them.":
            Partly(0.5, _but((slice(0, 4), slice(7, 10)))),
        "x₃ listens to x₂ as well: h₂ = h₁ + x₂.": _but((slice(0, 4), slice(4, 7))),
        "ŷ also hears u directly, through W₄: that is D.":
            Partly(0.5, _but((slice(10, 12), slice(10, 12)))),
        "The skip connection and D are both missing: h₂ = h₁ + x₂, and ŷ hears u through W₄.":
            _but((slice(0, 4), slice(7, 10)), (slice(10, 12), slice(10, 12))),
    },
    hints=[
        "Only what comes out of φ is a state: x₁ = φ(W₀u), x₂ = φ(W₁h₁), x₃ = φ(W₂h₂). Write h₁ "
        "and h₂ as sums of states.",
        "h₁ = x₁ and h₂ = x₁ + x₂, so x₃ = φ(W₂x₂ + W₂x₁). A band of rows for each of x₃, x₂, x₁ "
        "and ŷ, a band of columns for each of x₃, x₂, x₁ and u.",
        "Make M = torch.zeros(12, 12, dtype=W0.dtype) and fill in blocks: M[:4, 4:7] = W2, …"],
    praise="A skip connection costs no state: it shows as the same block once more.",
    level=Level.DERIVE)

# ---- a cascade whose norm says nothing --------------------------------------------------------


def _cascade(answer: object) -> dict:
    numbers = torch.as_tensor(answer, dtype=torch.float64, device="cpu")
    if numbers.shape != (2, 3) or not torch.isfinite(numbers).all():
        raise ValueError(f"Two models of three finite numbers each are wanted, ((a₁, b₁, c₁), "
                         f"(a₂, b₂, c₂)), yours have shape {tuple(numbers.shape)}.")
    (a1, b1, c1), (a2, b2, c2) = numbers.tolist()
    A = torch.tensor([[a2, b2 * c1], [0.0, a1]], dtype=torch.float64, device="cpu")
    feedback = max(abs(a1), abs(a2))
    gains = [abs(b * c) / (1 - abs(a)) if abs(a) < 1 else float("inf")
             for a, b, c in numbers.tolist()]
    return {"feedback": feedback, "gain": max(gains), "least": min(gains),
            "norm": float(inf_norm(A)), "pf": perron_frobenius(A).upper,
            "units": max(abs(b2 * c1) / (0.9 - abs(a2)), 1.0) if feedback < 0.9 else 0.0}


norm_of_a_cascade = Example(
    look=_cascade,
    conditions=[
        (lambda found: found["feedback"] <= 0.5,
         "Each model by itself must have |a| ≤ 0.5; the larger one is {0[feedback]:.3g}."),
        (lambda found: found["norm"] > 1000,
         "The cascade's ‖A‖∞ is {0[norm]:.3g}; it must exceed 1000. Which numbers stand in its "
         "upper right corner?"),
        (lambda found: found["least"] > 0,
         "A model with b = 0 or c = 0 passes nothing on: both must do something.", 0.25),
        (lambda found: found["gain"] <= 1,
         "One of the models amplifies: |bc|/(1 − |a|) is {0[gain]:.3g}, more than 1. A large c₁ is "
         "allowed if b₁ is small."),
    ],
    what="((a₁, b₁, c₁), (a₂, b₂, c₂))",
    praise="‖A‖∞ = {0[norm]:.4g} but λ_PF = {0[pf]:.2g}, and nothing is amplified: a change of u "
           "changes ŷ by no more. Only the unit of x₁ is odd: {0[units]:,.0f} times "
           "smaller, and the norm is below 1.",
    hints=[
        "A = [[a₂, b₂c₁], [0, a₁]]: the norm is large where b₂c₁ is.",
        "Model 1 does the same with 1000·c₁ and b₁/1000: only b₁c₁ counts. The cascade's A sees "
        "c₁ alone."],
    right=((0.5, 1e-5, 1e4), (0.5, 0.5, 1.0)),
    slips={"the larger one is 0.9": ((0.9, 1e-5, 1e4), (0.5, 0.5, 1.0)),
           "it must exceed 1000": ((0.5, 0.5, 1.0), (0.5, 0.5, 1.0)),
           "passes nothing on": ((0.5, 0.0, 1e4), (0.5, 0.5, 1.0)),
           "One of the models amplifies": ((0.5, 1.0, 1e4), (0.5, 0.5, 1.0)),
           "yours have shape (3,)": (0.5, 1e-5, 1e4)})

# ---- feedback ---------------------------------------------------------------------------------


def _fed_back(draws: torch.Generator) -> tuple[Tensor, ...]:
    """A, B, C, D of a model with 4 states, 3 inputs and 3 outputs, and F (3, 3)."""
    return tuple(scale * normal(*shape, generator=draws)
                 for scale, shape in ((1, (4, 4)), (1, (4, 3)), (1, (3, 4)), (0.3, (3, 3)),
                                      (0.3, (3, 3))))


def _closed(A: Tensor, B: Tensor, C: Tensor, D: Tensor, F: Tensor, *, sign: float = -1.0
            ) -> Tensor:
    eye = torch.eye(len(D), dtype=D.dtype, device=D.device)
    return A + B @ F @ torch.linalg.solve(eye + sign * D @ F, C)


feedback_matrix = Exercise(
    inputs=_fed_back,
    right=_closed,
    what="A′",
    shape="A′ joins states to states, so its shape is (4, 4)",
    slips={
        "Right without feedthrough. Here ŷ = Cx + D(u + Fŷ): it stands on both sides; solve for it "
        "first.": Partly(0.5, lambda A, B, C, D, F: A + B @ F @ C),
        "The output is fed back through F: B meets F first.": lambda A, B, C, D, F: A + B @ C,
        "A sign: ŷ − DFŷ = Cx + Du.":
            Partly(0.5, lambda A, B, C, D, F: _closed(A, B, C, D, F, sign=1.0)),
        "The state still listens to itself by A as well.":
            lambda A, B, C, D, F: _closed(0 * A, B, C, D, F),
        "D reaches ŷ once there; what it sends is fed back again, and again: "
        "I + DF + (DF)² + … = (I − DF)⁻¹.":
            Partly(0.5, lambda A, B, C, D, F: A + B @ F @ (C + D @ F @ C)),
    },
    hints=[
        "Put u + Fŷ in place of u in both equations.",
        "The second becomes ŷ = Cx + Du + DFŷ. Solve it for ŷ, and look for x in the result.",
        "ŷ = (I − DF)⁻¹(Cx + Du); so x = φ(Ax + Bu + BFŷ) has A′ = A + BF(I − DF)⁻¹C. "
        "torch.linalg.solve(M, C) is M⁻¹C."],
    praise="A′ may be anything: `compose.feedback` looks at its certificate, and so should you.",
    level=Level.STRETCH)
