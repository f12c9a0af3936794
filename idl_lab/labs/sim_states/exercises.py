"""The exercises of lab 07."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal

without_loop = Guess(
    what='"better" or "worse"',
    found="Digits, not rescaled: from κ = 0.99 to κ = 0.05 the student gets {0}; your guess was "
          "{1}.")


def _sums(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coefficients of three rows, and what nine samples of four features leave of themselves."""
    Phi, Z, W = (normal(*shape, generator=draws) for shape in ((9, 4), (9, 3), (3, 4)))
    return W, Phi.mT @ Phi, Z.mT @ Phi, Z.square().sum(dim=0)


def _square(W: Tensor, gram: Tensor) -> Tensor:
    """‖Φβ‖² of each row β."""
    return ((W @ gram) * W).sum(dim=1)


def _inner(W: Tensor, cross: Tensor) -> Tensor:
    return (W * cross).sum(dim=1)


gram_objective = Exercise(
    inputs=_sums,
    right=lambda W, gram, cross, norms: 0.5 * _square(W, gram) - _inner(W, cross) + 0.5 * norms,
    what="½‖Φβ − z‖² of each row of W, written with gram, cross and norms",
    shape="The misfit of each row is wanted, three numbers",
    level=Level.WARM_UP,
    slips={
        "That is ‖Φβ − z‖²: the factor ½ is missing.":
            lambda W, gram, cross, norms: _square(W, gram) - 2 * _inner(W, cross) + norms,
        "The sign of the middle term: (a − b)² = a² − 2ab + b².":
            lambda W, gram, cross, norms:
                0.5 * _square(W, gram) + _inner(W, cross) + 0.5 * norms,
        "The middle term of the square counts twice: (a − b)² = a² − 2ab + b².":
            lambda W, gram, cross, norms:
                0.5 * (_square(W, gram) - _inner(W, cross) + norms),
        "‖z‖² is missing: a constant, but without it this is not the misfit.":
            lambda W, gram, cross, norms: 0.5 * _square(W, gram) - _inner(W, cross),
        "The first term is βᵀ(ΦᵀΦ)β; that is ‖β‖² weighed by the diagonal of ΦᵀΦ alone.":
            lambda W, gram, cross, norms:
                0.5 * W.square() @ gram.diagonal() - _inner(W, cross) + 0.5 * norms,
    },
    hints=[
        "Expand ‖Φβ − z‖² = (Φβ − z)ᵀ(Φβ − z) and find ΦᵀΦ, Φᵀz and zᵀz in it.",
        "βᵀ(ΦᵀΦ)β of every row at once is ((W @ gram) * W).sum(dim=1)."],
    praise="Three products instead of nine samples, or of a million.")


