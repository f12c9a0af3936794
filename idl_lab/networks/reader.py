"""A recorded network, run on affine functions of its input and of its states."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from idl_lab.activations import ACTIVATION_CALLS, Activation
from idl_lab.networks.affine import CASTS, WEIGHTED, move, nearest
from idl_lab.networks.blocks import Block, Network, prelu_for
from idl_lab.networks.tables import (
    ACTIVATIONS,
    CHECKS,
    LAYERS,
    MOVES,
    READABLE,
    operation_name,
)
from idl_lab.networks.value import INPUT, Store, Value

SAMPLES = 2  # of the batch that torch itself computes


class Reader:
    """Runs a recorded graph; collects a block, and the argument of its φ, for each activation.

    Parameters
    ----------
    root : torch.nn.Module
    input_shape : tuple of int
    like : Tensor
        Of the network's dtype and device.
    """

    def __init__(self, root: nn.Module, input_shape: tuple[int, ...], like: Tensor) -> None:
        self.root, self.input_shape, self.like = root, input_shape, like
        self.blocks: list[Block] = []
        self.arguments: list[Store] = []
        self.calls: Counter[str] = Counter()

    def interpret(self, graph: fx.Graph, stopped: ValueError | None = None) -> Network:
        """The network's matrices.

        Parameters
        ----------
        graph : torch.fx.Graph
        stopped : ValueError, optional
            Why the network did not come to its output.

        Raises
        ------
        ValueError
            If an operation cannot be read, named with its place; else ``stopped``.
        """
        env: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            if node.op == "output":
                if not isinstance(args[0], Value):
                    raise ValueError(f"the network must return one tensor made from its input, "
                                     f"got {type(args[0]).__name__}.")
                return self._assemble(args[0].store)
            place = self._place(node)
            try:
                with np.errstate(all="ignore"):  # instead of a warning, an error follows below
                    env[node] = value = self._evaluate(node, place, args, dict(kwargs))
                if isinstance(value, Value) and not _finite(value.store):
                    raise ValueError("its numbers overflow or divide by zero")
            # Whatever torch or numpy say of odd arguments is told with the place in the network.
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
                    ValueError) as error:
                raise ValueError(f"from_network cannot read {place}: {str(error).rstrip('.')}. "
                                 f"{READABLE}") from error
        raise stopped or AssertionError("a graph ends with its output")

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
            batch = self.like.new_zeros(SAMPLES, *self.input_shape)
            return Value(batch, Store.source(INPUT, math.prod(self.input_shape)))
        if node.op == "get_attr":
            return operator.attrgetter(node.target)(self.root).detach().clone()
        given: list[Value] = []
        fx.node.map_aggregate((args, kwargs),
                              lambda v: given.append(v) if isinstance(v, Value) else None)
        if not given or node.target is operator.getitem and not isinstance(args[0], Value):
            return self._call(node, args, kwargs)  # arithmetic of sizes and constants; a part

        layer = self.root.get_submodule(node.target) if node.op == "call_module" else None
        name, overwrites = operation_name(node.target) if layer is None else (_check(layer), False)
        call = functools.partial(self._with_tensors, node, args, kwargs)
        if layer is not None:
            kwargs = kwargs | {key: getattr(layer, key)
                               for key in LAYERS[_kind(layer)][1].split()}
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        if name in MOVES or name == "interpolate" and nearest(*args, **kwargs):
            CHECKS.get(name, lambda *args, **kwargs: None)(*args, **kwargs)
            return self._move(given, call)
        if len(given) > 1 and name not in ("add", "sub", *CASTS):
            raise ValueError(f"{name} of two tensors that both depend on the input is not linear")
        x = args[0]
        if name in ACTIVATIONS:
            phi, in_place = _activation(name, x, args[1:], kwargs)
            store, overwrites = self._begin_block(place, x, phi), overwrites or in_place
        else:
            store = WEIGHTED[name](*args, **kwargs)
        value = _checked(call({v: v.batch for v in given}), store)
        if name in CASTS and not _as_fine(value.batch, self.like):
            raise ValueError(f"it rounds to {value.batch.dtype}, which is no linear function")
        return _overwrite(x, value) if overwrites and x in given else value

    def _call(self, node: fx.Node, args: tuple, kwargs: dict) -> Any:
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        call = self.root.get_submodule(node.target) if node.op == "call_module" else node.target
        return call(*args, **kwargs)

    def _with_tensors(self, node: fx.Node, args: tuple, kwargs: dict, tensors: dict[Value, Tensor]
                      ) -> Any:
        """What torch itself makes of tensors in the place of values."""
        def put(v: Any) -> Any:
            return tensors[v] if isinstance(v, Value) else v

        return self._call(node, *fx.node.map_aggregate((args, kwargs), put))

    def _move(self, given: list[Value], call: Callable[[dict[Value, Tensor]], Any]) -> Any:
        several = isinstance(batches := call({v: v.batch for v in given}), tuple | list)
        stores = move(given, call)
        values = [_checked(*pair) for pair in zip(batches if several else [batches], stores,
                                                 strict=True)]
        return tuple(values) if several else values[0]

    def _begin_block(self, place: str, x: Value, phi: Activation) -> Store:
        self.arguments.append(Store(x.store.terms, x.store.bias))
        self.blocks.append(Block(place, x.size, phi))
        return Store.source(len(self.blocks) - 1, x.size)

    def _assemble(self, output: Store) -> Network:
        p, sizes = math.prod(self.input_shape), [block.size for block in self.blocks]
        order = range(len(sizes) - 1, -1, -1)  # the last block comes first
        if not sizes:
            raise ValueError("the network has no activation, so it is linear; an implicit model "
                             "needs at least one state.")

        def row(store: Store) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
            absent = functools.partial(scipy.sparse.csr_array, dtype=np.float64)
            q = store.bias.size
            states = [store.terms.get(k, absent((q, sizes[k]))) for k in order]
            return scipy.sparse.hstack(states), store.terms.get(INPUT, absent((q, p)))

        rows = [row(self.arguments[k]) for k in order]
        A, B = (scipy.sparse.vstack(blocks) for blocks in zip(*rows, strict=True))
        matrices = [scipy.sparse.csr_array(M, dtype=np.float64) for M in (A, B, *row(output))]
        for M in matrices:
            M.sum_duplicates()
            M.eliminate_zeros()
        return Network(*matrices, np.concatenate([self.arguments[k].bias for k in order]),
                       output.bias, tuple(self.blocks[k] for k in order), self.input_shape,
                       self.like.dtype)


def _kind(layer: nn.Module) -> type[nn.Module]:
    return type_before_parametrizations(layer)


def _check(layer: nn.Module) -> str:
    """The operation that a layer is, where nothing on this instance makes it another."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError("it has a forward hook, which may change what it computes; remove it")
    replaced = [key for key in vars(layer) if callable(getattr(type(layer), key, None))]
    if replaced:
        raise ValueError(f"its {', '.join(replaced)} was replaced on this instance, so that its "
                         f"class does not say what it computes; delete the attribute, or write a "
                         f"module of your own")
    if _kind(layer) not in LAYERS:
        raise ValueError(f"there is no rule for {_kind(layer).__name__}")
    return LAYERS[_kind(layer)][0]


def _activation(name: str, x: Value, args: tuple, kwargs: dict) -> tuple[Activation, bool]:
    """φ of a block, and whether the call overwrites its argument."""
    if name == "prelu":
        (weight,) = (*args, *kwargs.values())
        return prelu_for(weight, x.shape), False
    call = inspect.signature(ACTIVATION_CALLS[name]).bind(*args, **kwargs)
    return ACTIVATION_CALLS[name](*call.args, **call.kwargs), call.arguments.get("inplace", False)


def _checked(batch: Tensor, store: Store) -> Value:
    if batch.dim() == 0 or len(batch) != SAMPLES:
        raise ValueError("its first dimension must stay the batch, x.size(0)")
    value = Value(batch, store)
    if value.size != store.bias.size:
        raise ValueError(f"torch gives {value.size} numbers a sample, the rule here "
                         f"{store.bias.size}")
    return value


def _as_fine(batch: Tensor, like: Tensor) -> bool:
    return batch.is_floating_point() and torch.finfo(batch.dtype).eps <= torch.finfo(like.dtype).eps


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
