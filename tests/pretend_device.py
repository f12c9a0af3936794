"""An accelerator that every machine has: tensors that say device "meta" and hold real numbers.

It finds what otherwise a GPU alone would find: a tensor made on the wrong device is refused where
it meets another, a random number generator of the CPU is refused on the device, and each wait of
the host for the device is counted, with its place. Numbers are the CPU's to the bit. What is slow
on a GPU, and how a GPU's own kernels round, it does not show.

    with pretend_device() as device:
        model = ImplicitModel(3, 2, 8, device=device)
        model(torch.randn(5, 3, device=device)).sum().backward()
        device_waits()                # Counter({"validation.py:56 _local_scalar_dense": 3, …})
"""

from __future__ import annotations

import collections
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from idl_lab import validation

DEVICE = torch.device("meta")
# These may read one device and write another, as on a GPU; lengths are always the CPU's.
LENGTHS = {"aten::_pack_padded_sequence", "aten::_pad_packed_sequence"}
CROSSES = {"aten::_to_copy", "aten::to", "aten::copy_", *LENGTHS}
# Their answer, its size, or whether they failed is known only when the device is done.
WAITS = {f"aten::{name}" for name in (
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "repeat_interleave",
    "unique_consecutive", "_unique2", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd",
    "linalg_eig", "linalg_lstsq")}
# These make nothing that a device would have to compute.
IDLE = {f"aten::{name}" for name in (
    "_local_scalar_dense", "is_nonzero", "_unsafe_view", "_reshape_alias", "set_", "resize_")}
# Of these it is said what is left to the CPU: the products are what a device is there for.
PRODUCTS = {f"aten::{name}" for name in (
    "mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "convolution")}
BY_INDEX = {"aten::index", "aten::index_put", "aten::index_put_"}
_waits: collections.Counter[str] = collections.Counter()
_elsewhere: dict[str, int] = {}
_launches: collections.Counter[str] = collections.Counter()


class Pretend(Tensor):
    """A tensor "on the device"; its numbers are in ``held``, on the CPU."""

    is_meta = False  # it has numbers

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretend:
        strides = {} if held.layout != torch.strided else {
            "strides": held.stride(), "storage_offset": held.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=DEVICE,
                                             **strides)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"Pretend({self.held})"

    # To torch's own code a sparse one is dense too: such a wrapper cannot have another layout.
    layout = property(lambda self: self.held.layout)
    is_sparse_csr = property(lambda self: self.held.is_sparse_csr)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Pretend) -> None:  # as ``module.double()`` sets it
        Tensor.data.__set__(self, other)
        self.held = other.held

    def to_dense(self) -> Tensor:
        return self if self.layout == torch.strided else Pretend(self.held.to_dense())

    def to_sparse_csr(self) -> Tensor:
        return self if self.is_sparse_csr else super().to_sparse_csr()

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else self.held, spec)

    def __reduce_ex__(self, protocol: int) -> tuple:  # in a file it is the CPU's, as it is read
        return self.held.__reduce_ex__(protocol)

    def tolist(self) -> list:
        _waits[_place("aten::_local_scalar_dense")] += 1
        return self.held.tolist()

    def __getitem__(self, at: object) -> Tensor:
        # Of a list torch makes an index on the device itself, which for "meta" has no numbers.
        return super().__getitem__(tuple(
            torch.tensor(part, device="cpu") if isinstance(part, list) else part
            for part in (at if isinstance(at, tuple) else (at,))))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees the calls that make a tensor on the device and are given none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """Python's numbers come by way of the CPU: for "meta" torch itself would forget them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.new_tensor:
            func, args, kwargs = torch.tensor, args[1:], {
                "dtype": args[0].dtype, "device": args[0].device} | kwargs
        if func in (torch.tensor, torch.as_tensor) and _is_device(kwargs.get("device")):
            return func(*args, **kwargs | {"device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


def _is_device(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


@functools.cache
def _kind(func) -> tuple[str, bool, bool]:
    """An operation's name, whether a device would be given work, and whether it turns a shape."""
    name, returns = func._schema.name, func._schema.returns
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return name, not view and "empty" not in name and name not in IDLE, (
        torch.Tag.inplace_view in func.tags)


