"""Bounds in closed form: how far an equilibrium moves when its input does.

Contractive, L·λ_PF(|A|) < 1:  |δx| ≤ G|δu| component by component, G = L(I − L|A|)⁻¹|B|.
Monotone, φ increasing:        δxᵀ(δz − δx/L) ≥ 0 as every unit's slope is in [0, L], so with
S = I/L − (A + Aᵀ)/2 ≻ 0, δxᵀSδx ≤ δxᵀBδu: S^{½}δx lies in the ball that has 0 and w = S^{-½}Bδu
at the ends of a diameter. So |gᵀδx + dᵀδu| ≤ |(½gᵀS⁻¹B + dᵀ)δu| + ½‖S^{-½}g‖‖S^{-½}Bδu‖.
(Winston and Kolter 2020 and Pabbaraju et al. 2021 bound ‖δx‖ by ‖B‖‖δu‖ over the least
eigenvalue of S; the ball is never larger.)
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from idl_lab.robustness.bound import Linear
from idl_lab.robustness.system import EPS, Ball, System

_ROOM = 1e-9  # relative, for the rounding of what is inverted here; conditions above are refused
_WIDE = 5000  # inputs: beyond, |BᵀS⁻¹B| would not fit


class Closed:
    """The gains of a system, each made once.

    Parameters
    ----------
    system : System
    """

    def __init__(self, system: System) -> None:
        system.check_well_posed()
        self.system, self.slope = system, system.phi.slope

    def states(self, M: Tensor) -> Tensor:
        """X ≥ L(I − L|A|)⁻¹M for M ≥ 0, (n, k); proven by L|A|X + LM ≤ X.

        Parameters
        ----------
        M : Tensor, shape (n, k)

        Raises
        ------
        ValueError
            If I − L|A| is singular up to rounding.
        """
        A, L = self.slope * self.system.A.abs(), self.slope
        eye = torch.eye(len(A), dtype=A.dtype, device=A.device)
        X = torch.linalg.solve(eye - A, L * M).clamp(min=0)
        one = torch.linalg.solve(eye - A, A.new_ones(len(A), 1)).clamp(min=0)
        for _ in range(8):
            # Rounding is put right by what a little more everywhere, (I − L|A|)⁻¹1, brings.
            need = (A @ X + L * M) * (1 + 4 * sum(A.shape) * EPS) - X
            if (need <= 0).all():
                return X
            X = X + one * need.clamp(min=0).amax(0) * 2
        raise ValueError(f"the sensitivity matrix cannot be told from infinity in float64: "
                         f"{self.system.sentence}")

    @functools.cached_property
    def gain(self) -> Tensor:
        """G, shape (n, p), of a contractive system."""
        return self.states(self.system.B.abs())

    @functools.cached_property
    def _root(self) -> tuple[Tensor, float]:
        """R with R Rᵀ = S, and by what factor rounding may spoil what is divided by it."""
        A = self.system.A
        S = torch.eye(len(A), dtype=A.dtype, device=A.device) / self.slope - (A + A.mT) / 2
        values = torch.linalg.eigvalsh(S)
        spoilt = float(len(A) ** 2 * EPS * values[-1] / values[0])
        return torch.linalg.cholesky(S), 1 + _ROOM + 8 * spoilt

    def whiten(self, g: Tensor) -> Tensor:
        """Rows S^{-½}g up to a rotation, of a monotone system.

        Parameters
        ----------
        g : Tensor, shape (..., k, n)
        """
        return torch.linalg.solve_triangular(self._root[0], g.mT, upper=False).mT

    @functools.cached_property
    def _drive(self) -> Tensor:
        """S^{-½}B as rows, shape (p, n)."""
        return self.whiten(self.system.B.mT)

    @functools.cached_property
    def _drive_norm(self) -> float:
        return float(torch.linalg.matrix_norm(self._drive, 2))

    @functools.cached_property
    def _drive_square(self) -> Tensor:
        return (self._drive @ self._drive.mT).abs()

    def drive(self, ball: Ball) -> Tensor:
        """An upper bound of ‖S^{-½}B δu‖ in the ball, shape (m,).

        Parameters
        ----------
        ball : Ball
        """
        e = ball.radius
        if ball.norm == 2:
            return e[:, 0] * self._drive_norm
        most = torch.linalg.vector_norm(e, dim=-1) * self._drive_norm
        if e.shape[-1] <= _WIDE:
            most = torch.minimum(most, ((e @ self._drive_square) * e).sum(-1).sqrt())
        return most

    def reach(self, ball: Ball, f: Linear) -> Tensor:
        """How far functions may move from their values at the center, shape (m, K).

        Parameters
        ----------
        ball : Ball
        f : Linear
        """
        most = []
        if self.system.contractive:
            most.append(ball.support(f.g.abs() @ self.gain + f.d.abs()) * (1 + _ROOM))
        if self.system.monotone:
            most.append(self._monotone(ball, f))
        return functools.reduce(torch.minimum, most)

    def lipschitz(self, norm: float) -> float:
        """The Lipschitz constant of a monotone system in the 2- or the ∞-norm.

        Parameters
        ----------
        norm : float
        """
        system, room = self.system, self._root[1]
        if norm == math.inf:
            one = system.B.new_ones(1, system.B.shape[1])
            outputs = Linear.outputs(system, 1)
            return float(self._monotone(Ball(one, one, norm), outputs).amax())
        g = self.whiten(system.C)
        middle = torch.linalg.matrix_norm(g @ self._drive.mT + 2 * system.D, 2)
        return float(middle + torch.linalg.matrix_norm(g, 2) * self._drive_norm) / 2 * room

    def _monotone(self, ball: Ball, f: Linear) -> Tensor:
        g, room = self.whiten(f.g), self._root[1]
        middle = ball.support(g @ self._drive.mT / 2 + f.d)
        around = torch.linalg.vector_norm(g, dim=-1) * self.drive(ball)[:, None] / 2
        return (middle + around) * room + EPS

    def move(self, rho: Tensor) -> Tensor:
        """By how much each state moves where the injection does by ρ, shape (m, n).

        Parameters
        ----------
        rho : Tensor, shape (m, n)
        """
        if self.system.contractive:
            return self.states(rho.abs().mT).mT
        R, room = self._root
        least = float(torch.linalg.eigvalsh(R @ R.mT)[0])
        return (torch.linalg.vector_norm(rho, dim=-1, keepdim=True) / least * room).expand_as(rho)

    def center(self, ball: Ball) -> tuple[Tensor, Tensor, Tensor]:
        """State x and pre-activation z at the center, (m, n), and bounds of their errors' sizes.

        The error is measured: φ(z) is the exact equilibrium of an injection that differs by
        A(φ(z) − x).

        Parameters
        ----------
        ball : Ball

        Returns
        -------
        x, z, off : Tensor, shape (m, n)
            z is right up to ``off``, and x up to L times that.
        """
        system = self.system
        X = system.state(ball.center)
        Z = system.pre(X, ball.center)
        X = system.phi(Z)
        again = system.pre(X, ball.center)
        size = X.abs() @ system.A.abs().mT + ball.reach @ system.B.abs().mT + system.a.abs()
        rho = (again - Z).abs() + 4 * sum(system.B.shape) * EPS * size
        return X, Z, (self.move(rho) @ system.A.abs().mT + rho) * (1 + _ROOM)

    def bounds(self, ball: Ball, f: Linear, x: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds of functions in the ball, shape (m, K).

        Parameters
        ----------
        ball : Ball
        f : Linear
        x, off : Tensor, shape (m, n)
            As `center` gives them.
        """
        g, u = f.g, ball.center
        middle = (g @ x[:, :, None] + f.d @ u[:, :, None])[:, :, 0] + f.k
        size = (g.abs() @ x.abs()[:, :, None] + f.d.abs() @ u.abs()[:, :, None])[:, :, 0]
        room = (g.abs() @ (self.slope * off)[:, :, None])[:, :, 0] + 4 * sum(
            self.system.B.shape) * EPS * (size + f.k.abs())
        reach = self.reach(ball, f) + room
        return middle - reach, middle + reach
