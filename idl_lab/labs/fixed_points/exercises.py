"""The exercises of lab 01."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from idl_lab.fixed_point import Picard
from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal, solve_quietly
from idl_lab.well_posedness import inf_norm

half_way_to_one = Guess(
    what="a factor",
    found="Picard takes {0[0]:.1f} times as many steps, Anderson {0[1]:.1f} times; you said {1}.")

# ---- reading a residual curve -----------------------------------------------------------------


def _curve(draws: torch.Generator) -> tuple[Tensor, float]:
    """The last residuals of a solve that soon falls at one rate, and a tolerance."""
    u = torch.rand(3, generator=draws, dtype=torch.float64, device="cpu").tolist()
    rate, size = 0.5 + 0.45 * u[0], 10 ** (-2 * u[1])
    k = torch.arange(6, dtype=torch.float64, device="cpu")
    # The first two are above the line: a rate read off there is another.
    bump = torch.tensor([3.0, 1.4, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64, device="cpu")
    return size * rate ** k * bump, 10 ** (-5 - 4 * u[2])


def _left(of: Callable[[Tensor, float], float]) -> Callable[[Tensor, float], float]:
    """Rounded up: a part of a step cannot be taken."""
    return lambda residuals, tol: float(math.ceil(of(residuals, tol)))


def _rate(residuals: Tensor) -> float:
    return float(residuals[-1] / residuals[-2])


def _steps(residuals: Tensor, tol: float) -> float:
    return math.log(tol / float(residuals[-1])) / math.log(_rate(residuals))


steps_left = Exercise(
    inputs=_curve,
    right=_left(_steps),
    what="a number of steps",
    shape="One whole number is wanted",
    slips={
        "Right but for the last part of a step: steps are whole, so round up (math.ceil).":
            Partly(0.5, _steps),
        "Rounded down, the last residual is still above tol: round up (math.ceil).":
            Partly(0.5, lambda residuals, tol: float(math.floor(_steps(residuals, tol)))),
        "That counts from the first residual; how many more than were taken?":
            _left(lambda residuals, tol: len(residuals) - 1 + _steps(residuals, tol)),
        "The first steps are not on the straight line yet: take the rate from the last two.":
            _left(lambda residuals, tol: math.log(tol / float(residuals[-1]))
                  / math.log(float(residuals[1] / residuals[0]))),
        "That is the rate averaged over all steps, but the first ones are not on the straight "
        "line yet: take it from the last two.":
            _left(lambda residuals, tol: math.log(tol / float(residuals[-1]))
                  / math.log(float(residuals[-1] / residuals[0]) ** (1 / (len(residuals) - 1)))),
        "The residual has to fall from residuals[-1] to tol, not from 1.":
            _left(lambda residuals, tol: math.log(tol) / math.log(_rate(residuals))),
        "The sign: both logarithms are negative, and so their quotient is positive.":
            lambda residuals, tol: math.ceil(-_steps(residuals, tol)),
    },
    hints=[
        "The curve has become a straight line: each step multiplies the residual by the same "
        "number. Which one?",
        "rate = residuals[-1] / residuals[-2]; look for the smallest k with "
        "residuals[-1] · rate^k ≤ tol.",
        "Take logarithms, and mind the sign of log(rate) when you divide by it; then round up."],
    praise="That is how to decide, while a solve runs, whether to wait for it.",
    level=Level.WARM_UP)

# ---- damping ----------------------------------------------------------------------------------


def _slope(draws: torch.Generator) -> tuple[float]:
    return (-4 * float(torch.rand((), generator=draws, dtype=torch.float64, device="cpu")),)


fastest_damping = Exercise(
    inputs=_slope,
    right=lambda slope: 1 / (1 - slope),
    what="β, computed from the slope",
    shape="β is one number in (0, 1]",
    slips={
        "That is right for the slope −1.5 alone: compute β from the slope that is given.":
            lambda slope: 0.4,
        "That is the β at which the iteration begins to fail: the factor 1 − β + β·slope is −1. "
        "The fastest is where the factor is as small as it can be.":
            Partly(0.25, lambda slope: 2 / (1 - slope)),
        "The sign of the slope: 1 − β + β·slope = 1 − β(1 − slope), and the slope is negative.":
            lambda slope: 1 / (1 + slope),
        "That would be right if a step were β·f(x); the old point stays with the weight 1 − β.":
            lambda slope: -1 / slope,
    },
    hints=[
        "One step multiplies the error by 1 − β + β·slope. Which β makes that vanish?",
        "Write the factor as 1 − β(1 − slope)."],
    praise="The factor 1 − β + β·slope vanishes: as long as ReLU switches nothing off, one step "
           "is enough.")


def _race(answer: object) -> dict:
    A = torch.as_tensor(answer, dtype=torch.float64, device="cpu")
    if A.shape != (2, 2) or not torch.isfinite(A).all():
        raise ValueError(f"A is a 2 × 2 matrix of finite numbers, yours has shape "
                         f"{tuple(A.shape)}.")
    found = {"norm": float(inf_norm(A))}
    if found["norm"] < 1:
        b = torch.ones(1, 2, dtype=torch.float64, device="cpu")
        found["picard"], found["damped"] = (
            solve_quietly(A, b, "relu", Picard(rtol=0, atol=1e-8, max_steps=5000, damping=beta)
                          ).stats.steps for beta in (1.0, 0.5))
        found["ratio"] = found["picard"] / found["damped"]
    return found


damping_pays = Example(
    look=_race,
    conditions=[
        (lambda found: found["norm"] < 1,
         "‖A‖∞ is {0[norm]:.3g}; it must be below 1, so that Picard converges too."),
        (lambda found: found["ratio"] > 1,
         "Picard takes {0[picard]} steps, damped {0[damped]}: damping makes the slope s into "
         "(1 + s)/2. Which s are made smaller by that?", 0.5),
        (lambda found: found["ratio"] >= 5,
         "Picard takes {0[picard]} steps, damped {0[damped]}: that is only {0[ratio]:.1f} times as "
         "many. Which slope is slowest for Picard, and what does damping make of it?"),
    ],
    what="a 2 × 2 matrix",
    praise="Picard takes {0[picard]} steps, damped {0[damped]}. So damping can make a contraction "
           "faster too: where its slowest direction has a negative slope.",
    hints=[
        "Start with one number: for which slopes s in (−1, 1) is |1 + s|/2 below |s|?",
        "A slope near −1 is slow for Picard, and near 0 when damped. Give A such slopes in all "
        "directions, and keep both states above 0, where ReLU does nothing."],
    right=[[-0.9, 0.0], [0.0, -0.9]],
    slips={"it must be below 1": [[-1.5, 0.0], [0.0, -1.5]],
           "Which s are made smaller": [[0.5, 0.4], [0.4, 0.5]],
           "Picard takes 2 steps": [[0.0, 0.0], [0.0, 0.0]],
           "times as many. Which slope": [[-0.5, 0.0], [0.0, -0.5]],
           "yours has shape (2,)": [-0.9, -0.9]})

# ---- Anderson ---------------------------------------------------------------------------------


def _history(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The last three iterates of a state of five, the newest last, and their images."""
    return normal(3, 5, generator=draws), normal(3, 5, generator=draws)


