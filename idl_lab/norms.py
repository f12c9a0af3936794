"""The absolute row sums of L Rᵀ, and the largest, without forming the product."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.extras import one_tangent, under_vmap
from idl_lab.operators import LowRank

_ROWS = 256  # of L Rᵀ formed at a time: n · 256 numbers instead of n², in products still large


class _RowSums(torch.autograd.Function):
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
