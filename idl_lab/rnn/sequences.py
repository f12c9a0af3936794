"""Sequences of one or of different lengths, as torch packs them: longest first, time after time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from idl_lab import validation
from idl_lab.extras import unless_autocast


def pack(name: str, u: Tensor | PackedSequence, lengths: Tensor | Sequence[int] | None, *,
         like: Tensor, p: int, batch_first: bool = True) -> PackedSequence:
    """Check a batch of sequences and pack it.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    u : Tensor or PackedSequence
        Shape (batch, time, p), or (time, batch, p), or packed.
    lengths : sequence or Tensor of int, shape (batch,), optional
        Of padded sequences; all of it by default.
    like : Tensor
        The dtype and device wanted.
    p : int
        The number of inputs wanted.
    batch_first : bool
        Which of the two shapes it is.

    Raises
    ------
    TypeError, ValueError
        If u or lengths does not fit.
    """
    if isinstance(u, PackedSequence):
        if lengths is not None:
            raise ValueError(f"lengths belongs to padded sequences, got {name} packed, which has "
                             f"its own.")
        u = u._replace(data=unless_autocast(u.data, like))
        validation.tensor(f"{name}.data", u.data, "steps p", like=like, p=p)
        return u
    axes = "batch time p" if batch_first else "time batch p"
    u = unless_autocast(u, like)
    validation.tensor(name, u, axes, like=like, p=p)
    by_time = u.transpose(0, 1) if batch_first else u
    time, m = by_time.shape[:2]
    if time == 0:
        raise ValueError(f"{name} must hold at least one time step, got shape "
                         f"{tuple(u.shape)}.")
    if lengths is not None:
        lengths = _lengths(lengths, m, time)
    if lengths is None or m == 0:
        return PackedSequence(by_time.reshape(time * m, p), torch.full((time,), m, device="cpu"))
    return pack_padded_sequence(by_time, lengths, enforce_sorted=False)


def unpack(outputs: Tensor, packed: PackedSequence, u: Tensor | PackedSequence,
           batch_first: bool = True) -> Tensor | PackedSequence:
    """What was computed for ``packed``, in the form that ``u`` came in; zero past a length.

    Parameters
    ----------
    outputs : Tensor, shape (steps, hidden)
        In the order of ``packed.data``.
    packed : PackedSequence
        What `pack` made of ``u``.
    u : Tensor or PackedSequence
    batch_first : bool
    """
    if isinstance(u, PackedSequence):
        return packed._replace(data=outputs)
    m, time = u.shape[:2] if batch_first else u.shape[1::-1]
    if packed.sorted_indices is not None:
        return pad_packed_sequence(packed._replace(data=outputs), batch_first,
                                   total_length=time)[0]
    by_time = outputs.reshape(time, m, outputs.shape[1])
    return by_time.transpose(0, 1) if batch_first else by_time


def ordered(h: Tensor, indices: Tensor | None, dim: int = 0) -> Tensor:
    """The sequences of h in the order of ``indices``, as they are where there are none.

    Parameters
    ----------
    h : Tensor
    indices : Tensor of int, shape (batch,), or None
        ``sorted_indices`` or ``unsorted_indices`` of a packed batch.
    dim : int
        The axis of the batch.
    """
    return h if indices is None else h.index_select(dim, indices)


def turned(sizes: Sequence[int], device: torch.device) -> Tensor:
    """The order in which packed steps are each sequence read from its own end; its own inverse.

    Parameters
    ----------
    sizes : sequence of int
        ``batch_sizes``, how many sequences run at each time.
    device : torch.device
        Of the indices, shape (steps,).
    """
    live = torch.tensor(sizes, device="cpu")
    starts = live.cumsum(0) - live
    time = torch.arange(len(live), device="cpu").repeat_interleave(live)
    which = torch.arange(len(time), device="cpu") - starts[time]
    lengths = (live[:, None] > torch.arange(sizes[0], device="cpu")).sum(dim=0)
    return (starts[lengths[which] - 1 - time] + which).to(device)


def _lengths(lengths: Tensor | Sequence[int], m: int, time: int) -> Tensor:
    """The lengths as whole numbers on the CPU, where torch packs."""
    try:
        values = torch.as_tensor(lengths, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"lengths must be whole numbers, got {lengths!r}.") from None
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if values.numel() and not whole:
        raise TypeError(f"lengths must be whole numbers, got {values.dtype}.")
    if values.shape != (m,):
        raise ValueError(f"lengths must have shape ({m},), one for each sequence, got "
                         f"{tuple(values.shape)}.")
    wrong = [v for v in values.tolist() if not 1 <= v <= time]
    if wrong:
        raise ValueError(f"lengths must be between 1 and the time steps given, {time}, got "
                         f"{wrong[0]}.")
    return values
