"""Read an explicit network off: the matrices of the implicit model that computes the same.

torch.fx records what the network does with its input. Every tensor on the way is an affine
function Σ_k M_k x_k + M_u u + b of the input u and of the states x_k, with sparse M; a linear
operation multiplies these matrices, and an activation ends the expression: its argument is the
row (A, B, bias) of a new block of states. With the last block first, A is strictly upper
block-triangular (El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3)).
What each operation does to the matrices is in `affine.py`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedTensorMixin
from torch.nn.utils.parametrize import type_before_parametrizations

from idl_lab import validation
from idl_lab.activations import ACTIVATION_CALLS, Activation
from idl_lab.networks.affine import (
    LAYERS,
    OPERATIONS,
    OVERWRITING,
    READABLE,
    operation_name,
)
from idl_lab.networks.blocks import Block, Network, blockwise
from idl_lab.networks.patterns import Pattern, from_scipy
from idl_lab.networks.value import INPUT, Store, Value
from idl_lab.operators import uniform_

__all__ = ["Block", "Network", "Pattern", "READABLE", "as_matrices", "blockwise",
           "from_scipy", "redraw"]
_TORCH = Path(torch.__file__).parent


def as_matrices(net: nn.Module, input_shape: Sequence[int] | None = None) -> Network:
    """The matrices that compute what a network computes in eval mode; the net stays as it is.

    Parameters
    ----------
    net : torch.nn.Module
        Takes one tensor, (batch, *input_shape), and gives one.
    input_shape : sequence of int, optional
        Without the batch dimension, such as ``(1, 28, 28)``; a net whose first layer is Linear
        needs none.

    Returns
    -------
    Network

    Raises
    ------
    TypeError
        If ``net`` is no module.
    ValueError
        If it holds an operation that is neither linear nor a known activation, named with its
        place; if it has no activation at all, or numbers that are not finite.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3):930-958.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}.")
    _check_numbers(net)
    _check_signature(net)
    with torch.no_grad(), _eval_mode(net):
        root = _OneInput(net)
        graph = _trace(root)
        shape = _input_shape(root, graph, input_shape)
        reader = _Reader(root, shape)
        output = reader.interpret(graph)
    if not reader.blocks:
        raise ValueError(f"{type(net).__name__} has no activation, so it is linear; an implicit "
                         f"model needs at least one state.")
    dtypes = [p.dtype for p in net.parameters() if p.is_floating_point()]
    return _assemble(reader, output, dtypes[0] if dtypes else torch.get_default_dtype())


def redraw(net: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Draw an explicit network anew, in place, from U(−1/√fan_in, 1/√fan_in), as torch does.

    Parameters
    ----------
    net : torch.nn.Module
        Of layers with a ``weight``, such as Linear and Conv2d, and of torch's recurrent layers,
        for which fan_in is the size of the hidden state.
    generator : torch.Generator, optional
        torch's global one by default.

    Returns
    -------
    torch.nn.Module
        ``net`` itself.
    """
    for layer in net.modules():
        for M in layer.parameters(recurse=False):
            recurrent = isinstance(layer, nn.RNNBase)
            uniform_(M, layer.hidden_size if recurrent else layer.weight[0].numel(), generator)
    return net


# --- the network, looked at -----------------------------------------------------------------


class _OneInput(nn.Module):
    """Calls the network with one argument: its other ones keep their defaults."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
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


def _trace(root: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(root)
    # Any exception: the network's own code runs here, on tensors that are only recorded.
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__)
                  if not Path(f.filename).is_relative_to(_TORCH) and f.filename != __file__]
        at = "".join(f" at line {f.lineno} of {Path(f.filename).name}, {f.line!r}"
                     for f in frames[-1:])
        raise ValueError(f"torch.fx cannot record what the network does{at}; its steps must not "
                         f"depend on the data. It says: {error}") from error