def _row(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    return normal(30, 5, generator=draws), normal(30, generator=draws)


row_of_zeros = Exercise(
    inputs=_row,
    right=lambda Phi, z: (Phi.mT @ z).abs().amax(),
    what="the smallest λ, computed from Φ and z",
    shape="λ is one number",
    level=Level.DERIVE,
    slips={
        "Not the sum of all |φⱼᵀz|: each entry of β leaves zero at a λ of its own, and the first "
        "to leave decides.":
            lambda Phi, z: (Phi.mT @ z).abs().sum(),
        "A negative φⱼᵀz pulls as hard as a positive one: absolute values.":
            lambda Phi, z: (Phi.mT @ z).amax(),
        "That would be right for ‖Φβ − z‖²/(2m), as scikit-learn has it; here nothing is divided "
        "by the number of samples.":
            lambda Phi, z: (Phi.mT @ z).abs().amax() / len(z),
        "That would be right without the ½ before the square.":
            lambda Phi, z: 2 * (Phi.mT @ z).abs().amax(),
        "From that λ on one entry is zero; the row is zero from the λ on at which all are.":
            lambda Phi, z: (Phi.mT @ z).abs().amin(),
        "That is the bound of a penalty λ‖β‖₂; with ℓ₁ each entry is weighed by itself.":
            lambda Phi, z: torch.linalg.vector_norm(Phi.mT @ z),
    },
    hints=[
        "At β = 0 the misfit's gradient is −Φᵀz. A small step in entry j gains |φⱼᵀz| and costs λ, "
        "a unit.",
        "So no entry leaves zero as long as λ ≥ |φⱼᵀz| for every j."],
    draws=12,  # in some of them the largest φⱼᵀz is negative
    praise="That is ‖Φᵀz‖∞, the right end of every path of λ. The ball has no say: 0 is in it.")


def _candidate(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """A row with zeros, not far from optimal, the sums of its problem, and λ."""
    Phi, beta, force = (normal(*shape, generator=draws) for shape in ((40, 6), (6,), (6,)))
    zero = torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.bool, device="cpu")
    beta = beta.masked_fill(zero, 0.0)
    force = torch.where(zero, 4.5 * force, 3 * beta.sign() + force)
    return beta, Phi.mT @ Phi, Phi.mT @ (Phi @ beta) + force, 3.0


def _slack(beta: Tensor, gradient: Tensor, lam: float) -> Tensor:
    """By how much each entry breaks its condition."""
    return torch.where(beta == 0, (gradient.abs() - lam).clamp(min=0),
                       (gradient + lam * beta.sign()).abs())


optimality = Exercise(
    inputs=_candidate,
    right=lambda beta, gram, cross, lam: _slack(beta, gram @ beta - cross, lam).amax(),
    what="the largest violation, one number",
    shape="The largest violation is one number",
    level=Level.DERIVE,
    slips={
        "Where βⱼ ≠ 0 the two forces must cancel, gⱼ + λ sign(βⱼ) = 0: mind the sign.":
            lambda beta, gram, cross, lam: _slack(-beta, gram @ beta - cross, lam).amax(),
        "At a zero entry the gradient may be anything up to λ: only what exceeds λ is a violation.":
            lambda beta, gram, cross, lam: (gram @ beta - cross + lam * beta.sign()).abs().amax(),
        "Zero entries have a condition too: |gⱼ| ≤ λ.":
            lambda beta, gram, cross, lam:
                (_slack(beta, gram @ beta - cross, lam) * (beta != 0)).amax(),
        "The penalty is missing: that is the gradient of the misfit alone.":
            lambda beta, gram, cross, lam: (gram @ beta - cross).abs().amax(),
        "|gⱼ| ≤ λ is the condition at the zeros; elsewhere gⱼ must be −λ sign(βⱼ) exactly.":
            lambda beta, gram, cross, lam:
                ((gram @ beta - cross).abs() - lam).clamp(min=0).amax(),
    },
    hints=[
        "The gradient of the misfit is g = (ΦᵀΦ)β − Φᵀz.",
        "The derivative of λ|βⱼ| is λ sign(βⱼ), and at 0 anything between −λ and λ.",
        "torch.where(beta == 0, …, …) takes |gⱼ| − λ, if positive, at the zeros and "
        "|gⱼ + λ sign(βⱼ)| elsewhere."],
    draws=12,
    praise="Zero at the optimum and only there: but how far away the optimum is, this number does "
           "not say. A gap does.")


def _hill(answer: object) -> dict[str, float]:
    """The misfit of y = u at two scalar models and in their middle."""
    models = torch.as_tensor(answer, dtype=torch.float64, device="cpu")
    if models.shape != (2, 3):
        raise ValueError(f"Two triples (a, b, c) are wanted, got the shape "
                         f"{tuple(models.shape)}.")
    if not models[:, 0].abs().max() <= 0.9:
        raise ValueError("Keep |a| ≤ 0.9 in both.")
    u = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, device="cpu")

    def loss(model: Tensor) -> float:
        a, b, c = model
        x = (b * u / (1 - a)).clamp(min=0)  # the one x = max(0, ax + bu)
        return float(0.5 * (c * x - u).square().mean())

    one, other = models
    return {"ends": max(loss(one), loss(other)), "middle": loss((one + other) / 2)}


hill = Example(
    look=_hill,
    conditions=[
        (lambda found: found["ends"] <= 1e-6,
         "Both models must give ŷ = u; the worse one has the loss {0[ends]:.2g}."),
        (lambda found: found["middle"] > 1e-6,
         "The model in the middle fits as well as both ends: no hill. Are the two apart?"),
        (lambda found: found["middle"] >= 1,
         "A hill, but a low one: the loss in the middle is {0[middle]:.2g}; 1 is wanted.", 0.5),
    ],
    what="two triples (a, b, c)",
    praise="Loss 0 at both ends and {0[middle]:.2g} in the middle: no convex function does that. "
           "The two are one function in two units of the state.",
    right=((0.0, 4.0, 0.25), (0.0, 0.25, 4.0)),
    level=Level.EXPERIMENT,
    hints=["For u > 0 and b > 0 the state is x = bu/(1 − a), so ŷ = u asks for cb/(1 − a) = 1.",
           "Take a = 0: which two pairs b, c have the product 1, and a middle that has not?"],
    slips={"Two triples": ((0.0, 1.0), (0.0, 1.0)), "Keep |a| ≤ 0.9": ((1, 1, 1), (0, 1, 1)),
           "Both models must give": ((0.0, 1.0, 1.0), (0.0, 4.0, 4.0)),
           "no hill": ((0.5, 1.0, 0.5), (0.5, 1.0, 0.5)),
           "a low one": ((0.0, 1.5, 1 / 1.5), (0.0, 1 / 1.5, 1.5))})


