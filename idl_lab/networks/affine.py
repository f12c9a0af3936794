"""What the operations of a network do to affine functions of its input and of its states.

The tables at the end say what can be read. An operation is a function of `Value` objects and
of the options that torch gives it; it returns a `Value`, or raises a `ValueError` whose words
follow the operation's name and place ("... : it takes ...").
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idl_lab.activations import ACTIVATION_CALLS, ACTIVATION_MODULES
from idl_lab.networks.value import BATCH, Store, Value


def _array(numbers: Any) -> np.ndarray:
    if isinstance(numbers, Tensor):
        return numbers.detach().to("cpu", torch.float64).numpy()
    return np.asarray(numbers, dtype=np.float64)


def _pair(value: Any) -> tuple:
    return tuple(value) * (2 // len(value)) if isinstance(value, Sequence) else (value, value)


def _select(x: Value, pick: Callable[[Tensor], Tensor], view: bool = False) -> Value:
    """What only moves components, found by moving their numbers; 0 stands for a zero."""
    where = pick(x.indices())
    source = where.numpy().astype(np.int64).ravel() - 1
    rows = np.flatnonzero(source >= 0)
    M = scipy.sparse.csr_array((np.ones(rows.size), (rows, source[rows])),
                         shape=(source.size, math.prod(x.shape)))
    result = x.map(M, where.shape[1:])
    if view:
        x.store.viewed = result.store.viewed = True
    return result


def _linear(x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    W = _array(weight)
    x.expect((*[None] * (len(x.shape) - 1), W.shape[1]))
    copies = math.prod(x.shape[:-1])
    shift = 0.0 if bias is None else np.tile(_array(bias), copies)
    M = scipy.sparse.kron(scipy.sparse.eye_array(copies), scipy.sparse.csr_array(W), format="csr")
    return x.map(M, (*x.shape[:-1], W.shape[0]), shift)


def _matmul(x: Value, weight: Tensor) -> Value:
    if not (isinstance(x, Value) and isinstance(weight, Tensor) and weight.dim() == 2):
        raise ValueError("of products with matrices only x @ W is read, W a constant matrix")
    return _linear(x, weight.T)


def _conv2d(x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
            padding: Any = 0, dilation: Any = 1, groups: int = 1,
            padding_mode: str = "zeros") -> Value:
    W, stride, dilation = _array(weight), _pair(stride), _pair(dilation)
    q, kernel = W.shape[0], W.shape[2:]
    x.expect((W.shape[1] * groups, None, None))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        top, left = (r // 2 for r in reach)
        sides = (left, reach[1] - left, top, reach[0] - top)
    else:
        high, wide = _pair(0 if padding == "valid" else padding)
        sides = (wide, wide, high, high)
    mode = "constant" if padding_mode == "zeros" else padding_mode
    around = F.pad(x.indices(), sides, mode=mode)
    size = [(n - r - 1) // s + 1 for n, r, s in zip(around.shape[2:], reach, stride, strict=True)]
    # One torch operation on the components' numbers says which of them each weight multiplies at
    # each place of the output, whatever stride, padding and dilation are: arithmetic of our own
    # would have to repeat torch's rules. Shape (groups, weights of a channel, places).
    meets = F.unfold(around, kernel, dilation=dilation, stride=stride).numpy().astype(np.int64)
    places = meets.shape[-1]
    meets = np.repeat(meets.reshape(groups, -1, places), q // groups, axis=0) - 1
    values = np.broadcast_to(W.reshape(q, -1, 1), meets.shape)
    rows = np.broadcast_to(np.arange(q * places).reshape(q, 1, places), meets.shape)
    used = (meets >= 0) & (values != 0)
    M = scipy.sparse.csr_array((values[used], (rows[used], meets[used])),
                         shape=(q * places, math.prod(x.shape)))
    return x.map(M, (q, *size), 0.0 if bias is None else np.repeat(_array(bias), places))


def _batch_norm(x: Value, running_mean: Tensor | None, running_var: Tensor | None,
                weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
                momentum: float = 0.1, eps: float = 1e-5) -> Value:
    if training or running_mean is None or running_var is None:
        raise ValueError("it normalises by the statistics of the batch, which mixes samples; "
                         "track_running_stats=True keeps running ones")
    x.expect((running_mean.numel(), *x.shape[1:]))
    factor = (1.0 if weight is None else _array(weight)) / np.sqrt(_array(running_var) + eps)
    shift = (0.0 if bias is None else _array(bias)) - _array(running_mean) * factor
    factor, shift = (np.repeat(v, math.prod(x.shape[1:])) for v in (factor, shift))
    return x.map(scipy.sparse.diags_array(factor), x.shape, shift)


def _pool(x: Value, along: Callable[[Tensor, int], Tensor], divisor: float = 1.0) -> Value:
    """Pooling averages one axis after the other, so its matrix is a Kronecker product."""
    x.expect((None, None, None))
    units = [torch.eye(n, dtype=torch.float64, device="cpu")[:, None, :, None]
             for n in x.shape[1:]]
    P, Q = (along(unit, axis).squeeze((1, 3)).T.numpy() for axis, unit in enumerate(units))
    plane = scipy.sparse.kron(scipy.sparse.csr_array(P), scipy.sparse.csr_array(Q / divisor))
    return x.map(scipy.sparse.kron(scipy.sparse.eye_array(x.shape[0]), plane, format="csr"),
                 (x.shape[0], len(P), len(Q)))


def _avg_pool2d(x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0,
                ceil_mode: bool = False, count_include_pad: bool = True,
                divisor_override: int | None = None) -> Value:
    k, s, p = map(_pair, (kernel_size, stride or kernel_size, padding))
    return _pool(x, lambda unit, i: F.avg_pool2d(
        unit, (k[i], 1), (s[i], 1), (p[i], 0), ceil_mode, count_include_pad,
        divisor_override and 1), divisor_override or 1.0)


def _adaptive_avg_pool2d(x: Value, output_size: Any) -> Value:
    size = _pair(output_size)  # None keeps an axis as it is
    return _pool(x, lambda unit, i: F.adaptive_avg_pool2d(unit, (size[i], 1)))


def _mean(x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    if dim is None:
        raise ValueError("it averages over the batch too; give it dim")
    axes = {x.axis(d) for d in (dim if isinstance(dim, Sequence) else (dim,))}
    M = scipy.sparse.eye_array(1)
    for i, n in enumerate(x.shape):
        M = scipy.sparse.kron(M, np.full((1, n), 1 / n) if i in axes else scipy.sparse.eye_array(n))
    kept = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdim or i not in axes]
    return x.map(M.tocsr(), kept)


def _add(x: Any, y: Any, alpha: float = 1.0) -> Value:
    y = _mul(y, alpha) if isinstance(y, Value) else _array(y) * alpha
    if not isinstance(x, Value):
        x, y = y, _array(x)
    if not isinstance(y, Value):
        return x.map(scipy.sparse.eye_array(x.store.bias.size), x.shape, _like(x, y))
    if len(x.shape) != len(y.shape):
        raise ValueError(f"it adds shapes (batch, *{x.shape}) and (batch, *{y.shape})")
    shape = np.broadcast_shapes(x.shape, y.shape)
    x, y = (v if v.shape == shape else _select(v, lambda index: index.expand(1, *shape))
            for v in (x, y))
    terms = dict(x.store.terms)
    for k, T in y.store.terms.items():
        terms[k] = terms[k] + T if k in terms else T
    return Value(shape, Store(terms, x.store.bias + y.store.bias))


def _mul(x: Any, y: Any) -> Value:
    x, y = (x, y) if isinstance(x, Value) else (y, x)
    return x.map(scipy.sparse.diags_array(_like(x, _array(y))), x.shape)


def _div(x: Any, y: Any) -> Value:
    if not isinstance(x, Value):
        raise ValueError("it divides by what depends on the input")
    return _mul(x, 1 / _array(y))


def _like(x: Value, numbers: np.ndarray) -> np.ndarray:
    return np.broadcast_to(numbers, (1, *x.shape)).ravel()


def _cat(tensors: Sequence[Value], dim: int = 0) -> Value:
    axis, total, parts = tensors[0].axis(dim), 0, []
    length = sum(x.shape[axis] for x in tensors)
    for x in tensors:
        sides = [0, 0] * (len(x.shape) - axis)
        sides[-2:] = [total, length - total - x.shape[axis]]
        parts.append(_select(x, functools.partial(F.pad, pad=sides)))
        total += x.shape[axis]
    return functools.reduce(_add, parts)


def _view(x: Value, *shape: Any) -> Value:
    first, *rest = shape[0] if isinstance(shape[0], Sequence) else shape
    if first is not BATCH and (first != -1 or -1 in rest):
        raise ValueError("its first dimension must stay the batch, x.size(0)")
    size, known = math.prod(x.shape), math.prod(n for n in rest if n != -1)
    rest = [size // known if n == -1 else n for n in rest]
    if math.prod(rest) != size:
        raise ValueError(f"{x.shape} does not fit into {tuple(rest)}; check input_shape")
    return Value(tuple(rest), x.store)


def _flatten(x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    first, end = x.axis(start_dim), x.axis(end_dim) + 1
    return Value((*x.shape[:first], math.prod(x.shape[first:end]), *x.shape[end:]), x.store)


def _squeeze(x: Value, dim: int | None = None) -> Value:
    axes = range(len(x.shape)) if dim is None else [x.axis(dim)]
    return Value(tuple(n for i, n in enumerate(x.shape) if n != 1 or i not in axes), x.store)


def _getitem(x: Value, index: Any) -> Value:
    index = index if isinstance(index, tuple) else (index,)
    if {type(i) for i in index} - {int, slice, type(None), type(...)}:
        raise ValueError("only whole numbers and slices are read as an index")
    if index[0] != slice(None) and (index[0] is not ... or len(index) > len(x.shape) + 1):
        raise ValueError("it picks samples of the batch; write x[:, ...]")
    return _select(x, lambda count: count[index], view=True)


def _in_order(pick: Callable[..., Tensor], x: Value, dims: Sequence[int]) -> Value:
    """A permutation of the axes, the batch left in front."""
    if pick(torch.empty(1, *[2] * len(x.shape), device="cpu"), *dims).shape[0] != 1:
        raise ValueError("it moves the batch from its place")
    return _select(x, lambda index: pick(index, *dims), view=True)


def _pad(x: Value, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Value:
    if value or len(pad) > 2 * len(x.shape):
        raise ValueError(f"it pads with {value}, or the batch")
    return _select(x, lambda index: F.pad(index, tuple(pad), mode=mode))


def _dropout(x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training:
        raise ValueError("it drops at random in eval mode too")
    return x


def _size(x: Value, dim: int | None = None) -> Any:
    return (BATCH, *x.shape) if dim is None else (BATCH, *x.shape)[dim]


def _getattr(x: Value, name: str) -> tuple:
    if name != "shape":
        raise ValueError(f"of a tensor's attributes only shape is read, not {name}")
    return _size(x)


# --- what can be read -----------------------------------------------------------------------

READABLE = (
    "What can be read: Linear, Conv2d, BatchNorm, average pooling, Flatten, view, Dropout, "
    "indexing, padding, cat, means, sums of states, products with constants, and the activations "
    + ", ".join(kind.__name__ for kind, call in ACTIVATION_MODULES.items() if call) + ".")

_OVERWRITING = {"add": _add, "sub": lambda x, y, alpha=1.0: _add(x, y, -alpha),
                "mul": _mul, "div": _div, "truediv": _div, "neg": lambda x: _mul(x, -1.0)}
OPERATIONS: dict[str, Callable[..., Any]] = {
    "linear": _linear, "matmul": _matmul, "conv2d": _conv2d,
    "batch_norm": _batch_norm, "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d, "mean": _mean, **_OVERWRITING, "cat": _cat,
    "view": _view, "reshape": _view, "flatten": _flatten, "squeeze": _squeeze,
    "unsqueeze": lambda x, dim: _view(x, BATCH, *np.insert(
        x.shape, Value((*x.shape, 1), x.store).axis(dim), 1).tolist()),
    "permute": lambda x, *dims: _in_order(torch.Tensor.permute, x, dims),
    "transpose": lambda x, *dims: _in_order(torch.Tensor.transpose, x, dims),
    "getitem": _getitem, "pad": _pad, "size": _size, "dim": lambda x: len(x.shape) + 1,
    "getattr": _getattr, "dropout": _dropout, "dropout2d": _dropout, "dropout1d": _dropout,
    "clone": lambda x: Value(x.shape, Store(x.store.terms, x.store.bias)),
    **dict.fromkeys(("identity", "contiguous", "detach"), lambda x: x),
}
# The operation that a layer is, and its options among the layer's attributes.
LAYERS: dict[type[nn.Module], tuple[str, str]] = {
    nn.Linear: ("linear", "weight bias"),
    nn.Conv2d: ("conv2d", "weight bias stride padding dilation groups padding_mode"),
    nn.BatchNorm1d: ("batch_norm", "running_mean running_var weight bias eps"),
    nn.BatchNorm2d: ("batch_norm", "running_mean running_var weight bias eps"),
    nn.AvgPool2d: ("avg_pool2d", "kernel_size stride padding ceil_mode count_include_pad "
                                 "divisor_override"),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", "output_size"),
    nn.Flatten: ("flatten", "start_dim end_dim"),
    nn.Dropout: ("identity", ""), nn.Dropout2d: ("identity", ""), nn.Identity: ("identity", ""),
    **{kind: known for kind, known in ACTIVATION_MODULES.items() if known is not None},
}


def _functions() -> dict[Callable, str]:
    """torch's and Python's functions of these names; `relu_` and `iadd` overwrite."""
    names: dict[Callable, str] = {getattr: "getattr"}
    for name in [*OPERATIONS, *ACTIVATION_CALLS]:
        for room in (F, torch, operator):
            # torch.batch_norm is left out: it takes its arguments in another order than the rule
            # here, which is F.batch_norm's, and would be read wrongly.
            if hasattr(room, name) and (room, name) != (torch, "batch_norm"):
                names[getattr(room, name)] = name
            for overwriting in (f"{name}_", f"i{name}"):
                if hasattr(room, overwriting):
                    names[getattr(room, overwriting)] = f"{name}_"
    return names


_FUNCTIONS = _functions()
OVERWRITING = {f"{name}_" for name in [*_OVERWRITING, *ACTIVATION_CALLS]}


def operation_name(target: str | Callable) -> str:
    """The name in these tables of a tensor's method or of a function.

    Parameters
    ----------
    target : str or callable
        Of a node that torch.fx recorded.

    Raises
    ------
    ValueError
        If the tables have no rule for it.
    """
    name = target if isinstance(target, str) else _FUNCTIONS.get(target)
    if name in OPERATIONS or name in ACTIVATION_CALLS or name in OVERWRITING:
        return name
    raise ValueError(f"there is no rule for {getattr(target, '__name__', target)}")
