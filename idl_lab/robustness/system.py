"""What bounds are computed from: a model's matrices in float64, and the set of its inputs."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.activations import Activation
from idl_lab.adjoints import Implicit
from idl_lab.equilibrium import solve
from idl_lab.fixed_point import PeacemanRachford, Picard, Solver
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.model import ImplicitModel
from idl_lab.well_posedness import Condition

EPS = torch.finfo(torch.float64).eps
NORMS = (2.0, math.inf)


def double(T: Tensor) -> Tensor:
    """A dense copy in float64 without gradients, where the device has that; else on the CPU.

    Parameters
    ----------
    T : Tensor, dense or sparse (CSR)
    """
    T = T.detach() if T.layout == torch.strided else T.detach().to_dense()
    return (T.cpu() if T.device.type == "mps" else T).to(torch.float64)


def solved(A: Tensor, b: Tensor, phi: Activation, solver: Solver) -> Tensor:
    """What a solver finds for x = φ(Ax + b), (m, n); by how much it is off, its user measures.

    Parameters
    ----------
    A : Tensor, shape (n, n)
    b : Tensor, shape (m, n)
    phi : Activation
    solver : Solver
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return solve(A, b, phi, None, solver, Implicit()).value


@dataclass(frozen=True)
class System:
    """x = φ(Ax + Bu + a), ŷ = Cx + Du + c: dense, in float64, without gradients.

    Attributes
    ----------
    A, B, C, D : Tensor, shapes (n, n), (n, p), (q, n), (q, p)
    a, c : Tensor, shapes (n,) and (q,)
        The biases.
    phi : Activation
    contractive : bool
        Whether L·λ_PF(|A|) < 1, with L the slope of φ.
    monotone : bool
        Whether L·λ_max((A + Aᵀ)/2) < 1 and φ increases.
    sentence : str
        What is known of the well-posedness.
    solver : Solver
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    a: Tensor
    c: Tensor
    phi: Activation
    contractive: bool
    monotone: bool
    sentence: str
    solver: Solver

    @classmethod
    def of(cls, model: ImplicitModel) -> System:
        """The system of a model.

        Parameters
        ----------
        model : ImplicitModel

        Raises
        ------
        TypeError
            If it is none.
        """
        if not isinstance(model, ImplicitModel):
            raise TypeError(f"model must be an ImplicitModel, got {type(model).__name__}: "
                            f"ImplicitModel.from_network reads a feed-forward net off.")
        known, phi = model.certificate(), model.activation
        A, C = double(model.A), double(model.C)
        (q, n), p = C.shape, model.B.shape[1]
        monotone = known.condition is Condition.MONOTONE
        if not monotone and phi.increasing and n <= 1000:
            top = float(torch.linalg.eigvalsh((A + A.mT) / 2)[-1])
            monotone = phi.slope * top < 1 - 1e-9
        contractive, solver = known.condition in (Condition.NORM, Condition.PERRON), model.solver
        if isinstance(solver, Picard) and monotone and not contractive and phi.non_expansive:
            solver = PeacemanRachford()  # Picard diverges: nothing would be certified, without why
        D, a, c = (C.new_zeros(shape) if T is None else double(T) for T, shape in (
            (model.D, (q, p)), (model.state_bias, n), (model.output_bias, q)))
        return cls(A, double(model.B), C, D, a, c, phi,
                   contractive, monotone, known.sentence,
                   replace(solver, rtol=1e-12, atol=1e-14, max_steps=max(5000, solver.max_steps)))

    def check_well_posed(self) -> None:
        """Refuse a model whose equilibrium may not be unique: nothing can be proven of it.

        Raises
        ------
        ValueError
            If no condition for a unique equilibrium holds.
        """
        if not (self.contractive or self.monotone):
            raise ValueError(f"bounds need a model with exactly one equilibrium: {self.sentence}")

    def state(self, U: Tensor) -> Tensor:
        """The equilibrium (m, n) of the inputs U (m, p), as exactly as float64 allows.

        Parameters
        ----------
        U : Tensor, shape (m, p)
        """
        return solved(self.A, U @ self.B.mT + self.a, self.phi, self.solver)

    def pre(self, X: Tensor, U: Tensor) -> Tensor:
        """The pre-activations A x + B u + a, shape (m, n).

        Parameters
        ----------
        X : Tensor, shape (m, n)
        U : Tensor, shape (m, p)
        """
        return X @ self.A.mT + U @ self.B.mT + self.a

    def differences(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The margins ŷ_label − ŷ_j of every other class j as linear functions G x + H u + k.

        Parameters
        ----------
        labels : Tensor of int64, shape (m,)

        Returns
        -------
        G, H, k : Tensor, shapes (m, q − 1, n), (m, q − 1, p) and (m, q − 1)
        """
        q = len(self.C)
        eye = torch.eye(q, dtype=self.C.dtype, device=self.C.device)
        others = torch.arange(q - 1, device=labels.device) + (
            torch.arange(q - 1, device=labels.device) >= labels[:, None])
        J = eye[labels][:, None, :] - eye[others]
        return J @ self.C, J @ self.D, J @ self.c