def _weights(R: Tensor) -> Tensor:
    """argmin ‖Σ αᵢ Rᵢ‖₂ with Σ αᵢ = 1."""
    gamma = torch.linalg.lstsq((R[:-1] - R[-1]).T, -R[-1][:, None]).solution[:, 0]
    return torch.cat([gamma, 1 - gamma.sum()[None]])


def _anderson(X: Tensor, F: Tensor) -> Tensor:
    return _weights(F - X) @ F


def _normalised(X: Tensor, F: Tensor) -> Tensor:
    """Weights inversely as the residuals' sizes: plausible, and not the best."""
    alpha = 1 / (F - X).norm(dim=1)
    return alpha / alpha.sum() @ F


def _loose(X: Tensor, F: Tensor) -> Tensor:
    """The other weights free, the newest one at 1: they do not add up to 1."""
    R = F - X
    return F[-1] + torch.linalg.lstsq(R[:-1].T, -R[-1][:, None]).solution[:, 0] @ F[:-1]


def _backwards(X: Tensor, F: Tensor) -> Tensor:
    alpha = _weights(F - X)
    return F[-1] - alpha[:-1] @ (F[:-1] - F[-1])


anderson_step = Exercise(
    inputs=_history,
    right=_anderson,
    what="the next iterate",
    shape="The next iterate is one state, so its shape is (5,)",
    slips={
        "That is Picard's step, the newest image alone.": lambda X, F: F[-1],
        "Equal weights add up to 1, but the residual Σ αᵢ(F − X)ᵢ is not the smallest.":
            lambda X, F: F.mean(dim=0),
        "Small residuals get large weights there, but no one looks whether residuals cancel: "
        "minimise ‖Σ αᵢ(F − X)ᵢ‖₂ itself.": _normalised,
        "The weights are right. They belong to the images F; you combined the iterates X.":
            Partly(0.5, lambda X, F: _weights(F - X) @ X),
        "Those weights minimise the size of Σ αᵢFᵢ; that of the residual, Σ αᵢ(F − X)ᵢ, is wanted.":
            lambda X, F: _weights(F) @ F,
        "The weights do not add up to 1: with α = (γ₁, γ₂, 1 − γ₁ − γ₂) the residual is "
        "R₃ + γ₁(R₁ − R₃) + γ₂(R₂ − R₃), so take the differences of the residuals.": _loose,
        "A sign: R₃ + Σ γᵢ(Rᵢ − R₃) is smallest where Σ γᵢ(Rᵢ − R₃) is nearest to −R₃.":
            Partly(0.5, _backwards),
        "You used the last two only; all three are given.":
            Partly(0.5, lambda X, F: _anderson(X[1:], F[1:])),
    },
    hints=[
        "R = F − X has a residual a row. The constraint goes away if the newest weight is "
        "1 − γ₁ − γ₂.",
        "Then Σ αᵢRᵢ = R[-1] + γ @ (R[:-1] − R[-1]): an ordinary least-squares problem in γ.",
        "torch.linalg.lstsq(M, r).solution minimises ‖Mγ − r‖: M = (R[:-1] − R[-1]).T and "
        "r = −R[-1][:, None]. The step is F[-1] + γ @ (F[:-1] − F[-1])."],
    praise="One step of Anderson with a memory of three. For a linear f of n states, n + 1 "
           "points in general position are enough for the exact answer.",
    level=Level.STRETCH)