def _run(func, args: tuple, kwargs: dict):
    """One operation of torch: computed on the CPU, given back on the device it would be on."""
    name, works, turns = _kind(func)
    tensors: list[Tensor] = []
    held, plain = _held(args, tensors), {k: _held(v, tensors) for k, v in kwargs.items()}
    on_device = any(isinstance(t, Pretend) for t in tensors)
    to_device = on_device
    if plain.get("device") is not None:
        to_device = _is_device(plain["device"])
        plain["device"] = torch.device("cpu")
    if on_device and name not in CROSSES:
        by_index = name in BY_INDEX  # the index itself may be the CPU's
        for t in (args[0], *args[2:3]) if by_index else tensors:
            if isinstance(t, Tensor) and not isinstance(t, Pretend) and t.dim() > 0:
                raise RuntimeError(f"{name}: a CPU tensor of shape {tuple(t.shape)} meets tensors "
                                   f"of the device.")
    if to_device and plain.get("generator") is not None:
        raise RuntimeError(f"{name}: a generator of the CPU cannot draw on the device.")
    leaves_it = not isinstance(args[0], Pretend) if name == "aten::copy_" else not to_device
    by_mask = name in BY_INDEX and any(t.dtype == torch.bool for t in tensors[1:])
    later = name == "aten::copy_" and len(args) > 2 and args[2]  # non_blocking: the host goes on
    if on_device and (name in WAITS or leaves_it and not later or by_mask):
        _waits[_place(name)] += 1
    if works and (on_device or to_device):
        _launches[name.removeprefix("aten::")] += 1
    plain.pop("pin_memory", None)
    out = func(*held, **plain)
    if name in PRODUCTS and not to_device:
        place, inner = _place(name), tensors[1 if name == "aten::convolution" else -1]
        inner = inner[0].numel() if name == "aten::convolution" else inner.shape[-2]
        _elsewhere[place] = max(_elsewhere.get(place, 0), out.numel() * inner)
    if turns and on_device:
        with no_dispatch():
            func(*args, **kwargs)  # of the wrapper too, or it would go on saying its old shape
    if name == "aten::copy_":
        return args[0]
    if not to_device:
        return out
    # What was written in place is given back as the object that was handed in.
    written = {id(t.held): t for t in tensors if isinstance(t, Pretend)}
    lengths = torch.int64 if name in LENGTHS else None

    def back(t):
        if isinstance(t, Tensor):
            return t if t.dtype == lengths else written[id(t)] if id(t) in written else Pretend(t)
        return type(t)(map(back, t)) if isinstance(t, list | tuple) else t

    return back(out)


def _held(given, tensors: list[Tensor]):
    """An argument with the CPU's tensors in place of the device's; all of these join a list."""
    if isinstance(given, Tensor):
        tensors.append(given)
        return given.held if isinstance(given, Pretend) else given
    if isinstance(given, list | tuple):
        return type(given)([_held(part, tensors) for part in given])
    return given


def _place(name: str) -> str:
    """The nearest line outside torch and this file that the host waits in."""
    frame = sys._getframe(2)
    while frame.f_back and ("/torch/" in frame.f_code.co_filename
                            or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {name.removeprefix('aten::')}"


def device_waits() -> collections.Counter[str]:
    """Where the host waited for the device since the last call, and how often."""
    return _read(_waits)


def device_launches() -> collections.Counter[str]:
    """What the device was given to compute since the last call, by the operation's name.

    Each is one kernel at least; what a GPU's own libraries make of one it does not show.
    """
    return _read(_launches)


def products_elsewhere() -> dict[str, int]:
    """Where the CPU was given products since the last call: multiply-adds of the largest."""
    seen = dict(_elsewhere)
    _elsewhere.clear()
    return seen


def _read(counter: collections.Counter[str]) -> collections.Counter[str]:
    seen = collections.Counter(counter)
    counter.clear()
    return seen


@contextlib.contextmanager
def pretend_device() -> Iterator[torch.device]:
    """Within, device "meta" is an accelerator that computes, and idl_lab takes its name."""
    known = validation.resolve_device
    validation.resolve_device = lambda device="auto": (
        DEVICE if str(device) in ("auto", DEVICE.type) else known(device))
    for seen in (_waits, _launches, _elsewhere):
        seen.clear()
    try:
        with _Mode(), _Numbers():
            yield DEVICE
    finally:
        validation.resolve_device = known