@contextlib.contextmanager
def _eval_mode(net: nn.Module) -> Iterator[None]:
    """Eval mode without calling ``eval``, which a network may have given side effects."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _check_numbers(net: nn.Module) -> None:
    for name, numbers in [*net.named_parameters(), *net.named_buffers()]:
        if isinstance(numbers, UninitializedTensorMixin) or numbers.is_meta:
            raise ValueError(f"{name} has no numbers yet: call the network once, or load its "
                             f"state_dict.")
        if numbers.is_floating_point() or numbers.is_complex():
            validation.tensor(name, numbers.detach())


def _check_signature(net: nn.Module) -> None:
    try:
        inspect.signature(net.forward).bind(None)
    except TypeError:
        names = ", ".join(inspect.signature(net.forward).parameters)
        raise ValueError(f"{type(net).__name__}.forward must take one input, got "
                         f"forward({names}).") from None


def _input_shape(root: nn.Module, graph: fx.Graph, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise TypeError(f"input_shape must be sizes without the batch dimension, such as "
                            f"(1, 28, 28), got {given!r}.")
        return tuple(validation.integer("input_shape", size) for size in given)
    for node in graph.nodes:
        if node.op == "call_module":
            layer = root.get_submodule(node.target)
            if isinstance(layer, nn.Linear):
                return (layer.in_features,)
            if any(True for _ in layer.parameters()) and not isinstance(layer, nn.BatchNorm1d):
                break
        elif node.op == "call_function" and node.target is F.linear:
            weight = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
            if getattr(weight, "op", "") == "get_attr":
                return (operator.attrgetter(weight.target)(root).shape[1],)
            break
    raise ValueError("input_shape is needed where the first layer is not Linear: give the sizes "
                     "of one input without the batch dimension, such as input_shape=(1, 28, 28).")


# --- the graph, run on affine functions -------------------------------------------------------


class _Reader:
    """Runs a recorded graph; collects a block, and the argument of its φ, for each activation."""

    def __init__(self, root: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.root, self.input_shape = root, input_shape
        self.blocks: list[Block] = []
        self.arguments: list[Store] = []
        self.calls: Counter[str] = Counter()

    def interpret(self, graph: fx.Graph) -> Store:
        env: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            kwargs = dict(kwargs)
            if node.op == "output":
                if not isinstance(args[0], Value):
                    raise ValueError(f"the network must return one tensor made from its input, "
                                     f"got {type(args[0]).__name__}.")
                return args[0].store
            place = self._place(node)
            try:
                with np.errstate(all="ignore"):  # instead of a warning, an error follows below
                    env[node] = value = self._evaluate(node, place, args, kwargs)
                if isinstance(value, Value) and not _finite(value.store):
                    raise ValueError("its numbers overflow or divide by zero")
            # Whatever torch or numpy say of odd arguments is told with the place in the network.
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
                    ValueError) as error:
                raise ValueError(f"from_network cannot read {place}: {str(error).rstrip('.')}. "
                                 f"{READABLE}") from error
        raise AssertionError("a graph ends with its output")

    def _place(self, node: fx.Node) -> str:
        """Where a node stands: the layer's path, or the function and the module that calls it."""
        if node.op == "call_module":
            self.calls[node.target] += 1
            again = f", call {n}" if (n := self.calls[node.target]) > 1 else ""
            layer = type_before_parametrizations(self.root.get_submodule(node.target))
            path = node.target.removeprefix("net").removeprefix(".") or "the network"
            return f"{path} ({layer.__name__}{again})"
        stack = list(node.meta.get("nn_module_stack", {}).values())
        if not stack:
            return node.name
        path, kind = stack[-1]
        path = path.removeprefix("net").removeprefix(".") or "the network"
        return f"{node.name} in {path} ({kind.__name__})"

    def _evaluate(self, node: fx.Node, place: str, args: tuple, kwargs: dict) -> Any:
        if node.op == "placeholder":
            p = math.prod(self.input_shape)
            return Value(self.input_shape, Store({INPUT: scipy.sparse.eye_array(p, format="csr")},
                                                 np.zeros(p)))
        if node.op == "get_attr":
            return operator.attrgetter(node.target)(self.root).detach().clone()
        given: list[Value] = []
        fx.node.map_aggregate((args, kwargs),
                              lambda v: given.append(v) if isinstance(v, Value) else None)
        if not given:  # arithmetic of sizes and constants
            return self._constant(node, args, kwargs)
        if node.op == "call_module":
            name, options = self._layer(self.root.get_submodule(node.target))
            kwargs |= options
        else:
            name = operation_name(node.target)
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        base = name.removesuffix("_")
        if len(given) > 1 and base not in ("add", "sub", "cat"):
            raise ValueError(f"{base} of two tensors that both depend on the input is not linear")
        if base in OPERATIONS:
            value, overwrites = OPERATIONS[base](*args, **kwargs), name in OVERWRITING
        else:
            x, call = args[0], inspect.signature(ACTIVATION_CALLS[base]).bind(*args[1:], **kwargs)
            value = self._begin_block(place, x, ACTIVATION_CALLS[base](*call.args, **call.kwargs))
            overwrites = name in OVERWRITING or call.arguments.get("inplace", False)
        return _overwrite(args[0], value) if overwrites and args[0] in given else value

    def _constant(self, node: fx.Node, args: tuple, kwargs: dict) -> Any:
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        call = self.root.get_submodule(node.target) if node.op == "call_module" else node.target
        return call(*args, **kwargs)

    def _layer(self, layer: nn.Module) -> tuple[str, dict[str, Any]]:
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ValueError("it has a forward hook, which may change what it computes; remove it")
        kind = type_before_parametrizations(layer)
        if kind not in LAYERS:
            raise ValueError(f"there is no rule for {kind.__name__}")
        name, attributes = LAYERS[kind]
        return name, {key: getattr(layer, key) for key in attributes.split()}

    def _begin_block(self, place: str, x: Value, phi: Activation) -> Value:
        n = x.store.bias.size
        self.arguments.append(Store(x.store.terms, x.store.bias))
        self.blocks.append(Block(place, n, phi))
        return Value(x.shape, Store({len(self.blocks) - 1: scipy.sparse.eye_array(n, format="csr")},
                                    np.zeros(n)))


