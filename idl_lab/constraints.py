"""The ways a parameter A is kept well-posed, as torch parametrizations.

`register(module, "A", ...)` puts one on a parameter: from then on ``module.A`` is always the
matrix that obeys the constraint, and gradients flow through it to the free parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from idl_lab import validation
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


class Scale(_Ball):
    """A · min(1, κ/‖A‖∞): one factor for the whole matrix, so ‖A‖∞ ≤ κ."""

    def forward(self, A: Tensor) -> Tensor:
        """The constrained matrix, shape (n, n)."""
        return A * _factor(self.radius(A), A.abs().sum(dim=1).amax())


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


CONSTRAINTS = {"scale": Scale, "row": Row, "project": Project, "perron": Perron,
               "triangular": Triangular}


def register(module: nn.Module, name: str, constraint: str | None, kappa: float) -> None:
    """Keep a square parameter well-posed from now on.

    Parameters
    ----------
    module, name : nn.Module and str
        Where the parameter is.
    constraint, kappa : str or None, and float
        One of `CONSTRAINTS`, and its radius 0 ≤ κ < 1; "triangular" and None do not use it.
    """
    validation.kappa(kappa)
    if constraint is None:
        return
    kind = CONSTRAINTS[validation.choice("constraint", constraint, CONSTRAINTS)]
    keep = kind() if kind is Triangular else kind(kappa)
    parametrize.register_parametrization(module, name, keep)
