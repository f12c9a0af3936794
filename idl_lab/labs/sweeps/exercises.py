"""The exercises of lab 10."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise


def _spread_and_difference(draws: torch.Generator) -> tuple[float, float]:
    spread, ratio = torch.rand(2, generator=draws, dtype=torch.float64).tolist()
    spread = 0.005 + 0.02 * spread
    return spread, spread * (0.2 + 0.5 * ratio)


seeds_needed = Exercise(
    inputs=_spread_and_difference,
    right=lambda s, d: math.ceil(8 * s ** 2 / d ** 2),
    what="the number of runs",
    shape="One whole number is wanted",
    slips={
        "Both settings have the spread s: the variance of the difference is the sum of two.":
            lambda s, d: math.ceil(4 * s ** 2 / d ** 2),
        "That makes the difference one standard error; two are wanted.":
            lambda s, d: math.ceil(2 * s ** 2 / d ** 2),
        "The right formula; a number of runs is whole, so round it up.":
            lambda s, d: 8 * s ** 2 / d ** 2,
        "The standard error falls with the root of R, so R grows with the square of s/d.":
            lambda s, d: math.ceil(8 ** 0.5 * s / d),
    },
    hints=[
        "The mean of R runs has the variance s²/R, a difference of two such means 2s²/R. Set d to "
        "twice its root and solve for R."],
    praise="Half the difference takes four times the runs.")


def _scores(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    quality = torch.randn(12, generator=draws, dtype=torch.float64)
    noise = torch.randn(2, 12, generator=draws, dtype=torch.float64)
    return tuple(0.86 + 0.01 * quality + 0.02 * noise)


honest_score = Exercise(
    inputs=_scores,
    right=lambda validation, test: test[validation.argmax()].clone(),
    what="the score to report",
    shape="One number is wanted",
    slips={
        "That is the score that the run was chosen by: it was chosen because it is high.":
            lambda validation, test: validation.max(),
        "That chooses by the test part, which makes it a validation part.":
            lambda validation, test: test.max(),
        "That is the score of a run taken at random, not of the one that you would use.":
            lambda validation, test: test.mean(),
    },
    hints=[
        "Choose by one part, and judge the run that you have chosen by the other."],
    praise="Chosen by one part, judged by another.")
