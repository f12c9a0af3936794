"""What training asks of a loader, its batches, their labels, and of a loss or a metric."""

from __future__ import annotations

import numbers
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset, IterableDataset

from idl_lab import validation

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
WANTED = "a DataLoader or a list of (U, target)"
# Losses of torch whose demands are known; a function of one's own knows what it takes.
OF_CLASSES = nn.functional.cross_entropy, nn.CrossEntropyLoss
ENTRYWISE = (nn.functional.mse_loss, nn.functional.l1_loss, nn.functional.smooth_l1_loss,
             nn.functional.huber_loss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def loader(name: str, value: Batches, passes: int = 1) -> None:
    """Refuse what gives no batches, or none from the second pass on, before any work is done.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : iterable of (U, target)
    passes : int
        How often it is gone through.

    Raises
    ------
    TypeError
        If it cannot be gone through so often, or is a dataset of single samples or one pair.
    """
    if isinstance(value, Dataset) and not isinstance(value, IterableDataset):
        raise TypeError(f"{name} must give batches, got a {kind(value)}, which gives single "
                        f"samples: DataLoader(dataset, batch_size=64) makes batches.")
    if isinstance(value, type) or not (
            isinstance(value, Iterable) or hasattr(value, "__getitem__")):
        raise TypeError(f"{name} must be {WANTED}, got {kind(value)}.")
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Tensor):
        raise TypeError(f"{name} must be {WANTED}, got one pair: write [(U, target)].")
    if passes > 1 and isinstance(value, (types.GeneratorType, map, zip)):
        raise TypeError(f"{name} must last for {passes} epochs, got a {kind(value)}, which one "
                        f"pass uses up: give {WANTED}.")