@dataclass(frozen=True)
class Ball:
    """The inputs u with |u − center| ≤ radius (∞-norm, each input its own) or ‖u − center‖₂ ≤ ε.

    Attributes
    ----------
    center : Tensor, shape (m, p)
    radius : Tensor, shape (m, p), or (m, 1) in the 2-norm
    norm : float
        2 or ∞.
    """

    center: Tensor
    radius: Tensor
    norm: float

    @classmethod
    def of(cls, system: System, U: Tensor, eps: float | Tensor, norm: float = math.inf,
           low: float | None = None, high: float | None = None) -> Ball:
        """The ball around each input, widened by its own rounding.

        Parameters
        ----------
        system : System
        U : Tensor, shape (m, p)
        eps : float or Tensor
            Radius ≥ 0; in the ∞-norm also one that broadcasts to the shape of U.
        norm : float
            2 or ∞.
        low, high : float, optional
            In the ∞-norm the range of the data, which no input leaves.

        Raises
        ------
        TypeError, ValueError
            If U or ε does not fit, or the norm is another.
        """
        U = validation.tensor("U", U, "m p", p=system.B.shape[1])
        if norm not in NORMS:
            raise ValueError(f"norm must be 2 or inf, got {norm!r}.")
        U = double(U).to(system.A.device)
        if isinstance(eps, Tensor):
            eps = double(validation.tensor("eps", eps)).to(U.device)
            shape = (len(U), 1) if norm == 2 else U.shape
            try:
                radius = eps.expand(shape)
            except RuntimeError:
                raise ValueError(f"eps must broadcast to {tuple(shape)}, got shape "
                                 f"{tuple(eps.shape)}.") from None
            if (eps < 0).any():
                raise ValueError(f"eps must be at least 0, got {float(eps.min()):g}.")
        else:
            radius = U.new_full((len(U), 1) if norm == 2 else U.shape,
                                validation.real("eps", eps, at_least=0.0))
        if norm == math.inf and not low is high is None:
            below, above = U - radius, U + radius
            low = -math.inf if low is None else validation.real("low", low)
            high = math.inf if high is None else validation.real("high", high)
            if low >= high:
                raise ValueError(f"low must be below high, got {low:g} and {high:g}.")
            if (U < low).any() or (U > high).any():
                raise ValueError(f"U must lie in the range [{low:g}, {high:g}], got numbers in "
                                 f"[{float(U.min()):g}, {float(U.max()):g}].")
            below, above = below.clamp(min=low), above.clamp(max=high)
            U, radius = (below + above) / 2, (above - below) / 2
        return cls(U, radius * (1 + 4 * EPS) + 4 * EPS * U.abs().amax(-1, keepdim=True), norm)

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, which: Tensor | slice) -> Ball:
        return Ball(self.center[which], self.radius[which], self.norm)

    def support(self, W: Tensor) -> Tensor:
        """The largest |w·(u − center)| in the ball, shape (m, k).

        Parameters
        ----------
        W : Tensor, shape (m, k, p) or (k, p)
            Rows w.
        """
        if self.norm == 2:
            return torch.linalg.vector_norm(W, dim=-1) * self.radius
        if W.dim() == 2:
            return self.radius @ W.abs().mT
        return (W.abs() @ self.radius[:, :, None])[:, :, 0]

    @property
    def reach(self) -> Tensor:
        """The largest |u| component by component, shape (m, p)."""
        return self.center.abs() + self.radius
