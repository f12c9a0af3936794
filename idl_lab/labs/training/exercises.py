"""The exercises of lab 05."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from idl_lab.data import load
from idl_lab.fixed_point import Picard
from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level
from idl_lab.labs.kit.problems import generator, normal
from idl_lab.model import ImplicitModel
from idl_lab.training import accuracy, fit

first_change = Guess(
    what="a tolerance, such as 1e-4",
    found="The first prediction changes at rtol = {0:g}; your guess was {1}.")


def _sizes(draws: torch.Generator) -> tuple[int, ...]:
    return tuple(int(torch.randint(low, 3 * low, (), generator=draws)) for low in (20, 8, 3, 2))


factored_size = Exercise(
    inputs=_sizes,
    right=lambda n, p, q, rank: 2 * n * rank + n * p + q * n + q * p,
    what="a number, computed from n, p, q and the rank",
    shape="The number of entries is one number",
    level=Level.WARM_UP,
    slips={
        "A is never formed: L and R are what is trained, not the n² entries of their product.":
            lambda n, p, q, rank: n * n + n * p + q * n + q * p,
        "There are two factors, L and R, of n × r each.":
            lambda n, p, q, rank: n * rank + n * p + q * n + q * p,
        "D reads the input directly: q × p entries more.":
            lambda n, p, q, rank: 2 * n * rank + n * p + q * n,
        "That is in how many directions A itself can move. L and R have r² entries more: LM and "
        "RM⁻ᵀ give the same A.":
            lambda n, p, q, rank: (2 * n - rank) * rank + n * p + q * n + q * p,
    },
    hints=["Write down the shapes: L and R are n × r; B reads p inputs into n states.",
           "C reads n states and D p inputs into q outputs. Add up the four."],
    praise="In A it is 2nr instead of n²: fewer as long as r < n/2.")


def _scored(draws: torch.Generator) -> tuple[Tensor, Tensor, float, float]:
    """Scores of five images, C, κ and ‖x‖∞."""
    kappa, size = torch.rand(2, generator=draws, dtype=torch.float64, device="cpu").tolist()
    # The last class is third in most images, and its row of C is the longest.
    usual = torch.tensor([3.0, 2.0, 0.0, 1.5], dtype=torch.float64, device="cpu")
    long = torch.tensor([[1.0], [1.0], [1.0], [9.0]], dtype=torch.float64, device="cpu")
    return (usual + 0.3 * normal(5, 4, generator=draws), long * normal(4, 6, generator=draws),
            0.3 + 0.6 * kappa, 1 + size)


def _margins(scores: Tensor) -> Tensor:
    best = scores.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def _norm(C: Tensor) -> Tensor:
    return C.abs().sum(dim=1).amax()


safe_tolerance = Exercise(
    inputs=_scored,
    right=lambda scores, C, kappa, size:
        _margins(scores).amin() * (1 - kappa) / (2 * _norm(C) * size),
    what="rtol, computed from the scores, C, κ and ‖x‖∞",
    shape="One tolerance for all images is wanted, a number",
    level=Level.DERIVE,
    slips={
        "Two scores may move, the best down and the second best up.":
            lambda scores, C, kappa, size:
                _margins(scores).amin() * (1 - kappa) / (_norm(C) * size),
        "A residual is not the error: the state may be 1/(1 − κ) times as far from the "
        "equilibrium.":
            lambda scores, C, kappa, size: _margins(scores).amin() / (2 * _norm(C) * size),
        "That is safe for the most certain image. The least certain one decides.":
            lambda scores, C, kappa, size:
                _margins(scores).amax() * (1 - kappa) / (2 * _norm(C) * size),
        "‖C‖∞ is the largest row sum of absolute values, not the largest entry.":
            lambda scores, C, kappa, size:
                _margins(scores).amin() * (1 - kappa) / (2 * C.abs().amax() * size),
        "The margin is the best score less the second best, not less the worst.":
            lambda scores, C, kappa, size: (scores.amax(dim=1) - scores.amin(dim=1)).amin()
                * (1 - kappa) / (2 * _norm(C) * size),
    },
    hints=["A prediction is safe while its margin exceeds twice the error of a score.",
           "Put the bound of section 6 for that error and solve for rtol.",
           "scores.topk(2, dim=1).values has the two best scores of each image; the smallest "
           "margin decides."],
    praise="That is the tolerance from which on this bound promises nothing any more.")


def _measure(n: int = 40, kappa: float = 0.9, rank: int | None = None, activation: str = "relu",
             rtol: float = 1e-6) -> dict[str, float]:
    """Accuracy on 547 digits, and work of the loop, of models without D: means of three runs."""
    if not (isinstance(n, int) and 1 <= n <= 100):
        raise ValueError(f"n is a whole number from 1 to 100, got {n!r}.")
    if not kappa >= 0.5:
        raise ValueError("Keep κ ≥ 0.5: with less there is hardly a loop left to be paid for.")
    U, y = load("digits")[0].dataset.tensors
    found = []
    for seed in (101, 102, 103):
        draws = generator(seed)
        model = ImplicitModel(64, 10, n, kappa=kappa, rank=rank, activation=activation,
                              feedthrough=False, solver=Picard(rtol), device="cpu",
                              generator=draws)
        batches = DataLoader(TensorDataset(U[:800], y[:800]), 64, shuffle=True, generator=draws)
        fit(model, batches, epochs=8, lr=0.01, progress=False)
        with torch.no_grad():
            steps = model.equilibrium(U[800:], keep_states=True).stats.steps
            found.append((float(accuracy(model(U[800:]), y[800:])),
                          steps * (n * n if rank is None else 2 * n * rank)))
    right, work = zip(*found, strict=True)
    return {"accuracy": sum(right) / len(found), "loop": sum(work) / len(found)}


_reference = cache(_measure)


def _look(answer: object) -> dict[str, Any]:
    """What the answer's options give, beside the accuracy and the work that are aimed at."""
    if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
        raise TypeError(f"Options are a dictionary such as dict(n=30, rtol=1e-3), got {answer!r}.")
    found, aim = _measure(**answer), _reference()
    return found | {"least": aim["accuracy"] - 0.02, "most": aim["loop"] / 10}


