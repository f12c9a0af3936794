"""Peaceman–Rachford splitting, which finds the equilibrium of a monotone A whatever its norm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.fixed_point.solver import Map, Solver, SolverState, measure
from idl_lab.operators import dense
from idl_lab.state_map import StateMap


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
    alpha : float, optional
        α > 0, which changes the speed alone; other than 1 it needs a positively homogeneous φ. By
        default √n/‖I − A‖_F for such a φ, one over the size of a usual singular value, else 1.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its bounds.

    References
    ----------
    Winston and Kolter 2020, Monotone operator equilibrium networks, arXiv 2006.08591,
    algorithm 2.
    """

    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None:
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
        if state.memory:
            u, inverse, shift, a = state.memory
        else:
            inverse, a = self._inverse(f)
            u, shift = x, a * f.b @ inverse
        x = self._prox(f, u, a)
        y = 2 * x - u
        w = torch.addmm(shift, y, inverse)
        fw = f.act(((1 + a) * w - y) / a)  # Aw + b, without a product
        following = u + 2 * self.damping * (w - x)
        measured = measure(self, w, fw, state)
        return self._prox(f, following, a), fw, replace(
            measured, memory=(following, inverse, shift, a))

    def _inverse(self, f: StateMap) -> tuple[Tensor, Tensor]:
        """(I + α(I − A))⁻ᵀ, (n, n), and α."""
        if not isinstance(f, StateMap):
            raise TypeError("PeacemanRachford splits f into A and φ, so it solves an equilibrium "
                            f"or a StateMap, not any function; got {f!r}.")
        phi, any_alpha = f.phi, f.phi.homogeneous or f.slopes is not None
        if not (phi.increasing and phi.non_expansive):
            raise ValueError(f"PeacemanRachford needs an increasing non-expansive φ, the proximal "
                             f"map of a convex function; {phi.name} is not.")
        if self.alpha not in (None, 1) and not any_alpha:
            raise ValueError(f"alpha={self.alpha:g} needs a positively homogeneous φ such as relu; "
                             f"for {phi.name} give alpha=1.")
        A = dense(f.A)
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        a = A.new_tensor(self.alpha or 1.0)
        if self.alpha is None and any_alpha:
            a = (len(A) ** 0.5 / torch.linalg.matrix_norm(eye - A.detach())).clamp(1e-6, 1e6)
        inverse, singular = torch.linalg.inv_ex(eye + a * (eye - A))
        if singular:  # never of a monotone A; elsewhere another α will do
            a = 0.7 * a
            inverse = torch.linalg.inv(eye + a * (eye - A))
        return inverse.mT.contiguous(), a

    def _prox(self, f: StateMap, u: Tensor, a: Tensor) -> Tensor:
        """The proximal map of α times the function whose proximal map is φ."""
        x = f.act(u)
        if not f.phi.homogeneous and f.slopes is None:
            return x
        # φ's slope on u's side of zero, a constant there: φ is homogeneous where α is not 1.
        s = torch.where(u != 0, x / torch.where(u != 0, u, 1), 1).detach()
        return x / (s + a * (1 - s))
