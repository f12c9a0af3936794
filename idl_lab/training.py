"""Training by gradient descent, with progress, early stopping and a table of the course."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from idl_lab import batches, extras, validation
from idl_lab.bar import progress_bar
from idl_lab.batches import Batches, Loss
from idl_lab.capture import Captured, hindrance
from idl_lab.fixed_point.solution import one_warning

if TYPE_CHECKING:
    import pandas as pd

# Reading a number makes the host wait for a device, so there only so many batches after another.
EVERY = 50


def accuracy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of rows of ``predictions`` (m, q) whose largest entry is at ``labels`` (m,).

    Parameters
    ----------
    predictions : Tensor, shape (m, q)
    labels : Tensor of int, shape (m,)
        In 0 … q − 1.

    Raises
    ------
    TypeError
        If one of them is no dense tensor, or the labels are no whole numbers.
    ValueError
        If the shapes or devices do not match, there is no row, a prediction is not finite, or a
        label is none of the q.
    """
    batches.labels(predictions, labels, axis=-1, count=False)
    if labels.numel() == 0:
        raise ValueError(f"accuracy needs a row, got predictions of {tuple(predictions.shape)}.")
    inside = batches.inside(labels, predictions.shape[-1]).all()
    if not (inside & torch.isfinite(predictions).all()):  # one wait of the host for both
        batches.labels(predictions, labels, axis=-1)
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
        If the loader gives no batch, or something else than pairs of tensors; if the metric gives
        no number, or is one of torch's losses and cannot compare what it is given.
    """
    device = _device(model)
    batches.loader("loader", loader)
    batches.function("metric", metric)
    return _evaluate(model, device, "loader", loader, metric)


def fit(model: nn.Module, train_loader: Batches, val_loader: Batches | None = None,
        epochs: int = 10, lr: float = 5e-3, *, loss: Loss = nn.functional.cross_entropy,
        metric: Loss = accuracy, patience: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        penalty: Callable[[], Tensor] | None = None, capture: str | None = None,
        progress: bool = True) -> pd.DataFrame:
    """Train a model with Adam, in place.

    An interrupt (Ctrl-C, a notebook's stop button) ends the training, not the program: the table
    so far is returned. After it, as after an error, the model is as it was at the end of the best
    epoch where ``patience`` is given, else of the last whole one, which the table's last row
    describes; before the first, as it came.

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
        Of all or some of the model's parameters.
    penalty : callable, optional
        Without arguments, called after the model's forward pass of each training batch; the number
        that it gives is added to the loss. So a layer can be regularised by what its last solve
        left, such as ``lambda: 0.1 * layer.jacobian_penalty()``.
    capture : {"auto"}, optional
        Take the steps from a CUDA graph where the model is on such a device and its step can be
        captured: no Python runs in a step then, not even a hook's, so a model with hooks is left
        out. ``.attrs["captured"]`` says how many steps were, ``.attrs["short"]`` how many of
        these were seen to be short of a solver's tolerance; far ones are warned of.
    progress : bool
        Show a bar, in a notebook or on a terminal; a log file gets none.

    Returns
    -------
    pandas.DataFrame
        A row an epoch: train_loss (without the penalty), penalty and val_metric (where there are
        such), seconds. ``.attrs["status"]`` says how the training ended.

    Raises
    ------
    FloatingPointError
        If the loss becomes NaN or infinite.
    TypeError, ValueError
        As `evaluate`; if there is nothing to train: no trainable parameter, an optimizer of
        others, a loss that does not depend on any. These errors, and all that the loader, the
        model, the loss or the metric raise in an epoch, carry the table so far as ``.history``.
    """
    device = _device(model)
    validation.integer("epochs", epochs)
    validation.real("lr", lr, above=0.0)
    for name, loader in {"train_loader": train_loader, "val_loader": val_loader}.items():
        if loader is not None or name == "train_loader":
            batches.loader(name, loader, passes=epochs)
    for name, function in {"loss": loss, "metric": metric, "penalty": penalty}.items():
        if function is not None or name != "penalty":
            batches.function(name, function)
    if patience is not None:
        validation.integer("patience", patience)
        if val_loader is None:
            raise ValueError("patience needs a val_loader to watch, got None.")
    capture is None or validation.choice("capture", capture, ["auto"])
    frame = extras.need("pandas", "train").DataFrame  # missing, it is missed at once
    step = _Step(model, _optimizer(model, optimizer, lr, capture is not None), loss, penalty)
    take = Captured(step, step.optimizer, step.check) if (
        capture and hindrance(model, step.optimizer) is None) else step
    columns = ["epoch", "train_loss", *["penalty"] * (penalty is not None),
               *["val_metric"] * (val_loader is not None), "seconds"]
    rows: list[dict[str, float]] = []
    last, best, best_metric = _Kept(step, 0), None, -math.inf
    status = "all epochs were run"

    def table() -> pd.DataFrame:
        found = frame(rows, columns=columns).set_index("epoch")
        found.attrs |= {"status": status, "captured": getattr(take, "replayed", 0),
                        "short": getattr(take, "short", 0)}
        return found

    try:
        with progress_bar(total=epochs, desc="training", unit="epoch", progress=progress) as bar:
            for epoch in range(1, epochs + 1):
                start = extras.clock(device)
                row = {"epoch": epoch, **_epoch(step, take, train_loader, device)}
                if val_loader is not None:
                    row["val_metric"] = _evaluate(model, device, "val_loader", val_loader, metric)
                row["seconds"] = extras.clock(device) - start
                last = _Kept(step, epoch)
                if patience is not None and row["val_metric"] > best_metric:
                    best, best_metric = last, row["val_metric"]
                rows.append(row)
                bar.set_postfix({k: f"{row[k]:.3g}" for k in columns[1:-1]})
                bar.update()
                if patience is not None and epoch - (best.epoch if best else 0) >= patience:
                    status = f"stopped: no better val_metric in {patience} epochs"
                    break
        if best is not None:
            best.restore(step)
    except KeyboardInterrupt:
        status = f"interrupted: the model is as {(best or last).restore(step)}"
    except Exception as error:
        status = f"failed: the model is as {(best or last).restore(step)}"
        error.history = table()  # type: ignore[attr-defined]
        error.add_note(f"fit {status}; the table so far is this error's .history.")
        raise
    return table()


class _Kept:
    """The model's state, and its optimizer's, at the end of an epoch."""

    def __init__(self, step: _Step, epoch: int) -> None:
        self.epoch = epoch
        self.state = copy.deepcopy(step.model.state_dict())
        # A NaN in the moments of a user's own optimizer would spoil the next fit with it.
        self.moments = copy.deepcopy(step.optimizer.state_dict()["state"])

    def restore(self, step: _Step) -> str:
        if any(map(nn.parameter.is_lazy, self.state.values())):
            return "it was left, since before its first batch it had no shapes"
        step.model.load_state_dict(self.state)
        step.optimizer.load_state_dict(step.optimizer.state_dict() | {"state": self.moments})
        return f"at the end of epoch {self.epoch}" if self.epoch else "it was given"


class _Step:
    """Loss, gradient and update of one batch."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss,
                 penalty: Callable[[], Tensor] | None) -> None:
        self.model, self.optimizer, self.loss, self.penalty = model, optimizer, loss, penalty
        self.stepped = [p for group in optimizer.param_groups for p in group["params"]]
        self.first_epoch = True

    def __call__(self, U: Tensor, target: Tensor, count: bool | None = None) -> list[Tensor]:
        """The loss, and the penalty if there is one, left on the device."""
        torch.clear_autocast_cache()  # it would hold the weights of before the last step
        predictions = self.model(U)
        # Labels are counted in the first epoch alone: it makes the host wait for the device.
        batches.comparable(self.loss, predictions, target,
                           count=self.first_epoch if count is None else count)
        self.predictions = predictions.detach() if isinstance(predictions, Tensor) else None
        parts = [_differentiable("loss", self.loss(predictions, target))]
        if self.penalty is not None:
            parts.append(_differentiable("penalty", self.penalty()))
        self.optimizer.zero_grad()
        (parts[0] if self.penalty is None else parts[0] + parts[1]).backward()
        if all(p.grad is None for p in self.stepped):
            raise ValueError("optimizer holds only parameters that the loss does not depend on: "
                             "nothing would be trained.")
        self.optimizer.step()
        return [part.detach() for part in parts]

    def check(self, target: Tensor) -> None:
        """Look at the labels of a batch whose step is about to be replayed."""
        if self.first_epoch:
            batches.comparable(self.loss, self.predictions, target)


