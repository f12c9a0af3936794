"""Training by gradient descent, with progress, early stopping and a table of the course."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from idl_lab import extras, validation
from idl_lab.bar import progress_bar
from idl_lab.fixed_point.solution import one_warning

if TYPE_CHECKING:
    import pandas as pd

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of rows of ``predictions`` (m, q) whose largest entry is at ``labels`` (m,).

    Parameters
    ----------
    predictions : Tensor, shape (m, q)
    labels : Tensor, shape (m,)

    Raises
    ------
    ValueError
        If the shapes do not match, or a prediction is not finite.
    """
    if predictions.shape[:-1] != labels.shape:
        raise ValueError(f"labels must have shape {tuple(predictions.shape[:-1])}, one for each "
                         f"row of the predictions, got {tuple(labels.shape)}.")
    if not torch.isfinite(predictions).all():
        raise ValueError("predictions must be finite to be ranked, got NaN or infinite entries.")
    return (predictions.argmax(dim=-1) == labels).float().mean()


@torch.no_grad()
def evaluate(model: nn.Module, loader: Batches, metric: Loss = accuracy) -> float:
    """Mean of a metric over a loader's samples.

    Parameters
    ----------
    model : nn.Module
    loader : iterable of (U, target)
        Batches; moved to the model's device.
    metric : callable
        Of (predictions, targets), a mean over the batch; accuracy in [0, 1] by default.

    Raises
    ------
    TypeError, ValueError
        If the loader gives no batch, or something else than pairs.
    """
    device = _device(model)
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for U, target in _batches("loader", loader):
            total += len(U) * float(metric(model(U.to(device)), target.to(device)))
            count += len(U)
    finally:
        model.train(was_training)
    return total / count


def fit(model: nn.Module, train_loader: Batches, val_loader: Batches | None = None,
        epochs: int = 10, lr: float = 5e-3, *, loss: Loss = nn.functional.cross_entropy,
        metric: Loss = accuracy, patience: int | None = None,
        optimizer: torch.optim.Optimizer | None = None, progress: bool = True) -> pd.DataFrame:
    """Train a model with Adam, in place.

    Parameters
    ----------
    model : nn.Module
        Trained in place, on the device it is on.
    train_loader, val_loader : iterable of (U, target)
        Re-iterable batches, such as DataLoaders.
    epochs : int
    lr : float
        Adam's step size; unused where ``optimizer`` is given.
    loss, metric : callable
        Of (predictions, targets), means over the batch. A larger metric is better.
    patience : int, optional
        Stop after this many epochs in a row without a better validation metric, and go back to
        the parameters that had the best. (The best of several is no longer an unbiased estimate:
        keep a test part aside.)
    optimizer : torch.optim.Optimizer, optional
    progress : bool
        Show a bar, in a notebook or on a terminal; a log file gets none.

    Returns
    -------
    pandas.DataFrame
        A row an epoch: train_loss, val_metric (where there is validation), seconds.

    Raises
    ------
    FloatingPointError
        If the loss becomes NaN or infinite.
    """
    device = _device(model)
    validation.integer("epochs", epochs)
    validation.real("lr", lr, above=0.0)
    if patience is not None:
        validation.integer("patience", patience)
        if val_loader is None:
            raise ValueError("patience needs a val_loader to watch, got None.")
    frame = extras.need("pandas", "train").DataFrame  # missing, it is missed at once
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=lr)
    rows, best, best_epoch, best_state = [], -math.inf, 0, None
    with progress_bar(total=epochs, desc="training", unit="epoch", progress=progress) as bar:
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            row = {"epoch": epoch,
                   "train_loss": _epoch(model, train_loader, loss, optimizer, device)}
            if val_loader is not None:
                row["val_metric"] = evaluate(model, val_loader, metric)
                if patience is not None and row["val_metric"] > best:
                    best, best_epoch = row["val_metric"], epoch
                    best_state = copy.deepcopy(model.state_dict())
            row["seconds"] = time.perf_counter() - start
            rows.append(row)
            bar.set_postfix({k: f"{row[k]:.3g}" for k in ("train_loss", "val_metric") if k in row})
            bar.update()
            if patience is not None and epoch - best_epoch >= patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    return frame(rows).set_index("epoch")


def _device(model: nn.Module) -> torch.device:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    return next((M.device for M in model.parameters()), torch.device("cpu"))


def _batches(name: str, loader: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's pairs, at least one."""
    empty = True
    for batch in loader:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise TypeError(f"{name} must give pairs (U, target), got {type(batch).__name__}.")
        empty = False
        yield batch
    if empty:
        raise ValueError(f"{name} gave no batch: it is empty, or a generator that one pass used "
                         f"up; give a DataLoader or a list of (U, target).")


def _epoch(model: nn.Module, loader: Batches, loss: Loss, optimizer: torch.optim.Optimizer,
           device: torch.device) -> float:
    model.train()
    total, count = 0.0, 0
    with one_warning("an epoch"):  # a log is not to have a line a batch
        for U, target in _batches("train_loader", loader):
            U, target = U.to(device), target.to(device)
            value = loss(model(U), target)
            number = float(value.detach())
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"the training loss became {number} after {count} samples of an epoch: lower "
                    f"lr, or keep A well-posed with a constraint.")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += len(U) * number
            count += len(U)
    return total / count
