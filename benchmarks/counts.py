"""What a training step is made of, counted: products with A, waits of the host, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
# On a device their answer, or its size, is known only when all that was asked before is done.
_WAITS = {f"aten::{name}" for name in (
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "repeat_interleave",
    "_unique2", "_linalg_check_errors", "_linalg_eigh", "linalg_eig", "linalg_lstsq")}
_BY_INDEX = ("aten::index", "aten::index_put", "aten::index_put_")


class Calls(TorchDispatchMode):
    """Counts, within, the products with A and the waits of the host on any device.

    Parameters
    ----------
    n : int
        A is (n, n).
    rank : int, optional
        Of A = L Rᵀ, whose products with the two factors count as one half each.
    C : Tensor, optional
        The output's matrix, which may have a factor's shape and does not count.

    Attributes
    ----------
    products : float
    waits : int
    calls : Counter
        Of all operations of torch, by name.
    """

    def __init__(self, n: int, rank: int | None = None, C: Tensor | None = None) -> None:
        super().__init__()
        self.apart = None if C is None else C.data_ptr()
        self.weights = {(n, n): 1.0}
        if rank is not None:
            self.weights |= {(n, rank): 0.5, (rank, n): 0.5}
        self.products, self.waits, self.calls = 0.0, 0, Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.calls[name] += 1
        if name in _WAITS or (name in _BY_INDEX and _by_mask(args[1])):
            self.waits += 1
        if name in _PRODUCTS:
            known = [self.weights.get(tuple(M.shape[-2:]), 0.0) for M in args[-2:]
                     if M.data_ptr() != self.apart]
            if known.count(0.0) == len(known) - 1:  # L Rᵀ formed is no product with a batch
                self.products += sum(known)
        return func(*args, **kwargs or {})


def _by_mask(indices: list[Tensor | None]) -> bool:
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)


def peak(function: Callable[[], object]) -> float:
    """Megabytes by which a call raises what torch has allocated on the CPU, at its highest.

    Parameters
    ----------
    function : callable
        Of no arguments; what it leaves behind counts too.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = [event for event in profiled.profiler.kineto_results.events()
              if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest / 2**20
