"""The ways a parameter A is kept well-posed, as torch parametrizations.

`register(module, "A", ...)` puts one on a parameter: from then on ``module.A`` is always the
matrix that obeys the constraint, and gradients flow through it to the free parameter.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from idl_lab import validation
from idl_lab.operators import LowRank, csr, inf_norm, row_sums
from idl_lab.well_posedness import perron_root, project_rows


class _Constraint(nn.Module):
    """What an assignment may store, whatever the constraint."""

    _n: int | None = None

    def right_inverse(self, A: Tensor) -> Tensor:
        """The free parameter that an assignment ``model.A = A`` stores: A itself."""
        validation.tensor("A", A, "n n", **({} if self._n is None else {"n": self._n}))
        self._n = len(A)
        return A


class _Ball(_Constraint):
    """A radius κ, shown and changed as ``.kappa``."""

    def __init__(self, kappa: float) -> None:
        super().__init__()
        self.kappa = validation.kappa(kappa)

    def radius(self, A: Tensor) -> float:
        """κ less what rounding a row's sum can add, so that the bound itself holds."""
        return self.kappa * (1 - (8 + A.shape[1].bit_length()) * torch.finfo(A.dtype).eps)

    def get_extra_state(self) -> dict[str, float]:
        """κ, which belongs to a checkpoint: the same free parameter means another A under it."""
        return {"kappa": self.kappa}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Take over a checkpoint's κ."""
        self.kappa = validation.kappa(state["kappa"])

    def extra_repr(self) -> str:
        return f"kappa={self.kappa:g}"


def _factor(kappa: float, size: Tensor) -> Tensor:
    """min(1, κ/size), without dividing by zero where it is not needed."""
    over = size > kappa
    return torch.where(over, kappa / torch.where(over, size, 1), 1)


class _Scaled(torch.autograd.Function):
    """A · min(1, κ/‖A‖∞); the norm's gradient touches one row, so a step saves five passes."""

    @staticmethod
    def forward(A: Tensor, kappa: float) -> tuple[Tensor, Tensor, Tensor]:
        size, at = A.abs().sum(dim=1).max(dim=0)
        return A * _factor(kappa, size), size, at

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        A, ctx.kappa = inputs
        ctx.save_for_backward(A, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx, grad: Tensor, *_: None) -> tuple[Tensor, None]:
        A, size, at = ctx.saved_tensors
        size = float(size)
        if not size > ctx.kappa:
            return grad, None
        # d(κ/‖A‖)/dA = −κ/‖A‖² sign of the largest row.
        inner = torch.dot(grad.flatten(), A.flatten())
        grad = grad * (ctx.kappa / size)
        grad[at] -= A[at].sign() * (inner * (ctx.kappa / size / size))
        return grad, None


# torch asks for the signature at every call, which costs more than the rest of a small one.
_Scaled.forward.__signature__ = inspect.signature(_Scaled.forward)


class Scale(_Ball):
    """A · min(1, κ/‖A‖∞): one factor for the whole matrix, so ‖A‖∞ ≤ κ."""

    def forward(self, A: Tensor) -> Tensor:
        """The constrained matrix, shape (n, n)."""
        return _Scaled.apply(A, self.radius(A))[0]


class Row(_Ball):
    """Each row times min(1, κ/Σ_j|A_ij|), so ‖A‖∞ ≤ κ; rows inside stay."""

    def forward(self, A: Tensor) -> Tensor:
        """The constrained matrix, shape (n, n)."""
        return A * _factor(self.radius(A), A.abs().sum(dim=1, keepdim=True))


class Project(_Ball):
    """The nearest matrix with ‖A‖∞ ≤ κ (`project_rows`); it makes zeros."""

    def forward(self, A: Tensor) -> Tensor:
        """The constrained matrix, shape (n, n)."""
        A = project_rows(A, self.radius(A))
        # Far outside the ball, the projection's rounding is that of the given row.
        return A * _factor(self.radius(A), A.detach().abs().sum(dim=1, keepdim=True))


class Perron(_Ball):
    """A · min(1, κ/λ_PF(|A|)), so λ_PF(|A|) ≤ κ; ‖A‖∞ may exceed 1."""

    def forward(self, A: Tensor) -> Tensor:
        """The constrained matrix, shape (n, n)."""
        return A * _factor(self.radius(A), perron_root(A))


class Triangular(_Constraint):
    """The strictly upper triangle of A: a feed-forward net, λ_PF(|A|) = 0."""

    def forward(self, A: Tensor) -> Tensor:
        """The constrained matrix, shape (n, n)."""
        return A.triu(1)


class Monotone(_Ball):
    """κI − PᵀP + K − Kᵀ with P the upper triangle of the free matrix and K the rest.

    Every A with (A + Aᵀ)/2 ⪯ κI, and no other: I − A is then strongly monotone with modulus
    1 − κ, and the equilibrium is unique for increasing non-expansive φ, whatever ‖A‖∞
    (Winston and Kolter 2020, arXiv 2006.08591; their W = (1 − m)I − AᵀA + B − Bᵀ, m = 1 − κ).
    """

    def forward(self, M: Tensor) -> Tensor:
        """The constrained matrix, shape (n, n)."""
        P, K = M.triu(), M.tril(-1)
        A = K - K.mT - P.mT @ P
        return A + self.kappa * torch.eye(len(M), dtype=M.dtype, device=M.device)

    @torch.no_grad()
    def right_inverse(self, A: Tensor) -> Tensor:
        """The free matrix of A, or of the nearest matrix in the set."""
        A = super().right_inverse(A)
        square = self.kappa * torch.eye(len(A), dtype=A.dtype, device=A.device) - (A + A.mT) / 2
        values, vectors = torch.linalg.eigh(square)
        root = values.clamp(min=0).sqrt()[:, None] * vectors.mT
        return torch.linalg.qr(root).R + ((A - A.mT) / 2).tril(-1)


