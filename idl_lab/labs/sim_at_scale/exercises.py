"""The exercises of lab 09."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import normal

most_gained = Guess(
    what="a number of times, such as 8",
    found="At n = 1,000, with as many devices as you like, the whole is {0:.1f} times as fast; "
          "your guess was {1}.")


def _kept(n: int, p: int) -> int:
    """Numbers in the sums of state matching."""
    return (n + p) ** 2 + n * (n + p) + n


break_even = Exercise(
    inputs=lambda draws: tuple(int(torch.randint(low, 9 * low, (), generator=draws))
                               for low in (20, 10)),
    right=lambda n, p: math.ceil(2 * _kept(n, p) / (2 * n + p)),
    what="a whole number of samples, computed from n and p",
    shape="The number of samples is one number",
    level=Level.WARM_UP,
    slips={
        "The sums are in float64, 8 bytes a number, the samples in float32, 4 bytes.":
            lambda n, p: math.ceil(_kept(n, p) / (2 * n + p)),
        "The 2 is on the wrong side: the sums are the ones that take 8 bytes a number.":
            lambda n, p: math.ceil(_kept(n, p) / (2 * (2 * n + p))),
        "State matching needs Z as well as X and U: 2n + p numbers a sample.":
            lambda n, p: math.ceil(2 * _kept(n, p) / (n + p)),
        "A whole number of samples, the first at which the sums are no larger: round up.":
            Partly(0.5, lambda n, p: 2 * _kept(n, p) // (2 * n + p)),
        "ZᵀΦ and the n norms are kept too, not only ΦᵀΦ.":
            lambda n, p: math.ceil(2 * (n + p) ** 2 / (2 * n + p)),
    },
    hints=["A sample is a row of U, of X and of Z: p + n + n numbers of 4 bytes.",
           "The sums are d² + nd + n numbers of 8 bytes, d = n + p.",
           "math.ceil rounds up."],
    draws=6,
    praise="A few times d: whoever has more samples has them summed in less room.")


def _measured(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The sums of samples with three states and two inputs, and the units of the states."""
    Phi = normal(12, 5, generator=draws)
    return Phi.mT @ Phi, 0.5 + 2 * torch.rand(3, generator=draws, dtype=Phi.dtype, device="cpu")


def _in_units(gram: Tensor, v: Tensor, power: float = 1.0, *, both: bool = True) -> Tensor:
    wide = torch.cat([v, torch.ones(len(gram) - len(v), dtype=v.dtype, device=v.device)]) ** power
    return gram / wide / wide[:, None] if both else gram / wide


gram_in_units = Exercise(
    inputs=_measured,
    right=_in_units,
    what="ΦᵀΦ in the new units, computed from the old one and v",
    shape="ΦᵀΦ keeps its shape, (5, 5)",
    level=Level.DERIVE,
    slips={
        "In larger units a number becomes smaller: x′ = x/v.":
            lambda gram, v: _in_units(gram, v, -1.0),
        "Entry (i, j) is a sum over samples of φᵢφⱼ, and both are measured in new units.":
            lambda gram, v: _in_units(gram, v, both=False),
        "Only states have units v; the inputs u stay as they are.":
            lambda gram, v: gram / torch.cat([v, v[:2]]) / torch.cat([v, v[:2]])[:, None],
        "The products of a state and an input change as well, by one factor of v.":
            lambda gram, v: torch.where(
                (torch.arange(5) < 3) == (torch.arange(5) < 3)[:, None], _in_units(gram, v), gram),
        "Each factor of φᵢφⱼ is divided by its own unit once, not twice.":
            lambda gram, v: _in_units(gram, v, 2.0),
    },
    hints=["In the new units Φ′ = [XV⁻¹ U], that is Φ times a diagonal matrix S.",
           "So Φ′ᵀΦ′ = S ΦᵀΦ S, with 1/v and then ones on the diagonal of S.",
           "gram / w / w[:, None] divides columns and rows."],
    praise="So SIM rescales after the last batch: no second pass over a million samples.")


def _scatter(answer: object) -> dict[str, float]:
    """Σ(z − mean)² of some numbers, from their sums in float32, and as it is."""
    z = torch.as_tensor(answer, dtype=torch.float64, device="cpu")
    if z.dim() != 1 or not 2 <= len(z) <= 100:
        raise ValueError(f"A list of 2 to 100 numbers is wanted, got the shape {tuple(z.shape)}.")
    if not z.abs().max() <= 10_000:
        raise ValueError(f"Keep |z| ≤ 10,000, got {float(z.abs().max()):,.0f}.")
    true = float((z - z.mean()).square().sum())
    short = z.float()
    sums = short.square().sum() - short.sum() ** 2 / len(z)
    return {"true": true, "sums": float(sums), "off": abs(float(sums) - true)}