_SAID = "accuracy {0[accuracy]:.3f}, {0[loop]:,.0f} multiply-adds in the loop"
_DEAR = _SAID + (", at most {0[most]:,.0f} are wanted. The loop costs steps × n², or steps × 2nr: "
                 "which of these do the figures let you cut for nothing?")

target_practice = Example(
    look=_look,
    conditions=[
        (lambda found: found["accuracy"] >= found["least"],
         _SAID + ", at least {0[least]:.3f} is wanted: you have cut where it hurts. Without D "
                 "everything that is known of an image is in its n states."),
        (lambda found: found["loop"] <= 3 * found["most"], _DEAR, 0.5),
        (lambda found: found["loop"] <= found["most"], _DEAR),
    ],
    what="a dictionary of options",
    praise=_SAID + ".",
    right={"rank": 1, "kappa": 0.5, "rtol": 1e-1},
    level=Level.EXPERIMENT,
    hints=["Sections 2, 4 and 6 have three knobs that could be turned down at no loss that was "
           "measured.",
           "A loop of rank 1 costs 2n a step, and a step fewer is needed for each factor of ten "
           "or so in rtol."],
    slips={"Options are a dictionary": {3: 4}, "Keep κ ≥ 0.5": {"kappa": 0.4},
           "unexpected keyword": {"kapa": 0.5}, "n is a whole number": {"n": 1000},
           "are wanted. The loop costs": {}, "cut where it hurts": {"n": 4, "rtol": 1e-1}})


def _pairs(scores: Tensor, C: Tensor) -> Tensor:
    """By how much a state may be wrong, in ‖·‖∞, until a class passes the first one, (m, q)."""
    best = scores.argmax(dim=1)
    lead = scores.amax(dim=1, keepdim=True) - scores
    apart = (C[best][:, None] - C).abs().sum(dim=2)
    return torch.where(lead > 0, lead / apart, torch.inf)


def _runner_up(scores: Tensor, C: Tensor) -> Tensor:
    two = scores.topk(2, dim=1)
    apart = (C[two.indices[:, 0]] - C[two.indices[:, 1]]).abs().sum(dim=1)
    return ((two.values[:, 0] - two.values[:, 1]) / apart).amin()


sharper_tolerance = Exercise(
    inputs=_scored,
    right=lambda scores, C, kappa, size: _pairs(scores, C).amin() * (1 - kappa) / size,
    what="rtol, computed from the scores, C, κ and ‖x‖∞",
    shape="One tolerance for all images is wanted, a number",
    level=Level.STRETCH,
    slips={
        "That is the bound of the exercise before. How far can the difference of two scores move, "
        "(C_i − C_j)x, when x is wrong by e?":
            lambda scores, C, kappa, size:
                _margins(scores).amin() * (1 - kappa) / (2 * _norm(C) * size),
        "The second best is not always the one that comes first: a class further behind, whose "
        "row of C differs more, may pass it. Take the smallest over all classes.":
            lambda scores, C, kappa, size: _runner_up(scores, C) * (1 - kappa) / size,
        "Both scores move with the same error of x: the 2 has gone into ‖C_i − C_j‖₁.":
            lambda scores, C, kappa, size: _pairs(scores, C).amin() * (1 - kappa) / (2 * size),
        "A residual is not the error: the state may be 1/(1 − κ) times as far from the "
        "equilibrium.":
            lambda scores, C, kappa, size: _pairs(scores, C).amin() / size,
    },
    hints=["If x is wrong by at most e in each component, y_i − y_j = (C_i − C_j)x + … is wrong "
           "by at most ‖C_i − C_j‖₁ e.",
           "For an image whose best class is i, class j cannot pass it while that is less than "
           "y_i − y_j. Solve for e, take the smallest over images and over j ≠ i.",
           "Then e = rtol·‖x‖∞/(1 − κ). For j = i both differences are 0: leave it out."],
    praise="Never below the other bound, since ‖C_i − C_j‖₁ ≤ 2‖C‖∞.")
