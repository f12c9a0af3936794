"""How good a model's predictions are, on a loader's own batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from idl_lab.model import ImplicitModel
from idl_lab.sim.hooks import Batches, inputs
from idl_lab.training import accuracy


@torch.no_grad()
def score(model: ImplicitModel, loader: Batches) -> float:
    """Accuracy for class labels, R² for float targets.

    Parameters
    ----------
    model : ImplicitModel
        Run on its own device, without gradients.
    loader : iterable of (U, target)
        U is flattened.

    Returns
    -------
    float
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
    kinds, right, error, count = set(), 0.0, 0.0, 0
    shifts, squares, origin = 0.0, 0.0, None
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
        Y = target.reshape(len(U), -1).cpu().double()
        if Y.shape != predictions.shape:
            raise ValueError(f"targets must have {predictions.shape[1]} numbers a sample, as the "
                             f"model predicts, got {Y.shape[1]}.")
        # Σ(y − ȳ)² comes from sums over the batches, Σy² − (Σy)²/m, which cancel to nothing where
        # the mean is large: measured from the first sample they do not.
        origin = Y[0] if origin is None else origin
        error += float((predictions.cpu().double() - Y).square().sum())
        shifts, squares = shifts + (Y - origin).sum(0), squares + (Y - origin).square().sum(0)
    if kinds == {False}:
        return right / count
    spread = float((squares - shifts ** 2 / count).sum())
    if spread <= 0:
        raise ValueError("R² needs targets that differ, got the same one in every sample.")
    return 1 - error / spread


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
