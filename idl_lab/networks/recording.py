"""What torch.fx records of a network, and what a network may do while it is looked at."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import random
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils._python_dispatch import TorchDispatchMode

from idl_lab import validation

_TORCH = Path(torch.__file__).parent


class OneInput(nn.Module):
    """Calls the network with one argument: its other ones keep their defaults.

    Parameters
    ----------
    net : torch.nn.Module
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives.

        Parameters
        ----------
        x : Tensor
        """
        return self.net(x)


class _Proxy(fx.Proxy):
    """Also records ``x += y`` as in place; torch.fx by itself makes it ``x = x + y``."""

    def _record(self, op: Callable, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", op, (self, other), {})

    __iadd__ = functools.partialmethod(_record, operator.iadd)
    __isub__ = functools.partialmethod(_record, operator.isub)
    __imul__ = functools.partialmethod(_record, operator.imul)
    __itruediv__ = functools.partialmethod(_record, operator.itruediv)


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


class _Random(ValueError):
    """The network draws random numbers."""


class _NothingDrawn(TorchDispatchMode):
    """Refuses every operation of torch's that draws random numbers."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _Random(f"it draws random numbers ({func.overloadpacket.__name__}), so that what "
                          f"it computes is no function of its input")
        return func(*args, **(kwargs or {}))


def record(root: nn.Module) -> fx.Graph:
    """What a network does with its input, operation by operation.

    Parameters
    ----------
    root : OneInput

    Raises
    ------
    ValueError
        If its steps depend on the data, or on random numbers.
    """
    try:
        with _NothingDrawn():
            return _Tracer().trace(root)
    # Any exception: the network's own code runs here, on tensors that are only recorded.
    except Exception as error:
        raise _told(error, "torch.fx cannot record what it does, for its steps must not depend on "
                           "the data") from error


def _told(error: Exception, why: str) -> ValueError:
    """What the network's own code raised, with the line that did."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if not Path(f.filename).is_relative_to(_TORCH) and f.filename != __file__]
    at = "".join(f" at line {f.lineno} of {Path(f.filename).name}, {f.line!r}" for f in frames[-1:])
    says = str(error) if isinstance(error, _Random) else f"{why}. It says: {error}"
    return ValueError(f"from_network cannot read the network{at}: {says.rstrip('.')}.")


def run(root: nn.Module, U: Tensor) -> Tensor:
    """What the network itself gives for a batch.

    Parameters
    ----------
    root : OneInput
    U : Tensor, shape (m, *input_shape)

    Raises
    ------
    ValueError
        If it raises an error, or draws random numbers.
    """
    try:
        with _NothingDrawn():
            return root(U.clone())
    except Exception as error:  # the network's own code
        raise _told(error, f"it fails on a batch of shape {tuple(U.shape)}") from error


@contextlib.contextmanager
def left_as_found(net: nn.Module) -> Iterator[Callable[[], None]]:
    """Eval mode without calling ``eval``, which a network may have given side effects.

    Afterwards parameters, buffers, attributes and random numbers are what they were.

    Parameters
    ----------
    net : torch.nn.Module

    Yields
    ------
    callable
        Raises a ValueError where the calls so far changed what the next may depend on, or drew
        random numbers of Python's or numpy's.
    """
    tensors = {name: (T, T.detach().clone()) for name, T in [*net.named_parameters(),
                                                            *net.named_buffers()]}
    modules = [(name, module, dict(vars(module)), [(d, dict(d)) for d in (
        module._parameters, module._buffers, module._modules)])
        for name, module in net.named_modules()]
    rng, dice = torch.get_rng_state(), (random.getstate(), np.random.get_state())

    def check() -> None:
        if repr(dice) != repr((random.getstate(), np.random.get_state())):
            raise ValueError("from_network cannot read the network: it draws random numbers of "
                             "Python's random or of numpy, so that what it computes is no function "
                             "of its input.")
        changed = [name for name, (T, before) in tensors.items() if not torch.equal(T, before)]
        for name, module, found, _ in modules:
            changed += [f"{name}.{key}".lstrip(".") for key, value in found.items()
                        if key != "training" and isinstance(value, bool | int | float | str)
                        and (now := vars(module).get(key)) is not value and now != value]
        if changed:
            raise ValueError(f"from_network cannot read the network: a call changes its "
                             f"{', '.join(changed)}, so that the next may compute something else.")

    try:
        for _, module, *_ in modules:
            module.training = False
        yield check
    finally:
        torch.set_rng_state(rng)
        random.setstate(dice[0])
        np.random.set_state(dice[1])
        for T, before in tensors.values():
            if not torch.equal(T, before):
                T.copy_(before)
        for _, module, found, inner in modules:
            for there, was in [(vars(module), found), *inner]:
                for key in there.keys() - was.keys():
                    del there[key]
                there.update(was)


def check_numbers(net: nn.Module) -> None:
    """Ask for parameters and buffers that are there and finite.

    Parameters
    ----------
    net : torch.nn.Module

    Raises
    ------
    TypeError, ValueError
        If one has no numbers yet, or such that are not real and finite.
    """
    for name, given in [*net.named_parameters(), *net.named_buffers()]:
        if isinstance(given, UninitializedTensorMixin) or given.is_meta:
            raise ValueError(f"{name} has no numbers yet: call the network once, or load its "
                             f"state_dict.")
        if given.is_floating_point() or given.is_complex():
            validation.tensor(name, given.detach())


def check_signature(net: nn.Module) -> None:
    """Ask for a forward that takes one tensor.

    Parameters
    ----------
    net : torch.nn.Module

    Raises
    ------
    ValueError
        If it needs more, or none.
    """
    try:
        inspect.signature(net.forward).bind(None)
    except TypeError:
        names = ", ".join(inspect.signature(net.forward).parameters)
        raise ValueError(f"{type(net).__name__}.forward must take one input, got "
                         f"forward({names}).") from None
    except ValueError:  # of a builtin, which has no signature
        pass
