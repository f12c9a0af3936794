"""What the operations of a network do to affine functions of its input and of its states.

The tables at the end say what can be read. An operation is a function of `Value` objects and
of the options that torch gives it; it returns the `Store` of the result, whose shape torch says,
or raises a `ValueError` whose words follow the operation's name and place ("... : it takes ...").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from idl_lab.networks.value import Store, Value, numbers


def _array(given: Any) -> np.ndarray:
    if isinstance(given, Tensor):
        return given.detach().to("cpu", torch.float64).numpy()
    return np.asarray(given, dtype=np.float64)


def _each(value: Any, count: int) -> tuple:
    """An option for each axis: torch takes one for all, and lists of one."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value) * (count // len(value))
    return (value,) * count


def _linear(x: Value, weight: Tensor, bias: Tensor | None = None) -> Store:
    W = _array(weight)
    x.expect((*[None] * (len(x.shape) - 1), W.shape[1]))
    copies = math.prod(x.shape[:-1])
    shift = 0.0 if bias is None else np.tile(_array(bias), copies)
    return x.store.map(scipy.sparse.kron(scipy.sparse.eye_array(copies),
                                         scipy.sparse.csr_array(W), format="csr"), shift)


def _matmul(x: Value, weight: Tensor) -> Store:
    if not (isinstance(x, Value) and isinstance(weight, Tensor) and weight.dim() == 2):
        raise ValueError("of products with matrices only x @ W is read, W a constant matrix")
    return _linear(x, weight.T)


