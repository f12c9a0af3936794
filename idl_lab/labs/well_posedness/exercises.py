"""The exercises of lab 02."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal
from idl_lab.well_posedness import inf_norm, perron_frobenius

tanh_past_one = Guess(
    what="'diverges', 'one equilibrium' or 'several equilibria'",
    found="At κ = 1.2 tanh shows: {0}; you said {1}.")

# ---- bounds of the PF eigenvalue --------------------------------------------------------------


def _units(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """A matrix of both signs, and positive units."""
    return normal(4, 4, generator=draws), normal(4, generator=draws).abs() + 0.2


def _ends(ratios: Tensor) -> Tensor:
    return torch.stack([ratios.min(), ratios.max()])


collatz_wielandt = Exercise(
    inputs=_units,
    right=lambda A, v: _ends(A.abs() @ v / v),
    what="a lower and an upper bound",
    shape="Two numbers are wanted, torch.stack([lower, upper]), so the shape is (2,)",
    slips={
        "λ_PF is that of |A|: take the absolute values first.":
            lambda A, v: _ends(A @ v / v),
        "|A|v is to be compared with v, entry by entry: divide by v.":
            lambda A, v: _ends(A.abs() @ v),
        "The lower bound comes first.": Partly(0.5, lambda A, v: _ends(A.abs() @ v / v).flip(0)),
        "Those are the row sums in the old units, which bound λ_PF too; v may give closer bounds.":
            Partly(0.5, lambda A, v: _ends(A.abs().sum(dim=1))),
        "Right for columns; an eigenvector v that stands on the right meets the rows of |A|.":
            lambda A, v: _ends(A.abs().T @ v / v),
    },
    hints=[
        "Section 1: in the units v the row sums are (|A|v)ᵢ/vᵢ, and the largest of them is a norm, "
        "so it is at least λ_PF. What does the smallest of them say?",
        "If |A|v ≥ m·v in every entry, then |A|^k v ≥ m^k·v, so |A| has an eigenvalue of at least "
        "m. Take the smallest and the largest entry of (A.abs() @ v) / v."],
    praise="Collatz (1942) and Wielandt (1950). `perron_frobenius` improves v until the two bounds "
           "meet: that is why it can prove what it says.",
    level=Level.WARM_UP)

# ---- counter-examples -------------------------------------------------------------------------


def _pair(answer: object) -> dict:
    A = torch.as_tensor(answer, dtype=torch.float64, device="cpu")
    if A.shape != (2, 2) or not torch.isfinite(A).all():
        raise ValueError(f"A is a 2 × 2 matrix of finite numbers, yours has shape "
                         f"{tuple(A.shape)}.")
    return {"A": A, "norm": float(inf_norm(A)), "pf": perron_frobenius(A).upper}


norm_without_need = Example(
    look=_pair,
    conditions=[
        (lambda found: bool((found["A"] != 0).all()),
         "No entry may be zero: that would be too easy."),
        (lambda found: found["norm"] > 2, "‖A‖∞ is {0[norm]:.3g}; it must exceed 2."),
        (lambda found: found["pf"] < 1,
         "λ_PF(|A|) is {0[pf]:.3g}, not below 1. The off-diagonal entries enter it only through "
         "their product."),
    ],
    what="a 2 × 2 matrix",
    praise="‖A‖∞ = {0[norm]:.3g} but λ_PF(|A|) = {0[pf]:.3g}: well-posed all the same.",
    hints=[
        "What do the off-diagonal entries of V⁻¹AV look like? And their product?",
        "With the same d on the diagonal, λ_PF(|A|) = |d| + √|bc|, b and c off it: make b large "
        "and c small."],
    right=[[0.1, 3.0], [0.1, 0.1]],
    slips={"No entry may be zero": [[0.0, 3.0], [0.0, 0.0]], "it must exceed 2": [[0.1, 0.1]] * 2,
           "not below 1": [[2.0, 2.0], [2.0, 2.0]], "of finite numbers": [1.0, 2.0]})


def _loop_of_two(answer: object) -> dict:
    """Also the determinant of I − A, and an injection without exactly one solution, if any.

    With a zero diagonal the principal minors of I − A are 1, 1 and the determinant. All are
    positive just where x = max(0, Ax + b) has one solution for each b (I − A is a P-matrix:
    Samelson, Thrall and Wesler 1958; Murty 1972).
    """
    found = _pair(answer)
    (_, p), (q, _) = found["A"].tolist()
    found["det"] = 1 - p * q
    if found["det"] <= 0:  # so p and q have one sign
        found["b"] = [-1.0, -1.0] if p > 0 else [1.0, 1.0]
        found["solutions"] = _solutions(found["A"], torch.tensor(found["b"], device="cpu").double())
    return found


def _solutions(A: Tensor, b: Tensor) -> list[list[float]]:
    """All solutions of x = max(0, Ax + b): one candidate for each set of states above 0."""
    found = []
    for on in torch.cartesian_prod(*2 * [torch.tensor([0.0, 1.0], device="cpu").double()]):
        M = torch.eye(2, device="cpu").double() - on[:, None] * A
        if abs(float(torch.linalg.det(M))) > 1e-12:
            x = torch.linalg.solve(M, on * b)
            if ((A @ x + b).relu() - x).abs().max() <= 1e-9 * (1 + x.abs().max()):
                found.append([round(float(value), 3) + 0.0 for value in x])  # no -0.0
    return [x for k, x in enumerate(found) if x not in found[:k]]


unique_without_pf = Example(
    look=_loop_of_two,
    conditions=[
        (lambda found: not found["A"].diagonal().any(),
         "The diagonal must be zero: no state listens to itself."),
        (lambda found: found["pf"] >= 2, "λ_PF(|A|) is {0[pf]:.3g}; it must be at least 2."),
        (lambda found: found["det"] > 0,
         "For b = {0[b]} there is not exactly one solution but these: {0[solutions]}."),
    ],
    what="a 2 × 2 matrix",
    praise="λ_PF(|A|) = {0[pf]:.3g}, and exactly one solution for every b: one state pushes the "
           "other up, and that one pushes it down. All principal minors of I − A are positive, "
           "here 1, 1 and {0[det]:.3g}; for ReLU that is the exact condition.",
    hints=[
        "λ_PF(|A|) = √|A₁₂A₂₁| sees no signs. Which signs make the two states restrain each "
        "other?",
        "Put one equation into the other: x₁ = max(0, A₁₂·max(0, A₂₁x₁ + b₂) + b₁). The right-hand "
        "side as a function of x₁ must meet the line x₁ once: it does where it falls.",
        "It falls where A₁₂ and A₂₁ have opposite signs."],
    right=[[0.0, 3.0], [-2.0, 0.0]],
    slips={"no state listens to itself": [[-3.0, 1.0], [1.0, -3.0]],
           "must be at least 2": [[0.0, 1.0], [-1.0, 0.0]],
           "For b = [-1.0, -1.0]": [[0.0, 3.0], [2.0, 0.0]],
           "For b = [1.0, 1.0]": [[0.0, -3.0], [-2.0, 0.0]],
           "of finite numbers": [0.0, 3.0, -2.0, 0.0]},
    level=Level.DERIVE)

# ---- the projection ---------------------------------------------------------------------------


def _far(draws: torch.Generator) -> tuple[Tensor, float]:
    """A row of both signs inside the ball or, more often, outside, and the radius."""
    v = normal(6, generator=draws)
    u = torch.rand(2, generator=draws, dtype=torch.float64, device="cpu").tolist()
    kappa = 0.3 + 0.65 * u[0]
    return v * kappa * (0.5 if u[1] < 0.3 else 1.3 + 2 * u[1]) / v.abs().sum(), kappa


def _threshold(v: Tensor, kappa: float) -> float:
    """θ with Σ max(|vᵢ| − θ, 0) = κ: the largest of the candidates of the k largest entries."""
    sizes = v.abs().sort(descending=True).values
    count = torch.arange(1, len(v) + 1, dtype=v.dtype, device=v.device)
    return float(((sizes.cumsum(0) - kappa) / count).max())


def _project(v: Tensor, kappa: float) -> Tensor:
    return v.sign() * (v.abs() - max(_threshold(v, kappa), 0)).clamp_min(0)


def _outside(move: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """`move` for a row outside; one inside stays."""
    return lambda v, kappa: v if v.abs().sum() <= kappa else move(v, kappa)


def _same_for_all(v: Tensor, kappa: float) -> Tensor:
    """The threshold of a row in which nothing becomes zero."""
    return (v.abs() - (v.abs().sum() - kappa) / len(v)).clamp_min(0) * v.sign()


project_row = Exercise(
    inputs=_far,
    right=_project,
    what="the nearest point of the ball",
    shape="The nearest row has as many entries as v, so its shape is (6,)",
    slips={
        "Zero is in the ball, but farther than need be: ‖v − answer‖₂ is to be the smallest.":
            lambda v, kappa: torch.zeros_like(v),
        "v itself is the answer where ‖v‖₁ ≤ κ; outside it must move.": lambda v, kappa: v,
        "That is `row`: it keeps the direction and lands on the ball, but not at the nearest "
        "point. Move every entry by the same amount, not by the same factor.":
            _outside(lambda v, kappa: v * kappa / v.abs().sum()),
        "That is `row`, and it moves rows that are inside already.":
            lambda v, kappa: v * kappa / v.abs().sum(),
        "Right outside. A row with ‖v‖₁ ≤ κ is its own nearest point: there θ is negative.":
            Partly(0.5, lambda v, kappa: v.sign() * (v.abs() - _threshold(v, kappa)).clamp_min(0)),
        "You share the surplus ‖v‖₁ − κ among all entries. Those that reach 0 cannot take their "
        "part, so ‖·‖₁ is above κ still: share it among those that stay.":
            Partly(0.25, _outside(_same_for_all)),
        "The signs are lost: project |v|, and give the entries their signs back.":
            Partly(0.5, lambda v, kappa: _project(v, kappa).abs()),
        "That clips each entry to [−κ, κ], a cube; the ball bounds the sum of the sizes.":
            lambda v, kappa: v.clamp(-kappa, kappa),
        "That is the ball of the Euclidean norm; here ‖v‖₁ ≤ κ.":
            lambda v, kappa: v * min(1.0, kappa / float(v.norm())),
    },
    hints=[
        "If ‖v‖₁ ≤ κ, return v. Otherwise the nearest point is sign(vᵢ)·max(|vᵢ| − θ, 0), with one "
        "θ for all entries, chosen so that the sizes add up to κ. (Why one θ? Moving a little size "
        "from one entry to another must not bring it nearer.)",
        "Σ max(|vᵢ| − θ, 0) falls as θ grows, from ‖v‖₁ at θ = 0 to 0 at max|vᵢ|: halving an "
        "interval 60 times finds θ.",
        "Or at once: if the k largest sizes stay, θ = (their sum − κ)/k; of these candidates for "
        "k = 1, …, n the largest is right. Sort, torch.cumsum, .max()."],
    draws=12,
    praise="Duchi et al. (2008): after sorting, one pass. Done for each row, this is `Project`.",
    level=Level.STRETCH)
