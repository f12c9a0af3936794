"""How good a model's predictions are: against targets, and against those of its teacher."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.model import ImplicitModel
from idl_lab.networks import Block
from idl_lab.sim.hooks import Batches, States, inputs
from idl_lab.training import accuracy

KEPT = 2048  # samples: a share of the variance is then known to about 3 % of what is not explained


class Score(NamedTuple):
    """A figure, and how far it may be off by the choice of the samples.

    Attributes
    ----------
    kind : {"accuracy", "r2", "fidelity"}
    value : float
    error : float
        Its standard error.
    samples : int
    """

    kind: str
    value: float
    error: float
    samples: int


class Explained:
    """R² = 1 − Σ‖ŷ − y‖²/Σ‖y − ȳ‖², summed batch by batch; ȳ is each output's mean."""

    def __init__(self) -> None:
        self.count, self.missed, self.fourth = 0, 0.0, 0.0
        self.origin: Tensor | None = None
        self.shift: Tensor | float = 0.0
        self.square = 0.0

    def add(self, predictions: Tensor, Y: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        predictions, Y : Tensor, shape (m, q)
        """
        Y = Y.detach().cpu().double()
        # Σ(y − ȳ)² comes from sums over the batches, Σy² − (Σy)²/m, which cancel to nothing where
        # the mean is large: measured from the first sample they do not.
        self.origin = Y[0] if self.origin is None else self.origin
        missed = (predictions.detach().cpu().double() - Y).square().sum(dim=1)
        self.count += len(Y)
        self.missed += float(missed.sum())
        self.fourth += float(missed.square().sum())
        self.shift = self.shift + (Y - self.origin).sum(dim=0)
        self.square += float((Y - self.origin).square().sum())

    def score(self, kind: str) -> Score:
        """R² and its standard error; NaN where all y are alike, −∞ where a ŷ is not finite.

        Parameters
        ----------
        kind : str
            What it is called.
        """
        spread = self.square - float((self.shift ** 2).sum()) / self.count
        if not spread > 1e-14 * self.square:
            return Score(kind, math.nan, math.nan, self.count)
        if not math.isfinite(self.missed):
            return Score(kind, -math.inf, math.inf, self.count)
        variance = max(self.fourth / self.count - (self.missed / self.count) ** 2, 0.0)
        return Score(kind, 1 - self.missed / spread,
                     math.sqrt(self.count * variance) / spread, self.count)


class Sample:
    """At most `KEPT` samples of a stream of batches, each as likely to be among them.

    By them a student's outputs are compared with its teacher's: memory and time do not grow with
    the data, and the loader is not passed over again.

    Parameters
    ----------
    size : int
        How many at most.
    """

    def __init__(self, size: int = KEPT) -> None:
        self.size = size
        self.draws = torch.Generator("cpu").manual_seed(0)
        self.kept: tuple[Tensor, ...] = ()  # a key for each sample, U, Y

    def watching(self, batches: Iterable[tuple[tuple[Block, ...], States]]
                 ) -> Iterator[tuple[tuple[Block, ...], States]]:
        """Hand batches on, looking at them on their way.

        Parameters
        ----------
        batches : iterable of (blocks, States)
            As `states_by_batch` gives them.

        Yields
        ------
        blocks, batch
        """
        for blocks, batch in batches:
            keys = torch.rand(len(batch.U), generator=self.draws, device="cpu")
            new = keys, batch.U.flatten(1).cpu(), batch.Y.flatten(1).cpu()
            self.join([self.kept, new] if self.kept else [new])
            yield blocks, batch

    def join(self, parts: Iterable[tuple[Tensor, ...]]) -> None:
        """Keep those of several samples, this one's among them or not, with the largest keys.

        Parameters
        ----------
        parts : iterable of tuple of Tensor
            Of each what `kept` holds.
        """
        every = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
        top = every[0].topk(min(self.size, len(every[0]))).indices
        self.kept = tuple(T[top] for T in every)

    def fidelity(self, model: ImplicitModel) -> Score:
        """Of the model to the outputs that were seen; NaN where none were.

        Parameters
        ----------
        model : ImplicitModel
        """
        if not self.kept:  # of several processes one may have no data
            return Score("fidelity", math.nan, math.nan, 0)
        _, U, Y = self.kept
        return fidelity(model, zip(U.split(256), Y.split(256), strict=True))


@torch.no_grad()
def fidelity(model: ImplicitModel, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """R² of a student's outputs against its teacher's.

    Parameters
    ----------
    model : ImplicitModel
        The student, run on its own device.
    batches : iterable of (U, Y)
        Inputs, and the teacher's outputs.
    """
    seen = Explained()
    with warnings.catch_warnings():
        # Where no solution is found the outputs are no solution's, and the figure says so.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for U, Y in batches:
            seen.add(model(U.to(model.C).flatten(1)), Y.flatten(1))
    return seen.score("fidelity")


@torch.no_grad()
def score(model: ImplicitModel, loader: Batches) -> Score:
    """Accuracy for class labels, R² for float targets.

    Parameters
    ----------
    model : ImplicitModel
        Run on its own device, without gradients.
    loader : iterable of (U, target)
        U is flattened.

    Returns
    -------
    Score
        With integer labels (m,) the share of right ones; with float targets
        R² = 1 − Σ(ŷ − y)²/Σ(y − ȳ)² over all outputs, ȳ each output's mean.

    Raises
    ------
    TypeError
        For batches that are no pairs of tensors, or mix class labels and float targets.
    ValueError
        For an empty loader, targets of another width than the predictions, class labels where
        the model has one output, and float targets that are all alike.
    """
    kinds, right, count, seen = set(), 0.0, 0, Explained()
    for U, target in _pairs(loader):
        predictions = model(U.to(model.C).flatten(1))
        kinds.add(target.is_floating_point())
        count += len(U)
        if len(kinds) > 1:
            raise TypeError("the dataloader gives class labels in some batches and float targets "
                            "in others.")
        if not target.is_floating_point():
            if predictions.shape[1] < 2:
                raise ValueError("a model with one output ranks no classes; give float targets "
                                 "for R².")
            right += len(U) * float(accuracy(predictions, target.to(predictions.device)))
            continue
        Y = target.reshape(len(U), -1)
        if Y.shape != predictions.shape:
            raise ValueError(f"targets must have {predictions.shape[1]} numbers a sample, as the "
                             f"model predicts, got {Y.shape[1]}.")
        seen.add(predictions, Y)
    if kinds == {False}:
        share = right / count
        return Score("accuracy", share, math.sqrt(share * (1 - share) / count), count)
    found = seen.score("r2")
    if math.isnan(found.value):
        raise ValueError("R² needs targets that differ, got the same one in every sample.")
    return found


def _pairs(loader: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    targets: list[Tensor] = []

    def kept() -> Iterator[Any]:
        for batch in loader:
            if not (isinstance(batch, (tuple, list)) and len(batch) == 2
                    and isinstance(batch[1], Tensor)):
                raise TypeError("the dataloader must give pairs (U, target) of tensors.")
            targets.append(batch[1])
            yield batch

    for U in inputs(kept(), progress=False):
        yield U, targets.pop()
