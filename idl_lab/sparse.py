"""Sparse matrices as values on a fixed layout: products, and gradients on the entries alone.

torch's own gradient of a sparse product is a dense matrix, it has no second one, its transpose
in CSR layout sorts every entry, and torch.func takes no sparse tensor at all. Here a product is
a function of two dense tensors, X and the values, which is right under every transform.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from idl_lab.extras import Function


@functools.cache  # torch announces once a process that the layout is young
def _announced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        torch.sparse_csr_tensor(nothing.new_zeros(1), nothing, nothing, (0, 0))


def _outside(function: Callable) -> Callable:
    """Keep a function of a layout out of torch.func, which wraps every tensor that is made: such
    a tensor has no numpy, and kept for later it would be one of a transform that has ended."""
    @functools.wraps(function)
    def run(layout: Layout) -> object:
        with torch._C._DisableFuncTorch():
            return function(layout)

    return run


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the entries of a sparse matrix stand, row by row (CSR).

    Attributes
    ----------
    crow, col : Tensor of int64, shapes (n + 1,) and (entries,)
    shape : tuple of int
        (n, p).
    """

    crow: Tensor
    col: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, M: Tensor) -> Layout:
        """The layout of a sparse tensor.

        Parameters
        ----------
        M : Tensor, shape (n, p), sparse (CSR)
        """
        return cls(M.crow_indices(), M.col_indices(), tuple(M.shape))

    def tensor(self, values: Tensor) -> Tensor:
        """The sparse tensor with these values; not followed by autograd.

        Parameters
        ----------
        values : Tensor, shape (entries,)
        """
        _announced()
        return torch.sparse_csr_tensor(self.crow, self.col, values.detach(), self.shape,
                                       device=values.device, check_invariants=False)

    @functools.cached_property
    @_outside
    def row(self) -> Tensor:
        """The row of each entry, (entries,)."""
        return torch.repeat_interleave(torch.arange(self.shape[0], device=self.crow.device),
                                       self.crow.diff())

    def triangle(self, blocks: tuple[int, ...]) -> int:
        """1 for strictly upper block-triangular, −1 for strictly lower, 0 for neither.

        Parameters
        ----------
        blocks : tuple of int
            Sizes of the blocks, of rows and of columns.
        """
        if blocks not in self._triangles:
            stops = torch.tensor(blocks, device=self.col.device).cumsum(0)
            row, col = (torch.searchsorted(stops, i, right=True) for i in (self.row, self.col))
            self._triangles[blocks] = 1 if (col > row).all() else -1 if (col < row).all() else 0
        return self._triangles[blocks]

    @functools.cached_property
    def _triangles(self) -> dict[tuple[int, ...], int]:
        return {}

    def rows(self, part: slice) -> tuple[slice, Layout]:
        """Which values stand in some rows, and their layout there.

        Parameters
        ----------
        part : slice
        """
        key = part.start, part.stop
        if key not in self._parts:
            first, stop = (int(self.crow[i]) for i in key)
            self._parts[key] = slice(first, stop), Layout(
                self.crow[part.start:part.stop + 1] - first, self.col[first:stop],
                (part.stop - part.start, self.shape[1]))
        return self._parts[key]

    @functools.cached_property
    def _parts(self) -> dict[tuple[int, int], tuple[slice, Layout]]:
        return {}

    @functools.cached_property
    @_outside
    def transposed(self) -> tuple[Tensor, Layout]:
        """The order in which Mᵀ lists the values of M, (entries,), and the layout of Mᵀ."""
        n, p = self.shape
        if self.col.device.type == "cpu":  # scipy counts where torch sorts, at a third of the time
            number = torch.arange(len(self.col), device="cpu").numpy()
            T = scipy.sparse.csr_array((number, self.col.numpy(), self.crow.numpy()),
                                       (n, p)).tocsc()
            order, crow, col = map(torch.from_numpy, (T.data, T.indptr, T.indices))
        else:
            order = self.col.argsort(stable=True)
            crow = torch.searchsorted(self.col[order], torch.arange(p + 1, device=order.device))
            col = self.row[order]
        return order, Layout(crow.to(self.crow.dtype), col.to(self.col.dtype), (p, n))