def _epoch(step: _Step, take: _Step | Captured, loader: Batches, device: torch.device
           ) -> dict[str, float]:
    """Means of the loss and of the penalty over one pass."""
    step.model.train()
    names = ["train_loss", "penalty"][:1 + (step.penalty is not None)]
    totals, count, unread = dict.fromkeys(names, 0.0), 0, []

    def read() -> None:
        nonlocal count
        numbers = iter(torch.stack([value for _, values in unread for value in values]).tolist())
        for size, _ in unread:
            for name in names:
                if not math.isfinite(number := next(numbers)):
                    raise FloatingPointError(
                        f"the {name.replace('train_', 'training ')} became {number} after {count} "
                        f"samples of an epoch: lower lr, keep A well-posed with a constraint, or "
                        f"look for NaN in the batches.")
                totals[name] += size * number
            count += size
        unread.clear()

    with one_warning("an epoch"):  # a log is not to have a line a batch
        for U, target in batches.batches("train_loader", loader, device):
            unread.append((len(target), take(U, target)))
            if device.type == "cpu" or len(unread) == EVERY:
                read()
    if unread:
        read()
    if isinstance(take, Captured):
        take.report()
    step.first_epoch = False
    return {name: total / count for name, total in totals.items()}


def _evaluate(model: nn.Module, device: torch.device, name: str, loader: Batches,
              metric: Loss) -> float:
    was_training = model.training
    model.eval()
    values, sizes = [], []
    torch.clear_autocast_cache()
    try:
        with torch.no_grad():
            for U, target in batches.batches(name, loader, device):
                predictions = model(U)
                batches.comparable(metric, predictions, target)
                values.append(batches.number("metric", metric(predictions, target)))
                sizes.append(len(target))
    finally:
        model.train(was_training)
        torch.clear_autocast_cache()  # weights converted here would have no gradient
    # One wait of the host for all batches together.
    read = torch.stack(values).tolist() if all(isinstance(v, Tensor) for v in values) else values
    return math.fsum(m * float(value) for m, value in zip(sizes, read, strict=True)) / sum(sizes)


