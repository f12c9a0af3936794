"""An implicit graph network: X = φ(Â X Wᵀ + U Bᵀ), one equilibrium over all nodes of a graph."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn

from idl_lab import constraints, validation
from idl_lab.activations import Activation
from idl_lab.activations import activation as as_activation
from idl_lab.checkpoint import Constrained
from idl_lab.equilibrium import Adjoint, Implicit
from idl_lab.extras import full_precision
from idl_lab.fixed_point import Picard, Solver
from idl_lab.fixed_point.solution import Solution
from idl_lab.layer.equilibrium_layer import EquilibriumLayer
from idl_lab.operators import uniform_
from idl_lab.perron import perron_frobenius, perron_root
from idl_lab.sparse import Layout, Sparse, product
from idl_lab.well_posedness import Certificate, Condition, certificate

CONSTRAINTS = ("scale", "row", "project", "perron")
_LAYOUTS = (torch.strided, torch.sparse_csr, torch.sparse_coo)
_POWER_STEPS = 20  # before inverse iteration, which a chain needs and many small graphs pay for


def _version(*tensors: Tensor) -> tuple[int, ...] | None:
    """How often each was written to; None in inference mode, where torch does not count."""
    if any(T.is_inference() for T in tensors):
        return None
    return tuple(T._version for T in tensors)


class GraphStep(nn.Module):
    """f(X, J, W, Â) = φ(Â X Wᵀ + J), what an implicit graph network iterates; for a layer.

    Parameters
    ----------
    activation : str, Activation or callable
        φ, elementwise.

    Raises
    ------
    TypeError, ValueError
        As `activations.activation`.
    """

    def __init__(self, activation: str | Activation | Callable = "relu") -> None:
        super().__init__()
        self.activation = as_activation(activation)
        self._graph: tuple = ()

    def _layout(self, crow: Tensor, col: Tensor) -> Layout:
        """Where Â's entries stand: looked up where the graph is the last one.

        A backward pass needs the transpose at every step, and there it is sorted out once.
        """
        version = _version(crow, col)
        known, layout = self._graph or (None, None)
        if version is None or known != version or layout.crow is not crow or layout.col is not col:
            layout = Layout(crow, col, (len(crow) - 1, len(crow) - 1))
            self._graph = version, layout
        return layout

    def forward(self, X: Tensor, J: Tensor, W: Tensor, A_hat: Tensor, crow: Tensor | None = None,
                col: Tensor | None = None) -> Tensor:
        """The image of the states X.

        Parameters
        ----------
        X, J : Tensor, shape (N, n)
            States and what is added to them, a row a node.
        W : Tensor, shape (n, n)
        A_hat : Tensor, shape (N, N) or (entries,)
            Dense, or the values of a sparse one: torch.func takes no sparse tensor.
        crow, col : Tensor of int64, shapes (N + 1,) and (entries,), optional
            Where these stand, as ``A_hat.crow_indices()`` and ``A_hat.col_indices()`` say.
        """
        heard = X @ W.mT
        if crow is None:
            heard = A_hat @ heard
        else:
            heard = product(heard.mT, Sparse(A_hat, self._layout(crow, col))).mT
        return self.activation(heard + J)

    def __getstate__(self) -> dict:
        # The last graph is no part of a copy or a file, which would hold all of it.
        return self.__dict__ | {"_graph": ()}


class ImplicitGraph(Constrained):
    """Implicit graph network; called as ``model(U, adjacency)``.

    The states X of the N nodes solve X = φ(Â X Wᵀ + U Bᵀ), each listening to its neighbours and
    they to theirs, without end; the prediction is Ŷ = X Cᵀ, a row a node. ‖W‖∞ is kept at
    κ/λ_PF(|Â|) or below, so that there is exactly one equilibrium whatever the graph. The weight
    in use depends on the graph: ``model.weight(adjacency)`` is made of the free ``free_W``.

    Parameters
    ----------
    input_dim, output_dim, hidden_dim : int
        p, q and n: the numbers of a node's features, predictions and states.
    activation : str, Activation or callable
        φ, elementwise.
    kappa : float
        Radius 0 ≤ κ < 1; a label that is to reach far needs one close to 1.
    constraint : {"row", "scale", "project", "perron"}
        How λ_PF(|Â|) W is kept in the ball, as `ImplicitModel` keeps A; "perron" bounds
        λ_PF(|Â|) λ_PF(|W|) instead. ("scale" shrinks all rows by what the largest needs, and
        what is to reach far then fades.)
    bias : bool
        Add a bias to the states and to the predictions.
    solver : Solver
    adjoint : Implicit, Unrolled, Neumann, OneStep or Phantom
        How gradients are taken.
    device, dtype : optional
        As for `torch.nn.Linear`.
    generator : torch.Generator, optional
        Draws the initial parameters; torch's global one by default.

    Attributes
    ----------
    free_W : Parameter, shape (n, n)
    B, C : Parameter, shapes (n, p) and (q, n)
    state_bias, output_bias : Parameter, shapes (n,) and (q,), or None
    layer : EquilibriumLayer
        Of `GraphStep`; the solver and the adjoint are its.

    Raises
    ------
    TypeError, ValueError
        On sizes below 1, κ outside [0, 1), and unknown names, with the nearest right one.

    References
    ----------
    Gu, Chang, Zhu, Sojoudi, El Ghaoui 2020, Implicit Graph Neural Networks, arXiv 2009.06211.
    (There a node's features are a column, X = φ(W X Â + B U): our X and Â are transposed.)
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int, *,
                 activation: str | Activation | Callable = "relu", kappa: float = 0.99,
                 constraint: str = "row", bias: bool = False, solver: Solver = Picard(),
                 adjoint: Adjoint = Implicit(), device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        p = validation.integer("input_dim", input_dim)
        q = validation.integer("output_dim", output_dim)
        n = validation.integer("hidden_dim", hidden_dim)
        validation.choice("constraint", constraint, CONSTRAINTS)
        self.constraint, self.constrain = constraint, constraints.constraint(constraint, kappa)
        self.layer = EquilibriumLayer(GraphStep(activation), solver=solver, adjoint=adjoint,
                                      batched=False)
        device = None if device is None else validation.resolve_device(device)
        dtype = None if dtype is None else validation.floating(dtype)

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.free_W, self.B, self.C = empty(n, n), empty(n, p), empty(q, n)
        self.register_parameter("state_bias", empty(n) if bias else None)
        self.register_parameter("output_bias", empty(q) if bias else None)
        self._graph: tuple = ()
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every parameter anew from U(−1/√fan_in, 1/√fan_in), as `torch.nn.Linear`.

        Parameters
        ----------
        generator : torch.Generator, optional
            torch's global one by default.
        """
        n, p = self.B.shape
        for name, M in self.named_parameters():
            uniform_(M, p if name == "B" else n, generator)

    def _read(self, adjacency: Tensor) -> tuple[tuple[Tensor, ...], float | Tensor]:
        """Â as `GraphStep` takes it, and λ_PF(|Â|): looked up where the graph is the last one."""
        known, version, *found = self._graph or (lambda: None, None)
        if known() is adjacency and version is not None and version == _version(adjacency):
            return tuple(found)
        if not isinstance(adjacency, Tensor) or adjacency.layout not in _LAYOUTS:
            got = getattr(adjacency, "layout", type(adjacency).__name__)
            raise TypeError(f"adjacency must be a torch.Tensor, dense or sparse (CSR, COO), got "
                            f"{got}: normalised_adjacency makes one of edges.")
        validation.check_shape("adjacency", adjacency, "nodes nodes")
        if len(adjacency) == 0:
            raise ValueError("adjacency must have at least one node, got none.")
        if adjacency.layout == torch.strided:
            A_hat = validation.tensor("adjacency", adjacency, like=self.B)
            parts = (A_hat,)
            if A_hat.requires_grad:  # W depends on λ_PF, so there is a way through it
                return parts, perron_root(A_hat)
        else:
            if adjacency.requires_grad:
                raise ValueError("a sparse adjacency gets no gradient, and this one asks for it: "
                                 "give it dense, or detached.")
            A_hat = adjacency.to_sparse_csr()
            values = validation.tensor("adjacency.values()", A_hat.values(), like=self.B)
            parts = values, A_hat.crow_indices(), A_hat.col_indices()
        root = perron_frobenius(A_hat, max_steps=_POWER_STEPS).upper
        self._graph = weakref.ref(adjacency), _version(adjacency), parts, root
        return parts, root

    def weight(self, adjacency: Tensor) -> Tensor:
        """The matrix W in use on a graph, (n, n): λ_PF(|Â|) ‖W‖∞ ≤ κ; differentiable.

        Parameters
        ----------
        adjacency : Tensor, shape (N, N), dense or sparse
        """
        root = self._read(adjacency)[1]
        # In a graph without cycles nothing comes back: every W has one equilibrium.
        return self.constrain(self.free_W * root) / root if root else self.free_W

    def equilibrium(self, U: Tensor, adjacency: Tensor, *, X0: Tensor | None = None,
                    keep_states: bool = False, throw: bool = False) -> Solution:
        """Solve the state equation of all nodes.

        Parameters
        ----------
        U : Tensor, shape (N, p)
            The nodes' features.
        adjacency : Tensor, shape (N, N), dense or sparse
            Â, such as `normalised_adjacency` makes; a dense one gets a gradient if it asks.
        X0 : Tensor, shape (N, n), optional
            Warm start, zero by default.
        keep_states : bool
            Keep every iterate, flat, in ``trace.states``.
        throw : bool
            Raise `ConvergenceError` instead of warning when the solve stops early.

        Returns
        -------
        Solution
            ``value`` has shape (N, n) and carries gradients.

        Raises
        ------
        TypeError, ValueError
            If U or Â do not fit, or are not finite.
        ConvergenceError
            With ``throw``, if the solve did not converge.
        """
        parts, _ = self._read(adjacency)
        validation.tensor("U", U, "nodes p", like=self.B, nodes=len(adjacency), p=self.B.shape[1])
        with full_precision(U):
            J = nn.functional.linear(U, self.B, self.state_bias)
            W = self.weight(adjacency)
        return self.layer.equilibrium(J, W, *parts, z0=X0, keep_states=keep_states, throw=throw)

    def forward(self, U: Tensor, adjacency: Tensor) -> Tensor:
        """Predictions Ŷ, shape (N, q).

        Parameters
        ----------
        U : Tensor, shape (N, p)
        adjacency : Tensor, shape (N, N), dense or sparse

        Raises
        ------
        TypeError, ValueError
            As `equilibrium`.
        """
        return nn.functional.linear(self.equilibrium(U, adjacency).value, self.C, self.output_bias)

    @torch.no_grad()
    def certificate(self, adjacency: Tensor) -> Certificate:
        """Which sufficient condition for a unique equilibrium holds on a graph, in words.

        The states of all nodes are one vector, with the matrix Â ⊗ W, and
        λ_PF(|Â ⊗ W|) = λ_PF(|Â|) λ_PF(|W|) ≤ λ_PF(|Â|) ‖W‖∞. So this is the certificate of
        λ_PF(|Â|) W, to which its figures belong; L is the slope of φ.

        Parameters
        ----------
        adjacency : Tensor, shape (N, N), dense or sparse
        """
        root, phi = self._read(adjacency)[1], self.layer.f.activation
        found = certificate(self.weight(adjacency).cpu().double() * root, phi)
        if found.condition is Condition.MONOTONE:  # of Â ⊗ W it says nothing
            found = dataclasses.replace(found, condition=Condition.NONE,
                                        margin=min(1 - phi.slope * found.perron.upper, 0.0))
        holds = "on this graph there is exactly one equilibrium, and Picard finds it."
        said = {
            Condition.NORM: f"L·λ_PF(|Â|)·‖W‖∞ < 1 by {found.margin:.3g}: {holds}",
            Condition.PERRON: f"L·λ_PF(|Â|)·λ_PF(|W|) < 1 by {found.margin:.3g}: {holds}",
            Condition.NONE: f"L·λ_PF(|Â|)·λ_PF(|W|) = {phi.slope * found.perron.value:.4g} is not "
                            f"below 1: no condition holds, so there may be no equilibrium on this "
                            f"graph, one, or several."}
        return dataclasses.replace(found, sentence=said[found.condition])

    def extra_repr(self) -> str:
        """The options, in the order of the signature."""
        n, p = self.B.shape
        return (f"{p}, {len(self.C)}, {n}, activation={self.layer.f.activation.name!r}, "
                f"kappa={self.kappa:g}, constraint={self.constraint!r}, "
                f"bias={self.state_bias is not None}, solver={self.layer.solver}, "
                f"adjoint={self.layer.adjoint}")

    def __getstate__(self) -> dict:
        # The last graph is no part of a copy or a file, which could not hold the reference.
        return self.__dict__ | {"_graph": ()}