def _finite(store: Store) -> bool:
    return bool(np.isfinite(store.bias).all()) and all(np.isfinite(T.data).all()
                                                       for T in store.terms.values())


def _overwrite(x: Value, value: Value) -> Value:
    """In place: whoever shares the memory of x sees the new numbers."""
    if x.store.viewed or value.shape != x.shape:
        raise ValueError("it overwrites a tensor of which another view exists; use the operation "
                         "that makes a new tensor")
    x.store.terms, x.store.bias = value.store.terms, value.store.bias
    return x


def _assemble(reader: _Reader, output: Store, dtype: torch.dtype) -> Network:
    p, sizes = math.prod(reader.input_shape), [block.size for block in reader.blocks]
    order = range(len(sizes) - 1, -1, -1)  # the last block comes first

    def row(store: Store) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
        absent = functools.partial(scipy.sparse.csr_array, dtype=np.float64)
        q = store.bias.size
        states = [store.terms.get(k, absent((q, sizes[k]))) for k in order]
        return scipy.sparse.hstack(states), store.terms.get(INPUT, absent((q, p)))

    rows = [row(reader.arguments[k]) for k in order]
    A, B = (scipy.sparse.vstack(blocks) for blocks in zip(*rows, strict=True))
    matrices = [scipy.sparse.csr_array(M, dtype=np.float64) for M in (A, B, *row(output))]
    for M in matrices:
        M.sum_duplicates()
        M.eliminate_zeros()
    return Network(*matrices, np.concatenate([reader.arguments[k].bias for k in order]),
                   output.bias, tuple(reader.blocks[k] for k in order), reader.input_shape, dtype)
