"""The ways A is kept well-posed: frozen settings, each a map from a free matrix to one inside.

A model holds a free parameter and, beside it, one of these; ``model.A`` is the map's value, so
gradients flow through the constraint to the free parameter. `Constraint.free` is the way back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.extras import full_precision, wide
from idl_lab.norms import (
    floor,
    largest_row_sum,
    largest_sum,
    radius,
    row_sums,
    shrink,
    shrink_rows,
    sums,
)
from idl_lab.operators import LowRank, rounding_of_sums
from idl_lab.perron import perron_root

_TINY = torch.finfo(torch.float32).tiny  # a divisor that is not zero



@dataclass(frozen=True)
class Constraint:
    """None: the free matrix is the matrix in use.

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1 of the set that A is kept in; not used where there is none.

    Raises
    ------
    TypeError, ValueError
        If κ is no number in [0, 1).
    """

    kappa: float

    def __post_init__(self) -> None:
        validation.kappa(self.kappa)

    def __call__(self, A: Tensor) -> Tensor:
        """The constrained matrix of a free one, shape (n, n); differentiable."""
        return A

    def free(self, A: Tensor) -> tuple[Tensor, ...]:
        """The free tensors whose image is A, or the nearest to it that there is.

        Parameters
        ----------
        A : Tensor, shape (n, n)
        """
        return (A,)


@dataclass(frozen=True)
class Scale(Constraint):
    """A · min(1, κ/‖A‖∞): one factor for the whole matrix, so ‖A‖∞ ≤ κ.

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1.
    """

    def __call__(self, A: Tensor) -> Tensor:
        return shrink(A, self.kappa, largest_sum)


@dataclass(frozen=True)
class Row(Constraint):
    """Each row times min(1, κ/Σ_j|A_ij|), so ‖A‖∞ ≤ κ; rows inside stay.

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1.
    """

    def __call__(self, A: Tensor) -> Tensor:
        return shrink_rows(A, self.kappa)


def project_rows(A: Tensor, kappa: float | Tensor) -> Tensor:
    """Nearest matrix with ‖A‖∞ ≤ κ: each row onto the ℓ₁ ball of radius κ.

    Row a goes to sign(a) max(|a| − θ, 0), with the θ ≥ 0 that makes its absolute sum κ; rows
    already inside stay as they are. All rows at once, by sorting.

    Parameters
    ----------
    A : Tensor, shape (n, p)
    kappa : float, or Tensor of shape (n, 1)
        Radius κ ≥ 0, one for all rows or each row's own.

    Returns
    -------
    Tensor, shape (n, p)
        Differentiable in A.

    Raises
    ------
    TypeError, ValueError
        If A is no finite matrix of real numbers, or κ is negative.

    References
    ----------
    Duchi, Shalev-Shwartz, Singer, Chandra, ICML 2008, figure 1.
    """
    validation.tensor("A", A, "n p")
    if not isinstance(kappa, Tensor):
        validation.real("kappa", kappa, at_least=0.0)
    return A.clone() if A.numel() == 0 else _project(wide(A), kappa).to(A.dtype)


def _project(A: Tensor, kappa: float | Tensor) -> Tensor:
    magnitude = A.abs()
    inside = magnitude.sum(dim=1, keepdim=True) <= kappa
    # Entries are told by how far they lie below the row's largest: as heights above 0, a κ of 1
    # would be lost in the rounding of entries of 1e20. What lies κ below or deeper becomes 0.
    depth = magnitude.amax(dim=1, keepdim=True) - magnitude
    depth = depth.masked_fill((depth >= kappa) & (depth > 0), torch.inf)
    ranked = depth.sort(dim=1).values
    room = ranked.cumsum(dim=1) + kappa
    ranks = torch.arange(1, A.shape[1] + 1, device=A.device, dtype=A.dtype)
    kept = (ranked * ranks < room).sum(dim=1, keepdim=True).clamp(min=1)
    height = room.gather(1, kept - 1) / kept  # what is left of the largest entry
    return torch.where(inside, A, A.sign() * (height - depth).clamp(min=0))


@dataclass(frozen=True)
class Project(Constraint):
    """The nearest matrix with ‖A‖∞ ≤ κ (`project_rows`); it makes zeros.

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1.
    """

    def __call__(self, A: Tensor) -> Tensor:
        room = radius(A, self.kappa)
        P = _project(wide(A), room)
        # A row far outside is rounded in proportion to what it was, and may end just above κ.
        over = (sums(P.detach()) / room).clamp_min(1) if room else 1
        return (P / over).to(A.dtype)


@dataclass(frozen=True)
class Perron(Constraint):
    """A · min(1, κ/λ_PF(|A|)), so λ_PF(|A|) ≤ κ; ‖A‖∞ may exceed 1.

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1.
    """

    def __call__(self, A: Tensor) -> Tensor:
        return shrink(A, self.kappa, perron_root)


@dataclass(frozen=True)
class Triangular(Constraint):
    """The strictly upper triangle of A: a feed-forward net, λ_PF(|A|) = 0.

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1; not used.
    """

    def __call__(self, A: Tensor) -> Tensor:
        return A.triu(1)


@dataclass(frozen=True)
class Monotone(Constraint):
    """κI − PᵀP + K − Kᵀ with P the upper triangle of the free matrix and K the rest.

    Every A with (A + Aᵀ)/2 ⪯ κI, and no other: I − A is then strongly monotone with modulus
    1 − κ, and the equilibrium is unique for increasing non-expansive φ, whatever ‖A‖∞
    (Winston and Kolter 2020, arXiv 2006.08591; their W = (1 − m)I − AᵀA + B − Bᵀ, m = 1 − κ).

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1.
    """

    def __call__(self, M: Tensor) -> Tensor:
        P, K = wide(M).triu(), wide(M).tril(-1)
        with full_precision(P):
            A = K - K.mT - P.mT @ P
        kappa = torch.full((), self.kappa, dtype=A.dtype, device=A.device)
        if A.dtype != M.dtype:  # rounded to 16 bits, (A + Aᵀ)/2 must not rise above κ
            size = (A.detach().abs().sum(dim=0) + A.detach().abs().sum(dim=1)).amax() / 2 + kappa
            kappa = kappa - rounding_of_sums(len(M), M.dtype) * size - len(M) * floor(M)
        return (A + torch.diag(kappa.expand(len(M)))).to(M.dtype)

    def free(self, A: Tensor) -> tuple[Tensor]:
        """The free matrix of A, or of the nearest matrix in the set, found in float64.

        Parameters
        ----------
        A : Tensor, shape (n, n)
        """
        # Apple's GPUs have no float64; elsewhere the matrix stays where it is.
        M = A.detach().to("cpu" if A.device.type == "mps" else A.device, torch.float64)
        square = self.kappa * torch.eye(len(M), dtype=M.dtype, device=M.device) - (M + M.mT) / 2
        values, vectors = torch.linalg.eigh(square)
        root = values.clamp(min=0).sqrt()[:, None] * vectors.mT
        return ((torch.linalg.qr(root).R + ((M - M.mT) / 2).tril(-1)).to(A),)


@dataclass(frozen=True)
class Factors(Constraint):
    """A = L Rᵀ of rank r, ‖L Rᵀ‖∞ ≤ κ kept by scaling L: as a whole or row by row.

    The bound is that of the product, not the product of the factors' bounds.

    Parameters
    ----------
    kappa : float
        Radius 0 ≤ κ < 1.
    rank : int
    constraint : {"scale", "row"} or None
    """

    rank: int
    constraint: str | None

    def __call__(self, L: Tensor, R: Tensor) -> LowRank:
        """The constrained matrix by its factors, each (n, r)."""
        if self.constraint is None:
            return LowRank(L, R)
        scale, terms = self.constraint == "scale", len(L) * self.rank
        small = 0.5 ** (4 + terms.bit_length())  # with L in units of its largest: no overflow
        tall = wide(L).detach().abs().amax().clamp_min(_TINY)
        A, room = LowRank(wide(L) / tall, wide(R) * small), self.kappa * small
        with full_precision(L):
            size = largest_row_sum(A) if scale else row_sums(A)[:, None]
            with torch.no_grad():
                # Terms of L Rᵀ may cancel, so rounding is in proportion not to the product's row
                # sums but to the larger Σ_k |L_ik| Σ_j |R_jk|.
                reach = A.R.abs().sum(dim=0)
                slack = (A.L.abs() @ reach)[:, None]
                slack = (slack.amax() if scale else slack) * (
                    rounding_of_sums(len(L), L.dtype) + self.rank * torch.finfo(A.L.dtype).eps)
        if L.dtype != A.L.dtype:
            room = (room - floor(L) * reach.sum()).clamp_min(0)
        size = size + slack
        over = size * tall > room
        shrunk = A.L * (room / torch.where(over, size, 1))
        return LowRank(torch.where(over, shrunk, wide(L)).to(L.dtype), R)

    def free(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the nearest matrix of rank r (Eckart and Young 1936).

        Parameters
        ----------
        A : Tensor, shape (n, n)
        """
        U, s, Vt = torch.linalg.svd(wide(A.detach()), full_matrices=False)
        root = s[:self.rank].sqrt()
        return U[:, :self.rank] * root, Vt[:self.rank].mT * root


CONSTRAINTS = {"scale": Scale, "row": Row, "project": Project, "perron": Perron,
               "triangular": Triangular, "monotone": Monotone}
OF_FACTORS = ("scale", "row")


def constraint(name: str | None, kappa: float, rank: int | None = None) -> Constraint:
    """The constraint of a name.

    Parameters
    ----------
    name : str or None
        One of `CONSTRAINTS`; None keeps A as it is.
    kappa : float
        Its radius 0 ≤ κ < 1; "triangular" and None do not use it.
    rank : int, optional
        A is a product of factors (n, rank); with "scale", "row" or None.

    Raises
    ------
    TypeError, ValueError
        On an unknown name, with the nearest right one; on κ outside [0, 1); on a rank with a
        constraint that needs all of A.
    """
    if name is not None:
        validation.choice("constraint", name, CONSTRAINTS)
    if rank is None:
        return Constraint(kappa) if name is None else CONSTRAINTS[name](kappa)
    if name not in (*OF_FACTORS, None):
        raise ValueError(f"constraint={name!r} needs all of A, which rank={rank} never forms; with "
                         f"a rank there is {', '.join(map(repr, OF_FACTORS))} and None.")
    return Factors(kappa, rank, name)
