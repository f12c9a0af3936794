"""The exercises of lab 10."""

from __future__ import annotations

import itertools
import math

import torch
from scipy import stats
from torch import Tensor

from idl_lab.labs.kit.exercise import Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal

# ---- how many seeds -------------------------------------------------------------------------


def _spread_and_difference(draws: torch.Generator) -> tuple[float, float]:
    spread, ratio = torch.rand(2, generator=draws, dtype=torch.float64, device="cpu").tolist()
    spread = 0.005 + 0.02 * spread
    return spread, spread * (0.2 + 0.5 * ratio)


seeds_needed = Exercise(
    inputs=_spread_and_difference,
    right=lambda s, d: math.ceil(8 * s ** 2 / d ** 2),
    what="the number of runs",
    shape="One whole number is wanted",
    level=Level.DERIVE,
    slips={
        "Both settings have the spread s: the variance of the difference is the sum of two.":
            lambda s, d: math.ceil(4 * s ** 2 / d ** 2),
        "That makes the difference one standard error; two are wanted.":
            lambda s, d: math.ceil(2 * s ** 2 / d ** 2),
        "The right formula; a number of runs is whole, so round it up.":
            Partly(0.5, lambda s, d: 8 * s ** 2 / d ** 2),
        "The standard error falls with the root of R, so R grows with the square of s/d.":
            lambda s, d: math.ceil(8 ** 0.5 * s / d),
    },
    hints=[
        "The mean of R independent runs has the variance s²/R. What has the difference of two?",
        "Its standard error is the root, √(2 s²/R). Set d to twice that.",
        "Square it: d² = 8 s²/R. Solve for R, and round up."],
    praise="Half the difference takes four times the runs.")

# ---- who stops at the first difference ------------------------------------------------------


