"""ImplicitModel: x = φ(Ax + Bu), ŷ = Cx + Du as a torch module."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from idl_lab import activations, constraints, networks, validation
from idl_lab.activations import Activation
from idl_lab.checkpoint import Constrained
from idl_lab.equilibrium import Adjoint, Implicit, check_adjoint, solve
from idl_lab.extras import full_precision, refuse_traced, unless_autocast
from idl_lab.fixed_point import GaussSeidel, Pace, PeacemanRachford, Picard, Solver, check_solver
from idl_lab.fixed_point.solution import Solution
from idl_lab.operators import LowRank, Operator, check_finite, linear, uniform_
from idl_lab.sparse import Sparse
from idl_lab.well_posedness import Certificate, certificate


class ImplicitModel(Constrained):
    """Implicit model; a drop-in for any torch training loop.

    The state X solves X = φ(X Aᵀ + U Bᵀ) and the prediction is Ŷ = X Cᵀ + U Dᵀ. ``model.A`` is
    always the matrix in use: the map ``model.constrain`` of the free parameter ``model.free_A``,
    which is what is trained, initialised and saved.

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
        The matrix in use, made at each call (torch.nn.init acts on ``free_A``); one assigned is
        kept as far as the constraint allows. Of a network read off, sparse (CSR), and so is B.
    free_A : Parameter, shape (n, n)
        Of a sparse A its values, (entries,); with a rank there are free_L and free_R, (n, rank).
    constrain : constraints.Constraint
        The map; made anew when ``model.kappa`` is assigned.
    B, C : Tensor, shapes (n, p) and (q, n)
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

        self.activation = activations.activation(activation)
        self.constrain = constraints.constraint(constraint, kappa, rank)
        self.constraint, self.rank = constraint, rank
        if solver is None:
            solver = PeacemanRachford() if constraint == "monotone" else Picard()
        self.solver = check_solver(solver)
        self.adjoint = check_adjoint(adjoint)
        self._paces = (Pace(), Pace())
        self.blocks: tuple[networks.Block, ...] = ()
        self.pattern_A: networks.Pattern | None = None  # of a sparse A
        self.pattern_B: networks.Pattern | None = None
        if rank is None:
            self.free_A = empty(n, n)
        self.B, self.C = empty(n, p), empty(q, n)
        self.register_parameter("D", empty(q, p) if feedthrough else None)
        self.register_parameter("state_bias", empty(n) if bias else None)
        self.register_parameter("output_bias", empty(q) if bias else None)
        if rank is not None:
            self.free_L, self.free_R = empty(n, rank), empty(n, rank)
        self.reset_parameters(generator)

    def __setattr__(self, name: str, value: object) -> None:
        # A Parameter torch would register under a name that is computed from others.
        if isinstance(value, nn.Parameter) and (name == "A" or name == "B" and self.pattern_B):
            value = value.detach()
        super().__setattr__(name, value)

    def _free(self) -> tuple[nn.Parameter, ...]:
        return (self.free_A,) if self.rank is None else (self.free_L, self.free_R)

    def operator(self) -> Operator:
        """What a solve multiplies with: A, or its factors where it has a rank."""
        return (self.pattern_A or self.constrain)(*self._free())

    @property
    def A(self) -> Tensor:
        """The matrix in use, (n, n), with the constraint applied; see the class."""
        A = self.operator()
        if isinstance(A, Sparse):
            return A.to_tensor()
        return A.to_dense() if isinstance(A, LowRank) else A

    @A.setter
    @torch.no_grad()
    def A(self, A: Tensor) -> None:
        if self.pattern_A is None:
            validation.tensor("A", A, "n n", like=self.C, n=self.C.shape[1])
        for M, value in zip(self._free(), (self.pattern_A or self.constrain).free(A), strict=True):
            M.copy_(value)

    @property
    def B(self) -> Tensor:
        """The matrix of the inputs, (n, p): a parameter, or sparse and made of ``free_B``."""
        if self.pattern_B is None:
            return self.__getattr__("B")  # torch's: the parameter, or an AttributeError
        return self.pattern_B(self.free_B).to_tensor()

    @B.setter
    @torch.no_grad()
    def B(self, B: Tensor) -> None:
        self.free_B.copy_(self.pattern_B.free(B)[0])

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
            None keeps A as it is; a name may change it. A sparse A has None.
        state_bias, output_bias : Tensor, shapes (n,) and (q,), optional
            Given both or neither.
        activation, kappa, solver, adjoint
            As for `ImplicitModel`.

        Raises
        ------
        TypeError, ValueError
            If the matrices do not match or are not finite, or as `ImplicitModel`.
        """
        given = {"A": (A, "n n"), "B": (B, "n p"), "C": (C, "q n"), "D": (D, "q p"),
                 "state_bias": (state_bias, "n"), "output_bias": (output_bias, "q")}
        checked = validation.matrices(given, sparse="AB", optional={*given} - {*"ABC"})
        sparse = [name for name in "AB" if given[name][0].layout != torch.strided]
        if "A" in sparse and constraint is not None:
            raise ValueError(f"a sparse A takes constraint=None, got {constraint!r}: "
                             f"A.to_dense() takes any.")
        if (state_bias is None) != (output_bias is None):
            raise ValueError("state_bias and output_bias are given both or neither; "
                             "torch.zeros makes the one that is missing.")
        # A model of size one, whose parameters those given replace: a large or sparse matrix is
        # never drawn first, and the global random numbers are left alone.
        model = cls(1, 1, 1, activation=activation, kappa=kappa, constraint=constraint,
                    bias=state_bias is not None, feedthrough=D is not None, solver=solver,
                    adjoint=adjoint, device="cpu", generator=torch.Generator("cpu"))
        for name, M in checked.items():
            if name in sparse:
                setattr(model, f"pattern_{name}", networks.Pattern(given[name][0]))
                model._parameters.pop(name, None)
                name = f"free_{name}"
            elif name == "A":
                name, (M,) = "free_A", model.constrain.free(M)
            M = M.detach().clone(memory_format=torch.contiguous_format)
            setattr(model, name, nn.Parameter(M))
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
            Of affine operations and elementwise activations, as `networks.READABLE` lists them;
            left as it is.
        input_shape : sequence of int, optional
            Without the batch dimension, such as ``(1, 28, 28)``; a net that starts with Linear
            needs none.
        rescale : bool
            Change the units of the states so that ‖A‖∞ ≤ κ, with the same predictions; for
            positively homogeneous activations such as ReLU.
        kappa, solver, adjoint
            As for `ImplicitModel`; the constraint is None. Where A is sparse the default solver is
            GaussSeidel, which goes through the layers once. With ``rescale`` the default solver's
            tolerance is divided by the largest unit, so that it means what it did before.

        Raises
        ------
        ValueError
            For an operation that has no place in the two equations, named with its place in the
            net; if the net, called on random inputs, does not give what its matrices give; for
            ``rescale`` where an activation is not homogeneous.
        """
        network, v = networks.as_matrices(net, input_shape), torch.ones(1, device="cpu")
        if rescale:
            network, v = network.rescaled(kappa)
        device = next(net.parameters(), torch.empty(0, device="cpu")).device
        matrices = network.tensors(device)
        if solver is None:
            layers = tuple(block.size for block in network.blocks)
            thin = matrices["A"].layout != torch.strided
            solver = (GaussSeidel(blocks=layers) if thin else Picard()).in_units(v)
        model = cls.from_matrices(**matrices, activation=network.activation, kappa=kappa,
                                  solver=solver, adjoint=adjoint)
        model.blocks = network.blocks
        return model

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every parameter anew from U(−1/√fan_in, 1/√fan_in), as `torch.nn.Linear`.

        Parameters
        ----------
        generator : torch.Generator, optional
            torch's global one by default.
        """
        n, p = self.B.shape
        fan_in = dict.fromkeys(("B", "free_B", "D"), p)
        if self.rank is not None:  # so that entries of L Rᵀ vary as much as those of a full A
            fan_in |= dict.fromkeys(("free_L", "free_R"), (n * self.rank / 3) ** 0.5)
        for name, M in self.named_parameters():
            uniform_(M, fan_in.get(name, n), generator)
        if self.constraint == "monotone":  # of the others a free matrix is like the A it makes
            self.free_A.copy_(*self.constrain.free(self.free_A))

    def injection(self, U: Tensor) -> Tensor:
        """What the input adds to each state, U Bᵀ (+ bias): (..., p) → (..., n).

        Parameters
        ----------
        U : Tensor, shape (..., p)

        Raises
        ------
        TypeError, ValueError
            If U has another dtype, device or size, or is not finite.
        """
        return self._injection(U, None)

    def _injection(self, U: Tensor, A: Operator | None) -> Tensor:
        B = self.B if self.pattern_B is None else self.pattern_B(self.free_B)
        validation.tensor("U", U, "... p", like=self.C, p=B.shape[1], finite=False)
        b = linear(U, B, self.state_bias)
        check_finite({"A": A, "U": U, "B": B, "state_bias": self.state_bias, "U Bᵀ": b},
                     ("A", "U", "U Bᵀ"))
        return b

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

        Raises
        ------
        TypeError, ValueError
            If U or X0 does not fit, or A is not finite.
        ConvergenceError
            With ``throw``, if some sample did not converge.
        """
        refuse_traced()
        U = unless_autocast(U, self.C)
        with full_precision(self.C):
            A = self.operator()
            # Only in training, where the step before was alike: elsewhere equal inputs are to give
            # equal outputs, whatever was solved before.
            paces = self._paces if self.training and torch.is_grad_enabled() else ()
            return solve(A, self._injection(U, A), self.activation, X0, self.solver, self.adjoint,
                         keep_states, throw, paces)

    def output(self, X: Tensor, U: Tensor) -> Tensor:
        """The prediction equation X Cᵀ + U Dᵀ (+ bias): (..., n), (..., p) → (..., q).

        Parameters
        ----------
        X : Tensor, shape (..., n)
        U : Tensor, shape (..., p)

        Raises
        ------
        TypeError, ValueError
            If their dtypes, devices or sizes do not fit, or a number is not finite.
        """
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

        Raises
        ------
        TypeError, ValueError
            As `equilibrium`.
        """
        return self._output(self.equilibrium(U, X0=X0).value, unless_autocast(U, self.C))

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