cancellation = Example(
    look=_scatter,
    conditions=[
        (lambda found: found["true"] >= 1,
         "Their scatter is {0[true]:.2g}; make it 1 or more, so that it is worth the digits."),
        (lambda found: found["off"] >= 0.01 * found["true"],
         "From the sums in float32 it is {0[sums]:.7g}, truly {0[true]:.7g}: those are enough "
         "digits."),
        (lambda found: found["off"] >= 0.5 * found["true"],
         "From the sums in float32 it is {0[sums]:.5g}, truly {0[true]:.5g}: wrong, but by less "
         "than half.", 0.5),
    ],
    what="a list of numbers",
    praise="From the sums in float32 {0[sums]:.5g}, truly {0[true]:.5g}. Nothing but the mean is "
           "large.",
    right=[10_000.0, 9_999.0, 9_998.0],
    level=Level.EXPERIMENT,
    hints=["The two sums are about m·mean² each. How many digits of that has float32?",
           "Seven: a mean of 10,000 gives 10⁸ a number, wrong by some units. Choose numbers that "
           "differ by about 1."],
    slips={"A list of 2 to 100": [[1.0, 2.0]], "Keep |z|": [1e6, 1e6 + 1],
           "make it 1 or more": [10_000.0, 9_999.99], "enough digits": [-1.0, 0.0, 2.0],
           "by less than half": [9000.0, 9007.0, 9014.0]})


def _shards(draws: torch.Generator) -> tuple[int, Tensor, Tensor, int, Tensor, Tensor]:
    """Number, mean and scatter matrix of 5 samples, and of 20 whose features have another mean."""
    found: list[int | Tensor] = []
    for m, shift in ((5, 0.0), (20, 3.0)):
        Phi = shift + normal(m, 3, generator=draws)
        mean = Phi.mean(dim=0)
        found += [m, mean, (Phi - mean).mT @ (Phi - mean)]
    return tuple(found)


def _between(mean1: Tensor, mean2: Tensor) -> Tensor:
    return torch.outer(mean1 - mean2, mean1 - mean2)


def _merged(m1: int, mean1: Tensor, S1: Tensor, m2: int, mean2: Tensor, S2: Tensor) -> Tensor:
    return S1 + S2 + m1 * m2 / (m1 + m2) * _between(mean1, mean2)


merged_scatter = Exercise(
    inputs=_shards,
    right=_merged,
    what="the scatter matrix",
    shape="The scatter matrix of three features is a (3, 3) tensor",
    level=Level.STRETCH,
    slips={
        "That is the scatter around each shard's own mean. Around the common mean there is more, "
        "unless the two means agree.":
            lambda m1, mean1, S1, m2, mean2, S2: S1 + S2,
        "The outer product of the means' difference is the right matrix; its weight depends on m1 "
        "and m2.":
            Partly(0.3, lambda m1, mean1, S1, m2, mean2, S2: S1 + S2 + _between(mean1, mean2)),
        "The difference of the means gives a (3, 3) matrix, torch.outer, not one number.":
            lambda m1, mean1, S1, m2, mean2, S2: S1 + S2 + m1 * m2 / (m1 + m2) * (
                mean1 - mean2).square().sum(),
        "That is the covariance; the scatter matrix is not divided by m1 + m2.":
            Partly(0.5, lambda m1, mean1, S1, m2, mean2, S2:
                   _merged(m1, mean1, S1, m2, mean2, S2) / (m1 + m2)),
        "That is the raw sum ΦᵀΦ over both shards; take (m1 + m2) times the outer product of the "
        "common mean away from it.":
            Partly(0.3, lambda m1, mean1, S1, m2, mean2, S2: S1 + S2 + m1 * torch.outer(
                mean1, mean1) + m2 * torch.outer(mean2, mean2)),
    },
    hints=[
        "Go by way of the raw sums: ΦᵀΦ = S + m·mean·meanᵀ in each shard. Add them, and take the "
        "common mean out again.",
        "The common mean is (m1·mean1 + m2·mean2)/(m1 + m2).",
        "What the means add simplifies to m1·m2/(m1 + m2) times the outer product of their "
        "difference."],
    praise="A number, a vector and a matrix a shard are enough, whatever its size.")
