"""‖A‖∞: a matrix brought within a radius, and the row sums of L Rᵀ without the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from idl_lab.extras import Function, followed, one_tangent, under_vmap, wide
from idl_lab.operators import LowRank, rounding_of_sums

Kappa = TypeVar("Kappa", float, Tensor)


def floor(A: Tensor) -> float:
    """What an entry near zero may be wrong by in A's dtype: of float16, 6e-8.

    Parameters
    ----------
    A : Tensor
    """
    return torch.finfo(A.dtype).tiny * torch.finfo(A.dtype).eps


def radius(A: Tensor, kappa: Kappa) -> Kappa:
    """κ less what rounding adds to a row's sum, so that the bound itself holds.

    Parameters
    ----------
    A : Tensor, shape (n, p)
        Its dtype and the length of its rows count.
    kappa : float, or Tensor of shape (n, 1)
        Radius κ ≥ 0, one for all rows or each row's own.
    """
    terms = A.shape[1]
    room = kappa * (1 - rounding_of_sums(terms, A.dtype)) - terms * floor(A)
    return room.clamp(min=0) if isinstance(room, Tensor) else max(room, 0.0)


def sums(A: Tensor) -> Tensor:
    """Σ_j |A_ij|, shape (n, 1).

    Parameters
    ----------
    A : Tensor, shape (n, p)
    """
    return A.abs().sum(dim=1, keepdim=True)


def largest_sum(A: Tensor) -> Tensor:
    """The largest of the `sums`, shape (1, 1).

    Parameters
    ----------
    A : Tensor, shape (n, p)
    """
    return sums(A).max(dim=0, keepdim=True).values


def shrink(A: Tensor, kappa: float, size: Callable[[Tensor], Tensor]) -> Tensor:
    """A · min(1, κ/size(A)); differentiable.

    Parameters
    ----------
    A : Tensor, shape (n, p)
    kappa : float
        Radius κ ≥ 0.
    size : callable
        Such as `sums` and `largest_sum`: in proportion to A, and at most its norm.
    """
    room = radius(A, kappa)
    if room == 0:
        return A * 0
    unit = 0.5 ** (4 + A.shape[1].bit_length())  # else sums of the largest numbers overflow
    by_sums = size in (sums, largest_sum) and not followed()
    return (_Shrink.apply if by_sums else _shrunk)(wide(A), room, unit, size).to(A.dtype)


def _shrunk(A: Tensor, room: float, unit: float, size: Callable[[Tensor], Tensor]) -> Tensor:
    M = A * unit
    return M * (size(M) / room).clamp_min(unit).reciprocal()


class _Shrink(torch.autograd.Function):
    """`_shrunk` by its rows' sums, with the gradient written out: in half as many passes over A."""

    @staticmethod
    def forward(ctx, A: Tensor, *given: float | Callable) -> Tensor:
        ctx.given = room, unit, size = given
        M = A * unit
        total, at = sums(M), None
        if size is largest_sum:
            total, at = total.max(dim=0, keepdim=True)
        factor = (total / room).clamp_min(unit).reciprocal()
        M.mul_(factor)
        ctx.save_for_backward(A, M, factor, at)
        return M

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        (A, M, factor, at), (room, unit, _) = ctx.saved_tensors, ctx.given
        if torch.is_grad_enabled():
            found, = torch.autograd.grad(_shrunk(A, *ctx.given), A, g, create_graph=True)
            return found, None, None, None
        share = factor * unit
        along = (g * M).sum() if at is not None else (g * M).sum(dim=1, keepdim=True)
        w = torch.where(share < 1, along * share / -room, 0)
        dA = g * share
        if at is None:
            dA.addcmul_(A.sgn(), w)
        else:
            dA.index_add_(0, at[0], A.index_select(0, at[0]).sgn_() * w)
        return dA, None, None, None


def shrink_rows(A: Tensor, kappa: float) -> Tensor:
    """Each row times min(1, κ/Σ_j|A_ij|), so that ‖A‖∞ ≤ κ in any order of adding.

    Parameters
    ----------
    A : Tensor, shape (n, p)
    kappa : float
        Radius κ ≥ 0.
    """
    return shrink(A, kappa, sums)


_ROWS = 256  # of L Rᵀ formed at a time: n · 256 numbers instead of n², in products still large


class _RowSums(Function):
    """Σ_j |L Rᵀ|_ij for every row i, (n,), a block of rows at a time."""

    generate_vmap_rule = True

    @staticmethod
    def forward(L: Tensor, R: Tensor) -> Tensor:
        return torch.cat([(part @ R.mT).abs_().sum(dim=1) for part in L.split(_ROWS)])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        L, R = ctx.saved_tensors
        dL, dR = [], torch.zeros_like(R)
        for part, g in zip(L.split(_ROWS), grad.split(_ROWS), strict=True):
            S = (part @ R.mT).sign() * g[:, None]
            dL.append(S @ R)
            dR = dR + S.mT @ part
        return torch.cat(dL), dR

    @staticmethod
    def jvp(ctx, dL: Tensor, dR: Tensor) -> Tensor:
        one_tangent()
        L, R = ctx.saved_tensors
        return torch.cat([((part @ R.mT).sign() * (d @ R.mT + part @ dR.mT)).sum(dim=1)
                          for part, d in zip(L.split(_ROWS), dL.split(_ROWS), strict=True)])


def row_sums(A: LowRank) -> Tensor:
    """Absolute row sums of L Rᵀ, shape (n,), without forming it; differentiable.

    Parameters
    ----------
    A : LowRank
    """
    return _RowSums.apply(A.L, A.R)


def largest_row_sum(A: LowRank, chunk: int = 64) -> Tensor:
    """‖L Rᵀ‖∞ without forming the product; differentiable.

    On the CPU a row's sum is first bounded by √n ‖R l‖₂, which is cheap for all rows at once (a
    QR of R makes it an r-vector's norm). Rows are summed in the order of that bound, until it
    falls below the largest sum found: a few in a hundred, for factors that are not contrived.
    Elsewhere all are summed, since the host would wait for each comparison.

    Parameters
    ----------
    A : LowRank
    chunk : int
        Rows summed at a time; more would often sum some that need not be.
    """
    at = _largest(A.L.detach(), A.R.detach(), chunk)
    return (A.L.index_select(0, at) @ A.R.mT).abs().sum()


def _largest(L: Tensor, R: Tensor, chunk: int) -> Tensor:
    """Which row's sum is the largest, shape (1,)."""
    if L.device.type != "cpu" or under_vmap():
        return row_sums(LowRank(L, R)).argmax(0, keepdim=True)
    T = torch.linalg.qr(R, mode="r").R
    rounding = 8 * torch.finfo(R.dtype).eps * torch.linalg.vector_norm(T)
    bound = len(R) ** 0.5 * (torch.linalg.vector_norm(L @ T.mT, dim=1)
                             + rounding * torch.linalg.vector_norm(L, dim=1))
    order = bound.argsort(descending=True)
    best, at = bound.new_full((), -1.0), order[:1]
    for rows in order.split(chunk):
        if bound[rows[0]] <= best:
            break
        top, k = (L[rows] @ R.mT).abs_().sum(dim=1).max(0, keepdim=True)
        at, best = torch.where(top > best, rows[k], at), torch.maximum(best, top)
    return at
