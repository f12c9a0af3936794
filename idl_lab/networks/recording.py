"""What a network does with a batch, and what a network may do while it is looked at."""

from __future__ import annotations

import contextlib
import inspect
import operator
import random
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedTensorMixin
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class _Looked(ValueError):
    """The network looks at numbers that depend on its input."""


# What is asked of a tensor without looking at its numbers.
_QUERIES = frozenset("size dim ndimension __len__ numel nelement stride storage_offset "
                     "is_contiguous is_floating_point is_complex is_signed element_size "
                     "get_device data_ptr __hash__ __format__ __repr__ "
                     # Constants of a tensor's shape and kind; what is empty is none.
                     "new_zeros new_ones new_full new_tensor zeros_like ones_like full_like"
                     .split())
# Python's operators with the tensor on the right, as the operator that computes the same.
_SWAPPED = {"__rsub__": operator.sub, "rsub": operator.sub, "__rdiv__": operator.truediv,
            "__rtruediv__": operator.truediv, "__rmatmul__": operator.matmul}
# Attributes that are tensors, as the method that gives them.
_ATTRIBUTES = {"data": ("detach",), "T": ("transpose", 0, 1), "mT": ("transpose", -2, -1)}


class _Recording(TorchFunctionMode):
    """Writes down which of torch's functions and layers a network calls on one batch.

    The batch is real, so that the network's own code may ask for shapes, dtypes and devices.

    Parameters
    ----------
    root : OneInput
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.paths = {module: path for path, module in root.named_modules()}
        self.nodes: dict[int, tuple[Tensor, fx.Node]] = {}  # the tensor is kept, and so its id
        self.running: list[tuple[str, type]] = []
        self.in_layer = False
        self.first: nn.Module | Tensor | None = None  # the first layer, or its weight

    def run(self, root: nn.Module, U: Tensor) -> None:
        """Fill the graph by a call; if that fails, with all that led there.

        Parameters
        ----------
        root : OneInput
        U : Tensor
        """
        self.nodes[id(U)] = U, self.graph.placeholder("x")
        plain = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self.paths.get(module)
            if self.in_layer or path is None:
                return plain(module, *args, **kwargs)
            if self._is_layer(module):
                if self.first is None and any(True for _ in module.parameters()):
                    self.first = module
                self.in_layer = True
                try:
                    return self._add("call_module", path, args, kwargs,
                                     lambda: plain(module, *args, **kwargs))
                finally:
                    self.in_layer = False
            self.running.append((path, type_before_parametrizations(module)))
            try:
                return plain(module, *args, **kwargs)
            finally:
                self.running.pop()

        nn.Module.__call__ = call
        try:
            with self:
                value = root(U)
        finally:
            nn.Module.__call__ = plain
        self.graph.output(self._nodes(value))

    @staticmethod
    def _is_layer(module: nn.Module) -> bool:
        return module.__module__.startswith("torch.nn") and not isinstance(
            module, nn.Sequential | nn.DataParallel)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        if func is F.linear and self.first is None:
            self.first = args[1] if len(args) > 1 else kwargs["weight"]

        def run() -> Any:
            return func(*args, **(kwargs or {}))

        name = getattr(func, "__name__", str(func))
        if self.in_layer or name in _QUERIES:
            return run()
        if name == "__get__":
            asked = func.__self__.__name__
            if asked in _ATTRIBUTES:
                method, *options = _ATTRIBUTES[asked]
                return self._add("call_method", method, (args[0], *options), {}, run)
            return self._add("call_function", getattr, (args[0], asked), {}, run)
        if name in _SWAPPED:
            return self._add("call_function", _SWAPPED[name], args[1::-1], {}, run)
        plain = name.strip("_") if name.startswith("__") else name
        if hasattr(operator, plain) and name != plain:
            return self._add("call_function", getattr(operator, plain), args, kwargs or {}, run)
        how = "call_method" if getattr(torch.Tensor, name, None) is func else "call_function"
        return self._add(how, name if how == "call_method" else func, args, kwargs or {}, run)

    def _nodes(self, given: Any) -> Any:
        """Tensors that depend on the input as their nodes; others as they are now."""
        def node(v: Any) -> Any:
            if id(v) in self.nodes:
                return self.nodes[id(v)][1]
            return v.detach().clone() if isinstance(v, Tensor) else v

        return fx.node.map_aggregate(given, node)

    def _add(self, op: str, target: Any, args: tuple, kwargs: dict, run: Callable[[], Any]) -> Any:
        with torch._C.DisableTorchFunction():
            given = self._nodes((args, kwargs))  # as they are before the call
        if not any(isinstance(v, fx.Node) for v in tree_leaves(given)):
            return run()

        def node() -> fx.Node:
            made = self.graph.create_node(op, target, *given)
            made.meta["nn_module_stack"] = dict(enumerate(self.running))
            return made

        try:
            value = run()
        except Exception:
            node()  # the place of the failure
            raise
        if not any(isinstance(v, Tensor) for v in tree_leaves(value)) and value is not None:
            if target is getattr:
                return value  # a shape, a dtype, a device
            raise _Looked(f"its steps must not depend on the data, and it looks at numbers "
                          f"({getattr(target, '__name__', target)})")
        made = node()
        if isinstance(value, Tensor):
            self.nodes[id(value)] = value, made
        elif isinstance(value, tuple | list):
            for i, part in enumerate(value):
                self.nodes[id(part)] = part, self.graph.call_function(operator.getitem, (made, i))
        return value


def first_layer(root: nn.Module, like: Tensor) -> nn.Module | Tensor | None:
    """The layer with parameters that a network calls first, or the weight of a linear function.

    Parameters
    ----------
    root : OneInput
    like : Tensor
        Of the network's dtype and device.
    """
    recording = _Recording(root)
    # The layer's own width is not known yet, so that the call fails there, if not before.
    with contextlib.suppress(Exception), _NothingDrawn():
        recording.run(root, like.new_zeros(2, 1))
    return recording.first


def record(root: nn.Module, U: Tensor) -> tuple[fx.Graph, ValueError | None]:
    """What a network does with a batch, operation by operation.

    Parameters
    ----------
    root : OneInput
    U : Tensor, shape (m, *input_shape)

    Returns
    -------
    graph : torch.fx.Graph
        Without an output where the network stopped before; its last operation is then where.
    stopped : ValueError or None
        Why: it draws random numbers, or fails.

    Raises
    ------
    ValueError
        If its steps depend on the data.
    """
    recording = _Recording(root)
    try:
        with _NothingDrawn():
            recording.run(root, U.clone())
    except _Looked as error:
        raise _told(error, "") from error
    except Exception as error:  # the network's own code
        return recording.graph, _told(error, f"it fails on a batch of shape {tuple(U.shape)}")
    return recording.graph, None


def _told(error: Exception, why: str) -> ValueError:
    """What the network's own code raised, with the line that did."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if not Path(f.filename).is_relative_to(_TORCH) and f.filename != __file__]
    at = "".join(f" at line {f.lineno} of {Path(f.filename).name}, {f.line!r}" for f in frames[-1:])
    says = str(error) if isinstance(error, _Random | _Looked) else f"{why}. It says: {error}"
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