class Factors(_Ball):
    """A = L Rᵀ of rank r, ‖L Rᵀ‖∞ ≤ κ kept by scaling L: as a whole or row by row.

    The bound is that of the product, not the product of the factors' bounds. What a solver
    needs is `factors`; ``model.A`` forms the product for those who want to see it.
    """

    def __init__(self, kappa: float, rank: int, constraint: str | None) -> None:
        super().__init__(kappa)
        self.rank, self.constraint = rank, constraint
        self._registered = False

    def factors(self, L: Tensor, R: Tensor) -> LowRank:
        """The constrained matrix by its factors, each (n, r)."""
        if self.constraint is None:
            return LowRank(L, R)
        A = LowRank(L, R)
        with torch.no_grad():  # what rounding adds is in proportion to Σ_k |L_ik| Σ_j |R_jk|
            eps = (8 + len(L).bit_length() + self.rank) * torch.finfo(L.dtype).eps
            slack = eps * (L.abs() @ R.abs().sum(dim=0))
        if self.constraint == "scale":
            return LowRank(L * _factor(self.kappa, inf_norm(A) + slack.amax()), R)
        return LowRank(L * _factor(self.kappa, row_sums(A) + slack)[:, None], R)

    def forward(self, L: Tensor, R: Tensor) -> Tensor:
        """The constrained matrix, formed, shape (n, n)."""
        return self.factors(L, R).to_dense()

    @torch.no_grad()
    def right_inverse(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the nearest matrix of rank r (Eckart and Young 1936)."""
        if not self._registered:  # a new model draws its factors: no need for n² numbers, or n³
            self._registered = True
            return A.new_zeros(len(A), self.rank), A.new_zeros(len(A), self.rank)
        A = super().right_inverse(A)
        U, s, Vt = torch.linalg.svd(A, full_matrices=False)
        root = s[:self.rank].sqrt()
        return U[:, :self.rank] * root, Vt[:self.rank].mT * root


class Pattern(nn.Module):
    """A sparse matrix, its pattern fixed and its values free."""

    def __init__(self, M: Tensor) -> None:
        super().__init__()
        self.register_buffer("crow", M.crow_indices())
        self.register_buffer("col", M.col_indices())
        self.shape = tuple(M.shape)

    def forward(self, values: Tensor) -> Tensor:
        """The matrix in CSR layout."""
        return csr(self.crow, self.col, values, self.shape)

    def right_inverse(self, M: Tensor) -> Tensor:
        """The values of M, which must have this pattern (or is the vector of values itself)."""
        if M.dim() == 1 and M.shape == self.col.shape:
            return M
        M = M if M.layout == torch.sparse_csr else M.to_sparse_csr()
        if not (tuple(M.shape) == self.shape and torch.equal(M.crow_indices(), self.crow)
                and torch.equal(M.col_indices(), self.col)):
            raise ValueError(f"a sparse parameter keeps its pattern of {len(self.col)} entries in "
                             f"shape {self.shape}, got {M._nnz()} entries in {tuple(M.shape)}.")
        return M.values().clone()

    def extra_repr(self) -> str:
        """Shape and number of entries."""
        return f"{self.shape[0]}, {self.shape[1]}, entries={len(self.col)}"


CONSTRAINTS = {"scale": Scale, "row": Row, "project": Project, "perron": Perron,
               "triangular": Triangular, "monotone": Monotone}
OF_FACTORS = ("scale", "row")


def register(module: nn.Module, name: str, constraint: str | None, kappa: float,
             rank: int | None = None) -> None:
    """Keep a square parameter well-posed from now on.

    Parameters
    ----------
    module, name : nn.Module and str
        Where the parameter is.
    constraint, kappa : str or None, and float
        One of `CONSTRAINTS`, and its radius 0 ≤ κ < 1; "triangular" and None do not use it.
    rank : int, optional
        Make it a product of factors (n, rank), zero at first; with "scale", "row" or None.
    """
    validation.kappa(kappa)
    if constraint is not None:
        validation.choice("constraint", constraint, CONSTRAINTS)
    if rank is not None:
        if constraint not in (*OF_FACTORS, None):
            raise ValueError(f"constraint={constraint!r} needs all of A, which rank={rank} never "
                             f"forms; with a rank there is {', '.join(map(repr, OF_FACTORS))} and "
                             f"None.")
        parametrize.register_parametrization(module, name, Factors(kappa, rank, constraint),
                                             unsafe=True)
    elif constraint is not None:
        kind = CONSTRAINTS[constraint]
        parametrize.register_parametrization(module, name,
                                             kind() if kind is Triangular else kind(kappa))
