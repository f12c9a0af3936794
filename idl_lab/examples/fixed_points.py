"""Random matrices and starts, and solves that may fail."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Solver
from idl_lab.solution import ConvergenceWarning, Solution
from idl_lab.well_posedness import inf_norm

KINDS = ("positive", "signed")


def random_matrix(n: int, norm: float, kind: str = "signed", *,
                  generator: torch.Generator) -> Tensor:
    """A random A (n, n), float64, with ‖A‖∞ = ``norm``.

    Parameters
    ----------
    n : int
    norm : float
        ‖A‖∞, at least 0; may exceed 1.
    kind : {"positive", "signed"}
        "positive": entries > 0 and equal row sums, so λ_PF(|A|) = ‖A‖∞ and nothing cancels.
        "signed": normal entries, one factor for the whole matrix, so rows differ and
        λ_PF(|A|) < ‖A‖∞.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (n, n)
    """
    validation.integer("n", n)
    validation.real("norm", norm, at_least=0.0)
    validation.choice("kind", kind, KINDS)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64, device="cpu")
    if kind == "positive":
        A = A.abs()
        return A * (norm / A.sum(dim=1, keepdim=True))
    return A * (norm / inf_norm(A))


def solve_quietly(A: Tensor, injection: Tensor, phi: str, solver: Solver, X0: Tensor | None = None
                  ) -> Solution:
    """An equilibrium with its states kept, where failing to converge is part of the lesson."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return equilibrium(A, injection, phi, X0=X0, solver=solver, keep_states=True)


def several_starts(n: int, count: int, *, generator: torch.Generator, reach: float = 1.0) -> Tensor:
    """``count`` random starts (count, n), float64, uniform on [−reach, reach]."""
    validation.integer("n", n)
    validation.integer("count", count)
    validation.real("reach", reach, at_least=0.0)
    return reach * (2 * torch.rand(count, n, generator=generator, dtype=torch.float64,
                                   device="cpu") - 1)


def spread(solution: Solution) -> float:
    """Largest distance ‖x − x′‖∞ between the ends of a batch of starts; 0 where they agree."""
    ends = solution.value
    return float(inf_norm((ends.amax(dim=0) - ends.amin(dim=0))[:, None]))
