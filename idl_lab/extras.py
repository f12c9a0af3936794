"""What surrounds a call: torch's compiler, its transforms, autocast, a device's clock."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from idl_lab.optional import need as need  # its name for those who ask extras


def never_compiled(function: Callable) -> Callable:
    """Keep torch.compile out of a function whose loops no graph can hold.

    As a decorator torch.compiler.disable itself would double the time of `import idl_lab`.

    Parameters
    ----------
    function : callable
        Called as it is where nothing is being compiled.
    """
    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **options)
        return function(*args, **options)

    return run


class Function(torch.autograd.Function):
    """torch's own, called a third faster: torch takes the signature of ``forward`` apart at every
    call, which costs more than a product of small matrices."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        signature = inspect.signature(cls.forward)
        setattr(cls.forward, "__signature__", signature)  # noqa: B010 - where torch looks first


def transforms() -> list[str]:
    """The torch.func transforms around this call, outermost first: "Grad", "Jvp", "Vmap"."""
    stack = torch._C._functorch.get_interpreter_stack() or []
    return [level.key().name for level in stack]


def under_vmap() -> bool:
    """Whether torch.vmap is around this call, so that numbers cannot be looked at."""
    return torch._C._are_functorch_transforms_active() and "Vmap" in transforms()


def followed() -> bool:
    """Whether torch follows this call otherwise than in reverse mode, for which shortcuts are."""
    return (torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
            or torch.compiler.is_compiling())


def one_tangent() -> None:
    """Refuse forward mode over forward mode.

    torch switches forward mode off inside the jvp of a Function, where this is to be called: a
    second tangent would be lost, silently.

    Raises
    ------
    RuntimeError
        If two of the transforms around this call are forward mode.
    """
    if transforms().count("Jvp") > 1:
        raise RuntimeError("forward mode over forward mode has no place here: use "
                           "torch.func.jacfwd(torch.func.jacrev(f)), as torch.func.hessian.")


def full_precision(like: torch.Tensor) -> contextlib.AbstractContextManager:
    """A context without autocast, which would compute a solve's products in 16 bits.

    Parameters
    ----------
    like : Tensor
        On the device that counts.
    """
    kind = like.device.type
    if not torch.is_autocast_enabled(kind if kind != "meta" else "cpu"):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def unless_autocast(T: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """T as it is; under autocast, whose layers hand on 16 bits, in the dtype of ``like``.

    Parameters
    ----------
    T, like : Tensor
    """
    if not isinstance(full_precision(like), contextlib.nullcontext) and isinstance(T, torch.Tensor):
        return T.to(like.dtype) if T.is_floating_point() else T
    return T


def wide(T: torch.Tensor) -> torch.Tensor:
    """A tensor in float32 if it has 16 bits, in which sums and eigenvalues are not computed.

    Parameters
    ----------
    T : Tensor
    """
    return T.to(torch.promote_types(T.dtype, torch.float32))


def clock(device: torch.device) -> float:
    """`time.perf_counter()`, in seconds, when a device has done all that it was asked for.

    A GPU's host goes on while the device computes: without this it would time its own calls.

    Parameters
    ----------
    device : torch.device
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def refuse_traced() -> None:
    """Refuse to be recorded as a program: one solve's steps would not do for other inputs.

    Raises
    ------
    RuntimeError
        Where torch traces or exports.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        raise RuntimeError("an equilibrium takes as many steps as its input needs, so it cannot "
                           "be traced, exported or compiled into one graph; torch.compile without "
                           "fullgraph leaves it as it is.")