@dataclass(frozen=True, eq=False)
class Sparse:
    """A sparse matrix (n, p) by its values.

    Attributes
    ----------
    values : Tensor, shape (entries,)
    layout : Layout
    """

    values: Tensor
    layout: Layout

    @classmethod
    def of(cls, M: Tensor) -> Sparse:
        """A sparse tensor's; gradients flow to it.

        Parameters
        ----------
        M : Tensor, shape (n, p), sparse (CSR)
        """
        return cls(_Values.apply(M), Layout.of(M))

    @property
    def shape(self) -> torch.Size:
        """The shape (n, p) of the matrix."""
        return torch.Size(self.layout.shape)

    @property
    def mT(self) -> Sparse:
        """The transpose, (p, n)."""
        order, layout = self.layout.transposed
        return Sparse(self.values[order], layout)

    def rows(self, part: slice) -> Sparse:
        """Some of its rows, (k, p).

        Parameters
        ----------
        part : slice
        """
        entries, layout = self.layout.rows(part)
        return Sparse(self.values[entries], layout)

    def to_dense(self) -> Tensor:
        """As an ordinary matrix."""
        M = self.values.new_zeros(self.layout.shape)
        return M.index_put((self.layout.row, self.layout.col), self.values)

    def to_tensor(self) -> Tensor:
        """As torch's sparse tensor in CSR layout; gradients flow from it to the values."""
        return _Tensor.apply(self.values, self.layout)

    def step(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The function (b, X) ↦ X Mᵀ + b on (m, n), set up once for many calls."""
        plain = None

        def step(b: Tensor, X: Tensor) -> Tensor:
            nonlocal plain
            if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
                return product(X, self) + b
            plain = self.layout.tensor(self.values) if plain is None else plain
            return torch.addmm(b.mT, plain, X.mT).mT

        return step


def product(X: Tensor, M: Sparse) -> Tensor:
    """X Mᵀ, (m, n); differentiable as often as wanted.

    Parameters
    ----------
    X : Tensor, shape (m, p)
    M : Sparse, shape (n, p)
    """
    return _Product.apply(X, M.values, M.layout)


def on_entries(V: Tensor, X: Tensor, layout: Layout) -> Tensor:
    """The values of Vᵀ X at the entries of a layout: the gradient of Σ V ∘ (X Mᵀ).

    Differentiable as often as wanted.

    Parameters
    ----------
    V, X : Tensor, shapes (m, n) and (m, p)
    layout : Layout
        Of M (n, p).
    """
    return _OnEntries.apply(V, X, layout)


class _Tensor(Function):
    """The sparse tensor of values on a layout; torch's own has no second derivative."""

    @staticmethod
    def forward(values: Tensor, layout: Layout) -> Tensor:
        return layout.tensor(values)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.layout = inputs[1]

    @staticmethod
    def backward(ctx, G: Tensor) -> tuple[Tensor, None]:
        if G.layout == torch.sparse_csr:
            return _Values.apply(G), None
        return G.to_dense()[ctx.layout.row, ctx.layout.col], None  # torch's own products give such


class _Values(Function):
    """The values of a sparse tensor."""

    @staticmethod
    def forward(M: Tensor) -> Tensor:
        return M.values().detach()

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.layout = Layout.of(inputs[0])

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return _Tensor.apply(g, ctx.layout)


def _check(*tensors: Tensor) -> None:
    if any(map(torch._C._functorch.is_legacy_batchedtensor, tensors)):
        raise NotImplementedError("a sparse matrix takes no is_grads_batched=True: use "
                                  "torch.func.vmap, or the matrix as to_dense() gives it.")


def _one_by_one(function: Callable, in_dims: tuple, *args: Tensor) -> tuple[Tensor, int]:
    """A batch of a function's calls, one after the other."""
    size = next(a.shape[d] for a, d in zip(args, in_dims, strict=False) if d is not None)
    calls = [[a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)]
             for i in range(size)]
    return torch.stack([function(*call) for call in calls]), 0


class _Product(Function):
    """X Mᵀ of the values of M."""

    @staticmethod
    def forward(X: Tensor, values: Tensor, layout: Layout) -> Tensor:
        _check(X, values)
        wide = torch.promote_types(X.dtype, torch.float32)  # torch has none of 16 bits
        return (layout.tensor(values.to(wide)) @ X.to(wide).mT).mT.to(X.dtype)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.layout = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        X, values = ctx.saved_tensors
        dX = dvalues = None
        if ctx.needs_input_grad[0]:
            order, layout = ctx.layout.transposed
            dX = _Product.apply(grad, values[order], layout)
        if ctx.needs_input_grad[1]:
            dvalues = _OnEntries.apply(grad, X, ctx.layout)
        return dX, dvalues, None

    @staticmethod
    def jvp(ctx, dX: Tensor | None, dvalues: Tensor | None, _: None) -> Tensor:
        return _linear_in_both(_Product, ctx, dX, dvalues)

    @staticmethod
    def vmap(info, in_dims: tuple, X: Tensor, values: Tensor, layout: Layout
             ) -> tuple[Tensor, int]:
        if in_dims[1] is not None:
            return _one_by_one(_Product.apply, in_dims, X, values, layout)
        X = X.movedim(in_dims[0], 0)
        return _Product.apply(X.flatten(0, 1), values, layout).unflatten(0, X.shape[:2]), 0


class _OnEntries(Function):
    """The values of Vᵀ X on a layout."""

    @staticmethod
    def forward(V: Tensor, X: Tensor, layout: Layout) -> Tensor:
        _check(V, X)
        # Both by columns in memory, so that an entry's dot product reads neighbours.
        wide = torch.promote_types(X.dtype, torch.float32)
        W, Y = V.to(wide).mT.contiguous(), X.to(wide).mT.contiguous()
        zero = layout.tensor(W.new_zeros(len(layout.col)))
        return torch.sparse.sampled_addmm(zero, W, Y.mT, beta=0.0).values().to(X.dtype)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.layout = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, G: Tensor) -> tuple[Tensor | None, ...]:
        V, X = ctx.saved_tensors
        dV = dX = None
        if ctx.needs_input_grad[0]:
            dV = _Product.apply(X, G, ctx.layout)
        if ctx.needs_input_grad[1]:
            order, layout = ctx.layout.transposed
            dX = _Product.apply(V, G[order], layout)
        return dV, dX, None

    @staticmethod
    def jvp(ctx, dV: Tensor | None, dX: Tensor | None, _: None) -> Tensor:
        return _linear_in_both(_OnEntries, ctx, dV, dX)

    @staticmethod
    def vmap(info, in_dims: tuple, V: Tensor, X: Tensor, layout: Layout) -> tuple[Tensor, int]:
        return _one_by_one(_OnEntries.apply, in_dims, V, X, layout)


def _linear_in_both(function: type[torch.autograd.Function], ctx, da: Tensor | None,
                    db: Tensor | None) -> Tensor:
    a, b = ctx.saved_tensors
    parts = [function.apply(*pair, ctx.layout) for pair in ((da, b), (a, db))
             if pair[0] is not None and pair[1] is not None]
    return sum(parts[1:], parts[0])