def _correlation(W: np.ndarray, around: Tensor, stride: tuple[int, ...],
                 dilation: tuple[int, ...], groups: int, places: Sequence[int | None],
                 inputs: int) -> scipy.sparse.csr_array:
    """The matrix of a convolution without its padding.

    Windows on the components' numbers say which of them each weight multiplies at each place of
    the output, whatever stride, padding and dilation are: arithmetic of our own would have to
    repeat torch's rules. ``around`` (1, channels, …) is padded with zeros, which number nothing.
    """
    q, axes = W.shape[0], len(stride)
    for i, (k, s, d, n) in enumerate(zip(W.shape[2:], stride, dilation, places, strict=True)):
        around = around.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
        around = around.narrow(2 + i, 0, n or around.shape[2 + i])
    # (channels, places, window) to (groups, weights of a channel of the output, places)
    meets = around[0].permute(0, *range(1 + axes, 1 + 2 * axes), *range(1, 1 + axes))
    meets = meets.reshape(groups, W[0].size, -1).numpy().astype(np.int64) - 1
    meets = np.repeat(meets, q // groups, axis=0)
    values = np.broadcast_to(W.reshape(q, -1, 1), meets.shape)
    rows = np.broadcast_to(np.arange(q * meets.shape[-1]).reshape(q, 1, -1), meets.shape)
    used = (meets >= 0) & (values != 0)
    return scipy.sparse.csr_array((values[used], (rows[used], meets[used])),
                                  shape=(q * meets.shape[-1], inputs))


def _shift(bias: Tensor | None, rows: int) -> np.ndarray | float:
    """A bias for each channel, at every place of it."""
    return 0.0 if bias is None else np.repeat(_array(bias), rows // bias.numel())


def _conv(x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
          padding: Any = 0, dilation: Any = 1, groups: int = 1,
          padding_mode: str = "zeros") -> Store:
    W, axes = _array(weight), weight.dim() - 2
    stride, dilation = _each(stride, axes), _each(dilation, axes)
    x.expect((W.shape[1] * groups, *[None] * axes))
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, W.shape[2:], strict=True)]
        sides = [(r // 2, r - r // 2) for r in reach]
    else:
        sides = [(p, p) for p in _each(0 if padding == "valid" else padding, axes)]
    mode = "constant" if padding_mode == "zeros" else padding_mode
    around = F.pad(numbers(x.shape), [*itertools.chain(*reversed(sides))], mode=mode)
    M = _correlation(W, around, stride, dilation, groups, [None] * axes, x.size)
    return x.store.map(M, _shift(bias, M.shape[0]))


def _conv_transpose(x: Value, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
                    padding: Any = 0, output_padding: Any = 0, groups: int = 1,
                    dilation: Any = 1) -> Store:
    """The transpose of the convolution that leads from its output to its input."""
    W, axes = _array(weight), weight.dim() - 2
    stride, padding, extra, dilation = (_each(v, axes) for v in (stride, padding, output_padding,
                                                                 dilation))
    x.expect((W.shape[0], *[None] * axes))
    size = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in
            zip(x.shape[1:], stride, padding, dilation, W.shape[2:], extra, strict=True)]
    output = numbers((W.shape[1] * groups, *size))
    around = F.pad(output, [v for p in reversed(padding) for v in (p, p)])
    M = _correlation(W, around, stride, dilation, groups, x.shape[1:], output.numel()).T
    return x.store.map(M, _shift(bias, M.shape[0]))


def _batch_norm(x: Value, running_mean: Tensor | None, running_var: Tensor | None,
                weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
                momentum: float = 0.1, eps: float = 1e-5) -> Store:
    if training or running_mean is None or running_var is None:
        raise ValueError("it normalises by the statistics of the batch, which mixes samples; "
                         "track_running_stats=True keeps running ones")
    x.expect((running_mean.numel(), *x.shape[1:]))
    factor = (1.0 if weight is None else _array(weight)) / np.sqrt(_array(running_var) + eps)
    shift = (0.0 if bias is None else _array(bias)) - _array(running_mean) * factor
    factor, shift = (np.repeat(v, math.prod(x.shape[1:])) for v in (factor, shift))
    return x.store.map(scipy.sparse.diags_array(factor), shift)


def _axis_by_axis(x: Value, matrices: dict[int, np.ndarray]) -> Store:
    """One axis after the other, each by its matrix: a Kronecker product."""
    M = scipy.sparse.eye_array(1)
    for i, n in enumerate(x.shape):
        M = scipy.sparse.kron(M, scipy.sparse.csr_array(matrices[i]) if i in matrices
                              else scipy.sparse.eye_array(n))
    return x.store.map(M.tocsr())


def _last_axes(x: Value, axes: int, along: Callable[[Tensor, int], Tensor]) -> Store:
    """What torch does to unit vectors along each of the last axes, (n, 1, n) → (n, 1, size)."""
    first = len(x.shape) - axes
    units = [torch.eye(n, dtype=torch.float64, device="cpu")[:, None] for n in x.shape[first:]]
    return _axis_by_axis(x, {first + i: along(unit, i).squeeze(1).T.numpy()
                             for i, unit in enumerate(units)})


def _avg_pool(axes: int) -> Callable[..., Store]:
    def rule(x: Value, kernel_size: Any, stride: Any = None, padding: Any = 0,
             ceil_mode: bool = False, count_include_pad: bool = True,
             divisor_override: int | None = None) -> Store:
        k, s, p = (_each(v, axes) for v in (kernel_size, stride or kernel_size, padding))
        share = [divisor_override or 1.0, *[1.0] * axes]  # the divisor is of all axes together

        def along(unit: Tensor, i: int) -> Tensor:
            return F.avg_pool2d(unit[:, None], (1, k[i]), (1, s[i]), (0, p[i]), ceil_mode,
                                count_include_pad, divisor_override and 1)[:, 0] / share[i]

        return _last_axes(x, axes, along)

    return rule


def _adaptive_avg_pool(axes: int) -> Callable[..., Store]:
    def rule(x: Value, output_size: Any) -> Store:
        size = _each(output_size, axes)  # None keeps an axis as it is
        return _last_axes(x, axes, lambda unit, i: F.adaptive_avg_pool1d(
            unit, unit.shape[2] if size[i] is None else size[i]))

    return rule


def _interpolate(x: Value, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                 antialias: bool = False) -> Store:
    if mode not in ("linear", "bilinear", "trilinear") or antialias:
        raise ValueError(f"of its modes only nearest and (bi-, tri-)linear are read, without "
                         f"antialias; got {mode!r}")
    axes = len(x.shape) - 1
    size, factor = _each(size, axes), _each(scale_factor, axes)
    return _last_axes(x, axes, lambda unit, i: F.interpolate(
        unit, size[i], factor[i], "linear", align_corners, recompute_scale_factor))


def _reduce(weigh: Callable[[int], float]) -> Callable[..., Store]:
    def rule(x: Value, dim: Any = None, keepdim: bool = False) -> Store:
        dims = dim if isinstance(dim, Sequence) else () if dim is None else (dim,)
        if not dims:  # to torch no dimension means all of them
            raise ValueError("without a dimension it reduces the batch too; give it dim")
        return _axis_by_axis(x, {i: np.full((1, x.shape[i]), weigh(x.shape[i]))
                                 for i in map(x.axis, dims)})

    return rule


def _add(x: Any, y: Any, alpha: float = 1.0) -> Store:
    if not (isinstance(x, Value) and isinstance(y, Value)):
        x, shift, sign = (x, _array(y) * alpha, 1.0) if isinstance(x, Value) else (
            y, _array(x), alpha)
        return x.store.map(scipy.sparse.diags_array(np.full(x.size, sign)), _like(x, shift))
    if len(x.shape) != len(y.shape):
        raise ValueError(f"it adds shapes (batch, *{x.shape}) and (batch, *{y.shape})")
    shape = np.broadcast_shapes(x.shape, y.shape)
    return _broadcast(x, shape).plus(_broadcast(y, shape, alpha))


def _broadcast(x: Value, shape: tuple[int, ...], factor: float = 1.0) -> Store:
    return x.store.map(_picked(numbers(x.shape).expand(1, *shape), x.size) * factor)


def _picked(where: Tensor, size: int) -> scipy.sparse.csr_array:
    """The matrix that picks components by their numbers from 1 on; 0 stands for a zero."""
    source = where.numpy().astype(np.int64).ravel() - 1
    rows = np.flatnonzero(source >= 0)
    return scipy.sparse.csr_array((np.ones(rows.size), (rows, source[rows])),
                                  shape=(source.size, size))


def _mul(x: Any, y: Any) -> Store:
    x, y = (x, y) if isinstance(x, Value) else (y, x)
    return x.store.map(scipy.sparse.diags_array(_like(x, _array(y))))


def _div(x: Any, y: Any) -> Store:
    if not isinstance(x, Value):
        raise ValueError("it divides by what depends on the input")
    return _mul(x, 1 / _array(y))


def _like(x: Value, given: np.ndarray) -> np.ndarray:
    if given.ndim > len(x.shape) and len(given) == len(x.batch):  # a row for each sample
        if (given != given[:1]).any():
            raise ValueError("it takes another constant for each sample")
        given = given[:1]
    return np.broadcast_to(given, (1, *x.shape)).ravel()


def _dropout(x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Store:
    if training:
        raise ValueError("it drops at random in eval mode too")
    return x.store


def move(given: Sequence[Value], call: Callable[[dict[Value, Tensor]], Any]
         ) -> list[Store]:
    """What only moves components, found by moving their numbers, and constants among them.

    Parameters
    ----------
    given : sequence of Value
        Those that the operation depends on.
    call : callable
        The operation with tensors, (2, *shape), in their place; gives one tensor or several.

    Returns
    -------
    list of Store
        Of each result.

    Raises
    ------
    ValueError
        If it moves something from one sample to another.
    """
    given = list(dict.fromkeys(given))
    total, first, marked = sum(x.size for x in given), 1, {}
    for x in given:
        marked[x] = torch.cat([numbers(x.shape, first), numbers(x.shape, first + total)])
        first += x.size
    moved, fixed = call(marked), call({x: torch.zeros_like(n) for x, n in marked.items()})
    several = isinstance(moved, Sequence)
    stores = []
    for result, shift in zip(*(r if several else [r] for r in (moved, fixed)), strict=True):
        where = result - shift
        if len(where) != 2 or not torch.equal(where[1], where[0] + total * (where[0] > 0)) \
                or (where[0] > total).any() or not torch.equal(shift[0], shift[1]):
            raise ValueError("it moves the batch from its place, or takes only some of its "
                             "samples")
        M, parts, start = _picked(where[0], total), [], 0
        for x in given:
            parts.append(x.store.map(M[:, start:start + x.size]))
            start += x.size
        store = parts[0]
        for part in parts[1:]:
            store = store.plus(part)
        store.bias = store.bias + _array(shift[0]).ravel()
        for x in given:
            if marked[x].untyped_storage().data_ptr() == result.untyped_storage().data_ptr():
                x.store.viewed = store.viewed = True
        stores.append(store)
    return stores


def check_index(x: Value, index: Any) -> None:
    """Ask that an index takes the whole batch.

    Parameters
    ----------
    x : Value
    index : as ``x[index]`` has it

    Raises
    ------
    ValueError
        If it does not.
    """
    first = index[0] if isinstance(index, tuple) else index
    whole = isinstance(first, slice) and first == slice(None)
    if not (whole or first is ... and len(index) <= len(x.shape) + 1):
        raise ValueError("it picks samples of the batch; write x[:, ...]")


def check_roll(x: Value, shifts: Any, dims: Any = None) -> None:
    """Ask that the batch is not rolled, which a batch as long as the shift would hide.

    Parameters
    ----------
    x : Value
    shifts, dims : as torch.roll has them

    Raises
    ------
    ValueError
        If it is.
    """
    for dim in dims if isinstance(dims, Sequence) else (0 if dims is None else dims,):
        x.axis(dim)


def nearest(x: Value, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
            *args: Any, **kwargs: Any) -> bool:
    """Whether an interpolation only copies components.

    Parameters
    ----------
    x, size, scale_factor, mode, *args, **kwargs
        As torch.nn.functional.interpolate has them.
    """
    return mode in ("nearest", "nearest-exact")


OVERWRITING = {"add": _add, "sub": lambda x, y, alpha=1.0: _add(x, y, -alpha),
               "mul": _mul, "div": _div, "truediv": _div, "neg": lambda x: _mul(x, -1.0)}
CASTS = ("to", "float", "double", "half", "bfloat16", "type", "type_as")
WEIGHTED: dict[str, Callable[..., Store]] = {
    "linear": _linear, "matmul": _matmul, "batch_norm": _batch_norm, "interpolate": _interpolate,
    "sum": _reduce(lambda n: 1.0), "mean": _reduce(lambda n: 1 / n),
    **{f"{name}{axes}d": rule for axes in (1, 2, 3) for name, rule in (
        ("conv", _conv), ("conv_transpose", _conv_transpose), ("avg_pool", _avg_pool(axes)),
        ("adaptive_avg_pool", _adaptive_avg_pool(axes)))},
    **OVERWRITING,
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d"), _dropout),
    "clone": lambda x: Store(x.store.terms, x.store.bias),
    **dict.fromkeys(("identity", *CASTS, "contiguous", "detach", "view", "reshape", "flatten",
                     "unflatten", "squeeze", "unsqueeze"), lambda x, *args, **options: x.store),
}