# ---- what is asked of the arguments --------------------------------------------------------------


def _device(model: nn.Module) -> torch.device:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    for name, M in model.named_parameters():
        if M.is_meta:
            raise ValueError(f"model must hold numbers, got {name} on the meta device: "
                             f"model.to_empty(device=…) and a new initialisation give it some.")
        return M.device
    return torch.device("cpu")


def _optimizer(model: nn.Module, optimizer: torch.optim.Optimizer | None, lr: float,
               capture: bool) -> torch.optim.Optimizer:
    """Adam by default; refuse an optimizer that would leave the model as it is."""
    own = {id(p) for p in model.parameters() if p.requires_grad}
    if not own:
        raise ValueError(f"model must have a parameter to train, got a {type(model).__name__} "
                         f"with none that requires a gradient.")
    if optimizer is None:
        # In one pass over the parameters, where torch has that: it takes 34 µs instead of 86 for
        # four of 100 × 100 and less.
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda")
                    for p in model.parameters())
        return torch.optim.Adam(model.parameters(), lr=lr, fused=fused,
                                capturable=capture and all(p.is_cuda for p in model.parameters()))
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer made from the model's "
                        f"parameters, got {batches.kind(optimizer)}.")
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if own.isdisjoint(map(id, given)):
        raise ValueError(f"optimizer must hold parameters of the model, got {len(given)} tensors "
                         f"that are none of its {len(own)} trainable ones: make it from "
                         f"model.parameters(), after the model is built.")
    return optimizer


def _differentiable(name: str, value: Tensor) -> Tensor:
    value = batches.number(name, value)
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise TypeError(f"{name} must give a tensor that depends on parameters being trained, got "
                        f"{'a detached one' if isinstance(value, Tensor) else value}.")
    return value
