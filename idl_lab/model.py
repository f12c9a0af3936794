"""ImplicitModel: x = φ(Ax + Bu), ŷ = Cx + Du as a torch module."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from idl_lab import constraints, validation
from idl_lab.activations import Activation, activation
from idl_lab.equilibrium import Adjoint, Implicit, check_adjoint, equilibrium
from idl_lab.fixed_point import Picard, Solver, check_solver
from idl_lab.solution import Solution
from idl_lab.well_posedness import Certificate, certificate


class ImplicitModel(nn.Module):
    """Implicit model with a dense A; a drop-in for any torch training loop.

    The state X solves X = φ(X Aᵀ + U Bᵀ) and the prediction is Ŷ = X Cᵀ + U Dᵀ. ``model.A`` is
    always the matrix in use, with the constraint applied.

    Parameters
    ----------
    input_dim, output_dim, hidden_dim : int
        p, q and n.
    activation : str, Activation or callable
        φ, elementwise.
    kappa : float
        Radius 0 ≤ κ < 1 of the constraint.
    constraint : {"scale", "row", "project", "perron", "triangular"} or None
        How A is kept well-posed: one factor for the whole matrix, one for each row, the nearest
        matrix with ‖A‖∞ ≤ κ, λ_PF(|A|) ≤ κ, strictly upper triangular; or not at all.
    bias : bool
        Add a bias to the state and to the prediction.
    feedthrough : bool
        Keep the term D u; without it D is None.
    solver : Picard or Anderson
        Of the state equation.
    adjoint : Implicit, Unrolled or OneStep
        How gradients are taken.
    device, dtype : optional
        As for `torch.nn.Linear`.
    generator : torch.Generator, optional
        Draws the initial parameters; torch's global one by default.

    Attributes
    ----------
    A : Tensor, shape (n, n)
    B : Tensor, shape (n, p)
    C : Tensor, shape (q, n)
    D : Tensor, shape (q, p), or None
    state_bias, output_bias : Tensor, shapes (n,) and (q,), or None

    Raises
    ------
    TypeError, ValueError
        On sizes below 1, κ outside [0, 1), and unknown names, with the nearest right one.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3):930-958.
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int, *,
                 activation: str | Activation | Callable = "relu", kappa: float = 0.99,
                 constraint: str | None = "scale", bias: bool = False, feedthrough: bool = True,
                 solver: Solver = Picard(), adjoint: Adjoint = Implicit(),
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        p = validation.integer("input_dim", input_dim)
        q = validation.integer("output_dim", output_dim)
        n = validation.integer("hidden_dim", hidden_dim)
        device = None if device is None else validation.resolve_device(device)
        dtype = None if dtype is None else validation.floating(dtype)

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.A, self.B, self.C = empty(n, n), empty(n, p), empty(q, n)
        self.register_parameter("D", empty(q, p) if feedthrough else None)
        self.register_parameter("state_bias", empty(n) if bias else None)
        self.register_parameter("output_bias", empty(q) if bias else None)
        self.reset_parameters(generator)  # first: a constraint looks at A when it is registered
        self._configure(activation, kappa, constraint, solver, adjoint)

    def _configure(self, phi: str | Activation | Callable, kappa: float, constraint: str | None,
                   solver: Solver, adjoint: Adjoint) -> None:
        self.activation = activation(phi)
        self.solver = check_solver(solver)
        self.adjoint = check_adjoint(adjoint)
        constraints.register(self, "A", constraint, kappa)
        self.constraint = constraint
        self._has_ball = constraint not in (None, "triangular")
        self.kappa = kappa

    @property
    def kappa(self) -> float:
        """Radius κ of the constraint; assigning it moves the constraint."""
        return self.parametrizations.A[0].kappa if self._has_ball else self._kappa

    @kappa.setter
    def kappa(self, value: float) -> None:
        self._kappa = validation.kappa(value)
        if self._has_ball:
            self.parametrizations.A[0].kappa = self._kappa

    @classmethod
    def from_matrices(cls, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, *,
                      activation: str | Activation | Callable = "relu", kappa: float = 0.99,
                      constraint: str | None = None, state_bias: Tensor | None = None,
                      output_bias: Tensor | None = None, solver: Solver = Picard(),
                      adjoint: Adjoint = Implicit()) -> ImplicitModel:
        """A model with these matrices, copied; their dtype and device become the model's.

        Parameters
        ----------
        A, B, C : Tensor, shapes (n, n), (n, p) and (q, n)
        D : Tensor, shape (q, p), optional
            Without it the model has no feedthrough.
        constraint : str or None
            None keeps A as it is; a name applies that constraint, which may change A.
        state_bias, output_bias : Tensor, shapes (n,) and (q,), optional
            Given both or neither.
        activation, kappa, solver, adjoint
            As for `ImplicitModel`.
        """
        validation.square("A", A)
        n = A.shape[0]
        validation.tensor("B", B, "n p", like=A, n=n)
        validation.tensor("C", C, "q n", like=A, n=n)
        p, q = B.shape[1], C.shape[0]
        if D is not None:
            validation.tensor("D", D, "q p", like=A, p=p, q=q)
        if (state_bias is None) != (output_bias is None):
            raise ValueError("state_bias and output_bias are given both or neither; "
                             "torch.zeros makes the one that is missing.")
        if state_bias is not None:
            validation.tensor("state_bias", state_bias, "n", like=A, n=n)
            validation.tensor("output_bias", output_bias, "q", like=A, q=q)
        model = cls(p, q, n, activation=activation, kappa=kappa, constraint=constraint,
                    bias=state_bias is not None, feedthrough=D is not None, solver=solver,
                    adjoint=adjoint, device=A.device, dtype=A.dtype)
        given = {"A": A, "parametrizations.A.original": A, "B": B, "C": C, "D": D,
                 "state_bias": state_bias, "output_bias": output_bias}
        with torch.no_grad():
            for name, M in model.named_parameters():
                M.copy_(given[name])
        return model

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every parameter anew from U(−1/√fan_in, 1/√fan_in), as `torch.nn.Linear`."""
        n = self.B.shape[0]
        for name, M in self.named_parameters():
            fan_in = n if name.endswith("bias") else M.shape[1]
            draw = M if generator is None else torch.empty_like(M, device=generator.device)
            draw.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
            M.copy_(draw)

    def injection(self, U: Tensor) -> Tensor:
        """What the input adds to each state, U Bᵀ (+ bias): (..., p) → (..., n)."""
        validation.tensor("U", U, "... p", like=self.B, p=self.B.shape[1])
        return nn.functional.linear(U, self.B, self.state_bias)

    def equilibrium(self, U: Tensor, *, X0: Tensor | None = None, keep_states: bool = False,
                    throw: bool = False) -> Solution:
        """Solve the state equation for a batch.

        Parameters
        ----------
        U : Tensor, shape (..., p)
        X0 : Tensor, shape (..., n), optional
            Warm start, such as the last solution of the same batch.
        keep_states : bool
            Keep every iterate in ``trace.states``, for drawing.
        throw : bool
            Raise `ConvergenceError` instead of warning when the solve stops early.

        Returns
        -------
        Solution
            ``value`` has shape (..., n) and carries gradients.
        """
        return equilibrium(self.A, self.injection(U), self.activation, X0=X0, solver=self.solver,
                           adjoint=self.adjoint, keep_states=keep_states, throw=throw)

    def output(self, X: Tensor, U: Tensor) -> Tensor:
        """The prediction equation X Cᵀ + U Dᵀ (+ bias): (..., n), (..., p) → (..., q)."""
        validation.tensor("X", X, "... n", like=self.C, n=self.C.shape[1])
        validation.tensor("U", U, "... p", like=self.B, p=self.B.shape[1])
        if X.shape[:-1] != U.shape[:-1]:
            raise ValueError(f"X and U must have the same leading dimensions, got "
                             f"{tuple(X.shape[:-1])} and {tuple(U.shape[:-1])}.")
        Y = nn.functional.linear(X, self.C, self.output_bias)
        return Y if self.D is None else Y + nn.functional.linear(U, self.D)

    def forward(self, U: Tensor) -> Tensor:
        """Predictions Ŷ, shape (..., q), of the inputs U, shape (..., p)."""
        return self.output(self.equilibrium(U).value, U)

    def certificate(self) -> Certificate:
        """Which sufficient condition for a unique equilibrium ``model.A`` meets, in words."""
        return certificate(self.A, self.activation)

    def extra_repr(self) -> str:
        """The options, in the order of the signature."""
        n, p = self.B.shape
        return (f"{p}, {self.C.shape[0]}, {n}, activation={self.activation.name!r}, "
                f"kappa={self.kappa:g}, constraint={self.constraint!r}, "
                f"bias={self.state_bias is not None}, feedthrough={self.D is not None}, "
                f"solver={self.solver}, adjoint={self.adjoint}")