def batches(name: str, given: Batches, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of tensors on the device, at least one.

    Parameters
    ----------
    name : str
        Whose batches they are, for the message.
    given : iterable of (U, target)
    device : torch.device

    Raises
    ------
    TypeError, ValueError
        If something else is given, or nothing; if a target is a single sample's or empty.
    """
    empty = True
    for batch in given:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise TypeError(f"{name} must give pairs (U, target), got a {kind(batch)}{size}.")
        U, target = batch
        if not isinstance(U, PackedSequence):
            tensor(f"U of a batch of {name}", U, dense=False)
        tensor(f"the target of a batch of {name}", target)
        if target.dim() == 0 or len(target) == 0:
            raise ValueError(f"{name} must give batches of samples, got a target of shape "
                             f"{tuple(target.shape)}: DataLoader(dataset, batch_size=64) makes "
                             f"batches.")
        empty = False
        # A copy to CUDA that blocks would wait for all that the device still has to do.
        later = device.type == "cuda"
        yield U.to(device, non_blocking=later), target.to(device, non_blocking=later)
    if empty:
        raise ValueError(f"{name} gave no batch: it is empty, or a generator that one pass used "
                         f"up; give {WANTED}.")


def function(name: str, value: Callable) -> None:
    """Refuse what cannot be called, and a class where an instance is meant.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : callable

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(value, type) or not callable(value):
        hint = f": {value.__name__}() makes one" if isinstance(value, type) else ""
        raise TypeError(f"{name} must be a function, got {kind(value)}{hint}.")


def comparable(compare: Loss, predictions: Tensor, target: Tensor, count: bool = True) -> None:
    """Refuse what a loss of torch's own would broadcast, or refuse in words that name no argument.

    Parameters
    ----------
    compare : callable
        A loss or a metric; of one that is not torch's nothing is asked.
    predictions, target : Tensor
    count : bool
        Look at the labels' values too, which makes the host wait for a device.

    Raises
    ------
    TypeError, ValueError
        If the target is of another shape, or holds no labels where classes are compared.
    """
    if any(compare is known or type(compare) is known for known in OF_CLASSES):
        tensor("predictions", predictions)
        if not (target.is_floating_point() and target.shape == predictions.shape):
            labels(predictions, target, axis=min(1, predictions.dim() - 1), count=count,
                   of_torch=True, ignored=getattr(compare, "ignore_index", -100))
    elif any(compare is known or type(compare) is known for known in ENTRYWISE):
        tensor("predictions", predictions)
        if target.shape != predictions.shape:
            raise ValueError(f"the target must have the shape of the predictions, "
                             f"{tuple(predictions.shape)}, got {tuple(target.shape)}.")


def labels(predictions: Tensor, given: Tensor, *, axis: int = -1, ignored: int | None = None,
           of_torch: bool = False, count: bool = True) -> None:
    """Refuse labels that are no classes of predictions.

    Parameters
    ----------
    predictions : Tensor, shape (..., q)
    given : Tensor of int
    axis : int
        Which axis of the predictions is that of the classes.
    ignored : int, optional
        A label that stands for none.
    of_torch : bool
        Ask for the dtypes that torch's losses take, of all whole numbers.
    count : bool
        Look at the labels' values too.

    Raises
    ------
    TypeError, ValueError
        If they are no whole numbers, of another shape or device, or outside 0 … q − 1.
    """
    tensor("predictions", predictions)
    tensor("labels", given)
    validation.check_shape("predictions", predictions, "... q")
    if predictions.dtype == torch.bool:
        raise TypeError("predictions must be numbers to be ranked, got torch.bool.")
    wanted = list(predictions.shape)
    q = wanted.pop(axis)
    whole = not (given.is_floating_point() or given.dtype == torch.bool)
    if not whole or (of_torch and given.dtype not in (torch.int64, torch.uint8)):
        raise TypeError(f"labels must be whole numbers{' of int64' * of_torch}, got {given.dtype} "
                        f"of shape {tuple(given.shape)}: labels.long() converts them.")
    if list(given.shape) != wanted:
        one_hot = ": labels.argmax(-1) makes labels of one-hot rows"
        raise ValueError(f"labels must have shape {tuple(wanted)}, one for each row of the "
                         f"predictions, got {tuple(given.shape)}"
                         f"{one_hot * (given.shape == predictions.shape)}.")
    if given.device != predictions.device:
        raise ValueError(f"labels are on {given.device}, wanted on {predictions.device}, where the "
                         f"predictions are: move one of them with .to(device).")
    if count and not (there := inside(given, q, ignored)).all():
        bad = given[~there].flatten()
        raise ValueError(f"labels must be in 0 … {q - 1}, the predictions' {q} classes, got "
                         f"{len(bad)} others, such as {int(bad[0])}.")


def inside(given: Tensor, q: int, ignored: int | None = None) -> Tensor:
    """Which labels are one of q classes, or the one that is ignored.

    Parameters
    ----------
    given : Tensor of int
    q : int
    ignored : int, optional
    """
    given = given.long()  # 8 bits would not hold q
    there = (given >= 0) & (given < q)
    return there if ignored is None else there | (given == ignored)


def tensor(name: str, value: Tensor, dense: bool = True) -> None:
    """Refuse what is no tensor, or holds no real numbers one beside the other.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : Tensor
        Of any dtype and shape.
    dense : bool
        False leaves the layout to the model, and what kind of numbers they are.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {kind(value)}.")
    if dense and (value.is_nested or value.layout != torch.strided or value.is_complex()):
        what = "nested" if value.is_nested else f"{value.dtype} of layout {value.layout}"
        raise TypeError(f"{name} must be a dense tensor of real numbers, got one that is {what}.")
    if value.is_meta:
        raise ValueError(f"{name} must hold numbers, got a tensor on the meta device.")


def number(name: str, value: Tensor | float) -> Tensor | float:
    """One real number, as a float or as a tensor without axes.

    Parameters
    ----------
    name : str
        What gave it, for the message.
    value : Tensor or float

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(value, numbers.Real):
        return float(value)
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        got = (f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor)
               else kind(value))
        raise TypeError(f"{name} must give one real number for a batch, got {got}.")
    return value.reshape(()) if value.dim() else value


def kind(value: Any) -> str:
    """What a value is, in words.

    Parameters
    ----------
    value : object
    """
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