def _course(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Twelve differences with a mean of up to 1.5 standard deviations, and Student's t."""
    mean = 3 * torch.rand((), generator=draws, dtype=torch.float64, device="cpu") - 1.5
    t = [1e3, *stats.t.ppf(0.975, range(1, 13))]
    return normal(12, generator=draws) + mean, torch.tensor(t, dtype=torch.float64, device="cpu")


def _leaves_zero_out(d: Tensor, t: Tensor, known: float = 1.0, free: int = 1, side: float = 0.0
                     ) -> list[bool]:
    """Of each number of seeds from 2 on: whether the interval has no zero in it.

    The rest says what is done wrong: n − known in the variance, n − free degrees of freedom, and
    one side alone.
    """
    return [bool((d[:n].mean() * (side or d[:n].mean().sign()))
                 > t[n - free] * (d[:n].var(correction=known) / n) ** 0.5)
            for n in range(2, len(d) + 1)]


def _first(said: list[bool]) -> int:
    return said.index(True) + 2 if any(said) else 0


def _for_good(said: list[bool]) -> int:
    """The first number of seeds from which on zero stays outside."""
    stays = [all(said[k:]) for k in range(len(said))]
    return _first(stays)


announced = Exercise(
    inputs=_course,
    right=lambda d, t: _first(_leaves_zero_out(d, t)),
    what="the number of seeds after which a difference is announced",
    shape="One whole number is wanted",
    level=Level.EXPERIMENT,
    draws=12,
    slips={
        "From there on zero stays outside. Whoever stops at the first such interval does not see "
        "the later ones.": lambda d, t: _for_good(_leaves_zero_out(d, t)),
        "A difference may be negative too: compare |mean| with the half-width.":
            lambda d, t: _first(_leaves_zero_out(d, t, side=1.0)),
        "s² divides by R − 1: the mean was taken from the same numbers. (numpy's std divides by "
        "R unless told otherwise.)": lambda d, t: _first(_leaves_zero_out(d, t, known=0.0)),
        "R differences have R − 1 degrees of freedom: t[R − 1].":
            lambda d, t: _first(_leaves_zero_out(d, t, free=0)),
        "That is the place in a list that starts at two seeds, or at zero: a number of seeds is "
        "wanted.": lambda d, t: max(0, _first(_leaves_zero_out(d, t)) - 2),
    },
    hints=[
        "Go through R = 2, 3, …, 12 and look at the first R differences alone.",
        "The half-width is t[R − 1] s/√R, with s from d[:R].std().",
        "Return the first R with |mean| above it, and 0 where there is none."],
    praise="Where there is no difference at all, whoever looks after each of 2 to 12 seeds "
           "announces one in 21 courses of 100, not in 5. So set the number of seeds before you "
           "look.")

# ---- the best of many -----------------------------------------------------------------------


def _scores(draws: torch.Generator, runs: int = 12) -> tuple[Tensor, Tensor]:
    quality = normal(runs, generator=draws)
    noise = normal(2, runs, generator=draws)
    return tuple(0.86 + 0.01 * quality + 0.02 * noise)


honest_score = Exercise(
    inputs=_scores,
    right=lambda validation, test: test[validation.argmax()].clone(),
    what="the score to report",
    shape="One number is wanted",
    level=Level.WARM_UP,
    slips={
        "That is the score that the run was chosen by: it was chosen because it is high.":
            lambda validation, test: validation.max(),
        "That chooses by the test part, which makes it a validation part.":
            lambda validation, test: test.max(),
        "That is the score of a run taken at random, not of the one that you would use.":
            lambda validation, test: test.mean(),
    },
    hints=[
        "Two questions, two parts of the data: which run would you use, and how good is it?",
        "`argmax` of the one part says which run; look that run up in the other part."],
    praise="Chosen by one part, judged by another.")


def _some(draws: torch.Generator) -> tuple[Tensor, Tensor, int]:
    return *_scores(draws, 7), int(torch.randint(2, 5, (), generator=draws, device="cpu"))


def _mean_over(choices: itertools.combinations, seen: Tensor, unseen: Tensor) -> Tensor:
    """The mean of `unseen` at the run with the largest `seen` of each choice."""
    return torch.stack([unseen[max(some, key=lambda i: float(seen[i]))]
                        for some in choices]).mean()


expected_best = Exercise(
    inputs=_some,
    right=lambda v, t, K: _mean_over(itertools.combinations(range(len(v)), K), v, t),
    what="the mean test score of the best of K runs",
    shape="One number is wanted",
    level=Level.STRETCH,
    slips={
        "That is the mean of the scores that one chooses by, luck included. The choice is right; "
        "average the test scores of the chosen runs.": Partly(1 / 3, lambda v, t, K: _mean_over(
            itertools.combinations(range(len(v)), K), v, v)),
        "That chooses by the test part, which makes it a validation part.":
            lambda v, t, K: _mean_over(itertools.combinations(range(len(v)), K), t, t),
        "You drew with replacement: a run can be among the K only once.":
            Partly(1 / 3, lambda v, t, K: _mean_over(
                itertools.product(range(len(v)), repeat=K), v, t)),
        "The first K runs are one of all ways to draw K of them: average over all.":
            lambda v, t, K: t[v[:K].argmax()].clone(),
        "That is the best of all the runs there are; of K of them it is often another.":
            lambda v, t, K: t[v.argmax()].clone(),
    },
    hints=[
        "`itertools.combinations(range(R), K)` lists the ways to draw K of R runs, each as likely "
        "as any other.",
        "In each, the run with the highest validation score is taken. Average its test score.",
        "Without a list: with the runs sorted by validation score, the best first, run i (from 0) "
        "is taken where the other K − 1 come from the R − 1 − i behind it: in C(R − 1 − i, K − 1) "
        "of C(R, K) ways."],
    praise="That is how the curve of test scores above was computed, without running anything "
           "again.")

# ---- a guess --------------------------------------------------------------------------------

pairs_by_chance = Guess(
    what="a number of pairs",
    found="By chance about {0:.0f} of the 36 would; you said {1}.")
