"""ImplicitModel: x = φ(Ax + Bu), ŷ = Cx + Du as a torch module."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, dia_array
from torch import Tensor, nn
from torch.nn.utils import parametrize

from idl_lab import constraints, networks, operators, validation
from idl_lab.activations import Activation, activation
from idl_lab.equilibrium import Adjoint, Implicit, check_adjoint, solve
from idl_lab.fixed_point import PeacemanRachford, Picard, Solver, check_solver
from idl_lab.fixed_point.solution import Solution
from idl_lab.operators import Operator, leaves, linear
from idl_lab.well_posedness import Certificate, certificate, units


class ImplicitModel(nn.Module):
    """Implicit model; a drop-in for any torch training loop.

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
    constraint : {"scale", "row", "project", "perron", "triangular", "monotone"} or None
        How A is kept well-posed: one factor for the whole matrix, one for each row, the nearest
        matrix with ‖A‖∞ ≤ κ, λ_PF(|A|) ≤ κ, strictly upper triangular, (A + Aᵀ)/2 ⪯ κI; or not
        at all.
    rank : int, optional
        A = L Rᵀ of this rank, bounded as a product and never formed by a solve or a gradient, at
        O(n · rank) a step and sample; with "scale", "row" or None.
    bias : bool
        Add a bias to the state and to the prediction.
    feedthrough : bool
        Keep the term D u; without it D is None.
    solver : Solver, optional
        Of the state equation; by default Picard(), and PeacemanRachford() for a monotone A.
    adjoint : Implicit, Unrolled or OneStep
        How gradients are taken.
    device, dtype : optional
        As for `torch.nn.Linear`.
    generator : torch.Generator, optional
        Draws the initial parameters; torch's global one by default.

    Attributes
    ----------
    A : Tensor, shape (n, n)
        Of a network read off, sparse (CSR), and so is B.
    B : Tensor, shape (n, p)
    C : Tensor, shape (q, n)
    D : Tensor, shape (q, p), or None
    state_bias, output_bias : Tensor, shapes (n,) and (q,), or None
    blocks : tuple of networks.Block
        The layers that the states belong to, of a network read off; else empty.

    Raises
    ------
    TypeError, ValueError
        On sizes below 1, a rank above n, κ outside [0, 1), and unknown names, with the nearest
        right one.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3):930-958.
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int, *,
                 activation: str | Activation | Callable = "relu", kappa: float = 0.99,
                 constraint: str | None = "scale", rank: int | None = None, bias: bool = False,
                 feedthrough: bool = True, solver: Solver | None = None,
                 adjoint: Adjoint = Implicit(), device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        p = validation.integer("input_dim", input_dim)
        q = validation.integer("output_dim", output_dim)
        n = validation.integer("hidden_dim", hidden_dim)
        if rank is not None and validation.integer("rank", rank) > n:
            raise ValueError(f"rank must be at most hidden_dim={n}, got {rank}.")
        device = None if device is None else validation.resolve_device(device)
        dtype = None if dtype is None else validation.floating(dtype)

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        # Of a low rank, A has no n² numbers, not even at first.
        self.A = empty(n, n) if rank is None else nn.Parameter(
            torch.empty(1, 1, device=device, dtype=dtype).expand(n, n))
        self.B, self.C = empty(n, p), empty(q, n)
        self.register_parameter("D", empty(q, p) if feedthrough else None)
        self.register_parameter("state_bias", empty(n) if bias else None)
        self.register_parameter("output_bias", empty(q) if bias else None)
        if rank is None:
            self.reset_parameters(generator)  # first: a constraint looks at A when it is registered
        self._configure(activation, kappa, constraint, solver, adjoint, rank)
        if rank is not None:
            self.reset_parameters(generator)

    def _configure(self, phi: str | Activation | Callable, kappa: float, constraint: str | None,
                   solver: Solver | None, adjoint: Adjoint, rank: int | None) -> None:
        self.activation = activation(phi)
        if solver is None:
            solver = PeacemanRachford() if constraint == "monotone" else Picard()
        self.solver = check_solver(solver)
        self.adjoint = check_adjoint(adjoint)
        constraints.register(self, "A", constraint, kappa, rank)
        self.constraint, self.rank = constraint, rank
        self.blocks: tuple[networks.Block, ...] = ()
        self._has_ball = rank is not None or constraint not in (None, "triangular")
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
                      output_bias: Tensor | None = None, solver: Solver | None = None,
                      adjoint: Adjoint = Implicit()) -> ImplicitModel:
        """A model with these matrices, copied; their dtype and device become the model's.

        Parameters
        ----------
        A, B, C : Tensor, shapes (n, n), (n, p) and (q, n)
            A and B dense, or sparse in CSR layout: they keep their pattern and train its values.
        D : Tensor, shape (q, p), optional
            Without it the model has no feedthrough.
        constraint : str or None
            None keeps A as it is; a name applies that constraint, which may change A. A sparse A
            has None.
        state_bias, output_bias : Tensor, shapes (n,) and (q,), optional
            Given both or neither.
        activation, kappa, solver, adjoint
            As for `ImplicitModel`.
        """
        sparse = [name for name, M in (("A", A), ("B", B))
                  if isinstance(M, Tensor) and M.layout != torch.strided]
        for name, M in (("A", A), ("B", B)):
            if name in sparse:
                if M.layout != torch.sparse_csr:
                    raise ValueError(f"{name} has layout {M.layout}, wanted torch.sparse_csr: "
                                     f"{name}.to_sparse_csr() converts it.")
                validation.check_shape(name, M, "n n" if name == "A" else "n p", n=len(A))
                validation.tensor(f"{name}.values()", M.values(), like=C)
        if "A" not in sparse:
            validation.square("A", A)
        elif constraint is not None:
            raise ValueError(f"a sparse A takes constraint=None, got {constraint!r}: "
                             f"A.to_dense() takes any.")
        n = A.shape[0]
        if "B" not in sparse:
            validation.tensor("B", B, "n p", like=C if "A" in sparse else A, n=n)
        validation.tensor("C", C, "q n", like=None if sparse else A, n=n)
        p, q = B.shape[1], C.shape[0]
        if D is not None:
            validation.tensor("D", D, "q p", like=C, p=p, q=q)
        if (state_bias is None) != (output_bias is None):
            raise ValueError("state_bias and output_bias are given both or neither; "
                             "torch.zeros makes the one that is missing.")
        if state_bias is not None:
            validation.tensor("state_bias", state_bias, "n", like=C, n=n)
            validation.tensor("output_bias", output_bias, "q", like=C, q=q)
        # With a sparse matrix, parameters of these sizes are never made.
        with torch.device("meta" if sparse else A.device):
            model = cls(p, q, n, activation=activation, kappa=kappa, constraint=constraint,
                        bias=state_bias is not None, feedthrough=D is not None, solver=solver,
                        adjoint=adjoint, dtype=C.dtype)
        given = {"A": A, "parametrizations.A.original": A, "B": B, "C": C, "D": D,
                 "state_bias": state_bias, "output_bias": output_bias}
        with torch.no_grad():
            for name, M in list(model.named_parameters()):
                if name in sparse:
                    pattern = constraints.Pattern(given[name])
                    setattr(model, name, nn.Parameter(given[name].values().clone()))
                    parametrize.register_parametrization(model, name, pattern, unsafe=True)
                elif sparse:
                    setattr(model, name, nn.Parameter(given[name].clone()))
                else:
                    M.copy_(given[name])
        return model

    @classmethod
    def from_network(cls, net: nn.Module, input_shape: Sequence[int] | None = None, *,
                     rescale: bool = False, kappa: float = 0.99, solver: Solver | None = None,
                     adjoint: Adjoint = Implicit()) -> ImplicitModel:
        """The model that computes what an explicit network computes in eval mode.

        Each activation's output becomes a block of the state, the last layer first, so that A is
        strictly upper block-triangular; ``model.blocks`` names them. Inputs are flattened,
        (..., p). A and B are sparse (CSR) where fewer than a tenth of their entries are not zero.

        Parameters
        ----------
        net : torch.nn.Module
            Of Linear, Conv2d, BatchNorm, average pooling, Flatten, Dropout, additions and
            elementwise activations; left as it is.
        input_shape : sequence of int, optional
            Without the batch dimension, such as ``(1, 28, 28)``; a net that starts with Linear
            needs none.
        rescale : bool
            Change the units of the states so that ‖A‖∞ ≤ κ, with the same predictions; for
            positively homogeneous activations such as ReLU.
        kappa, solver, adjoint
            As for `ImplicitModel`; the constraint is None. With ``rescale`` the default solver's
            tolerance is divided by the largest unit, so that it means what it did before.

        Raises
        ------
        ValueError
            For an operation that has no place in the two equations, named with its place in the
            net; for ``rescale`` where an activation is not homogeneous.
        """
        read = networks.as_matrices(net, input_shape)
        phi, v = read.activation, np.ones(len(read.state_bias))
        if rescale:
            if not phi.homogeneous:
                names = sorted({b.activation.name for b in read.blocks
                                if not b.activation.homogeneous})
                raise ValueError(f"rescale=True needs positively homogeneous activations, φ(t s) = "
                                 f"t φ(s), such as ReLU: {', '.join(names)} would give other "
                                 f"predictions.")
            # Rounding to the net's dtype must not carry a row's sum over κ.
            room = 1 - (8 + len(read.state_bias).bit_length()) * torch.finfo(read.dtype).eps
            v = units(operators.from_scipy(read.A, torch.float64), kappa * room).numpy()
            # A tolerance is a number in the new units, of which the largest counts most.
            solver = solver or Picard(tol=Picard().tol / max(float(v.max()), 1.0))
        device = next(net.parameters(), torch.empty(0, device="cpu")).device

        def tensor(M: np.ndarray | csr_array) -> Tensor:
            return torch.as_tensor(M if isinstance(M, np.ndarray) else M.toarray(),
                                   dtype=read.dtype, device=device)

        def matrix(M: csr_array) -> Tensor:
            if M.nnz >= 0.1 * M.shape[0] * M.shape[1]:
                return tensor(M)
            return operators.from_scipy(M, read.dtype, device)

        units_ = dia_array((v[None], [0]), shape=(len(v), len(v)))
        inverse = dia_array((1 / v[None], [0]), shape=(len(v), len(v)))
        model = cls.from_matrices(
            matrix(csr_array(inverse @ read.A @ units_)), matrix(csr_array(inverse @ read.B)),
            tensor(csr_array(read.C @ units_)), tensor(read.D) if read.D.nnz else None,
            activation=phi, kappa=kappa, state_bias=tensor(read.state_bias / v),
            output_bias=tensor(read.output_bias), solver=solver, adjoint=adjoint)
        model.blocks = read.blocks
        return model

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every parameter anew from U(−1/√fan_in, 1/√fan_in), as `torch.nn.Linear`."""
        n = self.B.shape[0]
        for name, M in self.named_parameters():
            fan_in = n if name.endswith("bias") else M.shape[1]
            if name.startswith("parametrizations.A") and self.rank is not None:
                # So that entries of L Rᵀ have the variance that those of a full A have.
                fan_in = math.sqrt(n * self.rank / 3)
            draw = M if generator is None else torch.empty_like(M, device=generator.device)
            draw.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
            M.copy_(draw)

    def injection(self, U: Tensor) -> Tensor:
        """What the input adds to each state, U Bᵀ (+ bias): (..., p) → (..., n)."""
        validation.tensor("U", U, "... p", like=self.C, p=self.B.shape[1])
        return linear(U, self.B, self.state_bias)

    def operator(self) -> Operator:
        """What a solve multiplies with: A, or its factors where it has a rank."""
        if self.rank is None:
            return self.A
        kept = self.parametrizations.A
        return kept[0].factors(kept.original0, kept.original1)

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
        return solve(self._finite(self.operator()), self.injection(U), self.activation, X0,
                     self.solver, self.adjoint, keep_states, throw)

    def _finite(self, A: Operator) -> Operator:
        for T in leaves(A):
            validation.tensor("A", T if T.layout == torch.strided else T.values())
        return A

    def output(self, X: Tensor, U: Tensor) -> Tensor:
        """The prediction equation X Cᵀ + U Dᵀ (+ bias): (..., n), (..., p) → (..., q)."""
        validation.tensor("X", X, "... n", like=self.C, n=self.C.shape[1])
        validation.tensor("U", U, "... p", like=self.B, p=self.B.shape[1])
        if X.shape[:-1] != U.shape[:-1]:
            raise ValueError(f"X and U must have the same leading dimensions, got "
                             f"{tuple(X.shape[:-1])} and {tuple(U.shape[:-1])}.")
        return self._output(X, U)

    def _output(self, X: Tensor, U: Tensor) -> Tensor:
        Y = nn.functional.linear(X, self.C, self.output_bias)
        return Y if self.D is None else Y + nn.functional.linear(U, self.D)

    def forward(self, U: Tensor, X0: Tensor | None = None) -> Tensor:
        """Predictions Ŷ, shape (..., q), of the inputs U, shape (..., p).

        Parameters
        ----------
        U : Tensor, shape (..., p)
        X0 : Tensor, shape (..., n), optional
            Warm start of the state.
        """
        return self._output(self.equilibrium(U, X0=X0).value, U)

    def certificate(self) -> Certificate:
        """Which sufficient condition for a unique equilibrium ``model.A`` meets, in words."""
        return certificate(self.A, self.activation)

    def extra_repr(self) -> str:
        """The options, in the order of the signature."""
        n, p = self.B.shape
        rank = "" if self.rank is None else f"rank={self.rank}, "
        return (f"{p}, {self.C.shape[0]}, {n}, activation={self.activation.name!r}, "
                f"kappa={self.kappa:g}, constraint={self.constraint!r}, {rank}"
                f"bias={self.state_bias is not None}, feedthrough={self.D is not None}, "
                f"solver={self.solver}, adjoint={self.adjoint}")