def _lasso(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """A row somewhere, the features and the target, and a λ that its gradient exceeds, or not."""
    Phi, beta, z = (normal(*shape, generator=draws) for shape in ((20, 6), (6,), (20,)))
    return 0.5 * beta, Phi, z, 2 + 30 * float(torch.rand((), generator=draws, device="cpu"))


def _limit(beta: Tensor, Phi: Tensor, z: Tensor, lam: float) -> float:
    """The largest s for which ‖Φᵀν‖∞ ≤ λ, ν = s(Φβ − z)."""
    return float(lam / (Phi.mT @ (Phi @ beta - z)).abs().amax())


def _shrunk(*row: Any) -> float:
    return min(1.0, _limit(*row))


def _gap(beta: Tensor, Phi: Tensor, z: Tensor, lam: float, s: float, *, sign: float = 1.0
         ) -> Tensor:
    residual = Phi @ beta - z
    nu = s * residual
    return (0.5 * residual @ residual + lam * beta.abs().sum()
            + 0.5 * nu @ nu + sign * nu @ z)


def _best(beta: Tensor, Phi: Tensor, z: Tensor, lam: float) -> float:
    residual, largest = Phi @ beta - z, _limit(beta, Phi, z, lam)
    return min(max(float(-residual @ z / (residual @ residual)), -largest), largest)


duality_gap = Exercise(
    inputs=_lasso,
    right=lambda *row: _gap(*row, _shrunk(*row)),
    what="the gap, one number",
    shape="The gap is one number",
    level=Level.STRETCH,
    slips={
        "That is the bound of the residual as it is: some entry of Φᵀν exceeds λ there, and the "
        "minimum over β′ is −∞. Shrink ν first.":
            lambda *row: _gap(*row, 1.0),
        "The sign of νᵀz: g(ν) = −½‖ν‖² − νᵀz, and ν = s(Φβ − z).":
            lambda *row: _gap(*row, _shrunk(*row), sign=-1.0),
        "That is the bound g(ν); the gap is the objective less the bound.":
            lambda *row: _gap(*row, 0.0) - _gap(*row, _shrunk(*row)),
        "That is the objective of the row. The bound is missing.":
            lambda *row: _gap(*row, 0.0),
        "That is the objective without λ‖β‖₁, less the bound.":
            lambda beta, Phi, z, lam: _gap(beta, Phi, z, lam, _shrunk(beta, Phi, z, lam))
                - lam * beta.abs().sum(),
        "Not the sum of |φⱼᵀν|: a single one above λ makes the minimum −∞, so the largest decides.":
            lambda beta, Phi, z, lam: _gap(beta, Phi, z, lam, min(
                1.0, float(lam / (Phi.mT @ (Phi @ beta - z)).abs().sum()))),
        "Shrunk, never stretched: where ‖Φᵀ(Φβ − z)‖∞ is below λ, ν is the residual itself.":
            Partly(0.5, lambda *row: _gap(*row, _limit(*row))),
        "A true bound, and a better one than was asked for: you have looked for the best multiple "
        "of the residual. Here ν is the residual times min(1, λ/‖Φᵀ(Φβ − z)‖∞).":
            Partly(0.75, lambda *row: _gap(*row, _best(*row))),
    },
    hints=[
        "With h(β′) = λ‖β′‖₁ the minimum over β′ of h(β′) + (Φᵀν)ᵀβ′ is taken entry by entry: 0 if "
        "|φⱼᵀν| ≤ λ, else −∞.",
        "So g(ν) = −½‖ν‖² − νᵀz as long as ‖Φᵀν‖∞ ≤ λ. Take ν = s(Φβ − z) with "
        "s = min(1, λ/‖Φᵀ(Φβ − z)‖∞).",
        "The gap is ½‖Φβ − z‖² + λ‖β‖₁ − g(ν)."],
    draws=12,
    praise="Zero only at the optimum, and everywhere at least the distance from it.")
