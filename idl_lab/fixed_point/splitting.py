"""Peaceman–Rachford splitting, which finds the equilibrium of a monotone A whatever its norm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solver import Map, Solver, SolverState, measure
from idl_lab.operators import StateMap, dense


@dataclass(frozen=True)
class PeacemanRachford(Solver):
    """Splits x = φ(Ax + b) into the linear part and φ, and solves each in turn.

    With I − A strongly monotone and φ increasing and non-expansive (the proximal map of some
    convex function), u ← u + 2(w − x) converges, where x = prox(u) and w solves
    (I + α(I − A)) w = 2x − u + αb. The inverse is formed once a solve; a step then costs one
    product, since Aw follows from w.

    Parameters
    ----------
    rtol, atol, max_steps
        As for `Solver`.
    damping : float
        β in (0, 1]; 1 is Peaceman–Rachford, 1/2 is Douglas–Rachford, slower and safer.
    alpha : float
        α > 0, which changes the speed alone. Other than 1 it needs a positively homogeneous φ.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its bounds.

    References
    ----------
    Winston and Kolter 2020, Monotone operator equilibrium networks, arXiv 2006.08591,
    algorithm 2.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.real("alpha", self.alpha, above=0.0)

    def step(self, f: Map, x: Tensor, state: SolverState) -> tuple[Tensor, Tensor, SolverState]:
        """One step: the next x, f(w) and the next state; the residual is that of w.

        Parameters
        ----------
        f : callable
            Its affine map and φ are looked at one by one.
        x : Tensor, shape (m, n)
        state : SolverState

        Raises
        ------
        TypeError
            If f is no `StateMap`.
        ValueError
            If its φ is no proximal map, or not homogeneous where alpha is not 1.
        """
        a = self.alpha
        if state.memory:
            u, inverse, shift = state.memory
        else:
            inverse = self._inverse(f)
            u, shift = x, a * f.b @ inverse
        x = self._prox(f, u)
        y = 2 * x - u
        w = torch.addmm(shift, y, inverse)
        fw = f.act(((1 + a) * w - y) / a)  # Aw + b, without a product
        following = u + 2 * self.damping * (w - x)
        measured = measure(self, w, fw, state)
        return self._prox(f, following), fw, replace(measured, memory=(following, inverse, shift))

    def _inverse(self, f: StateMap) -> Tensor:
        """(I + α(I − A))⁻ᵀ, (n, n)."""
        if not isinstance(f, StateMap):
            raise TypeError("PeacemanRachford splits f into A and φ, so it solves an equilibrium "
                            f"or a StateMap, not any function; got {f!r}.")
        phi = f.phi
        if not (phi.increasing and phi.non_expansive):
            raise ValueError(f"PeacemanRachford needs an increasing non-expansive φ, the proximal "
                             f"map of a convex function; {phi.name} is not.")
        if self.alpha != 1 and not phi.homogeneous and f.slopes is None:
            raise ValueError(f"alpha={self.alpha:g} needs a positively homogeneous φ such as relu; "
                             f"for {phi.name} give alpha=1.")
        A = dense(f.A)
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        return torch.linalg.inv(eye + self.alpha * (eye - A)).mT.contiguous()

    def _prox(self, f: StateMap, u: Tensor) -> Tensor:
        """The proximal map of α times the function whose proximal map is φ."""
        x = f.act(u)
        if self.alpha == 1:
            return x
        # φ's slope on u's side of zero, a constant there: φ is homogeneous where alpha is not 1.
        s = torch.where(u != 0, x / torch.where(u != 0, u, 1), 1).detach()
        return x / (s + self.alpha * (1 - s))
