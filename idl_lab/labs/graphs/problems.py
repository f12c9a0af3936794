"""Chains with a label at one end, networks of k graph convolutions, and a label on its way."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from idl_lab import training, validation
from idl_lab.constraints import shrink_rows
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.solution import Solution
from idl_lab.labs.kit.problems import solve_quietly
from idl_lab.layer import GraphStep, normalised_adjacency
from idl_lab.networks import redraw


class Chains(NamedTuple):
    """Chains of one length as one graph, after Gu et al. 2020: the first node knows the label.

    Attributes
    ----------
    U : Tensor, shape (N, classes)
        Features: of a chain's first node its class, with noise; of all others zero.
    labels : Tensor of int64, shape (N,)
        Every node's, which is its chain's.
    adjacency : Tensor, shape (N, N), CSR
        Â, block-diagonal, a block a chain.
    length : int
        Nodes of a chain; those of one follow one another.
    """

    U: Tensor
    labels: Tensor
    adjacency: Tensor
    length: int


def chains(count: int, length: int, classes: int = 3, noise: float = 0.1, *,
           generator: torch.Generator, device: torch.device | str = "cpu") -> Chains:
    """Undirected chains, as many of each class as can be.

    Parameters
    ----------
    count, length, classes : int
        How many chains, the nodes of each, and the classes.
    noise : float
        Standard deviation of what is added to a first node's features, so that no two chains are
        the same.
    generator : torch.Generator
        On the CPU.
    device : torch.device or str
    """
    for name, value in (("count", count), ("length", length), ("classes", classes)):
        validation.integer(name, value)
    validation.real("noise", noise, at_least=0.0)
    labels = torch.arange(count, device="cpu") % classes
    U = torch.zeros(count, length, classes, device="cpu")
    U[:, 0] = nn.functional.one_hot(labels, classes) + noise * torch.randn(
        count, classes, generator=generator, device="cpu")
    nodes = torch.arange(count * length, device="cpu").reshape(count, length)
    edges = torch.stack((nodes[:, :-1].flatten(), nodes[:, 1:].flatten()))
    A_hat = normalised_adjacency(edges, count * length)
    return Chains(U.flatten(0, 1).to(device), labels.repeat_interleave(length).to(device),
                  A_hat.to(device), length)


class GraphConvolutions(nn.Module):
    """k graph convolutions X ← φ(Â X Wᵀ + …) and a linear read-off: it sees k hops far.

    Parameters
    ----------
    input_dim, output_dim, hidden_dim : int
    layers : int
        k.
    kappa : float, optional
        One W for all layers, ‖W‖∞ ≤ κ, and the input in each, φ(Â X Wᵀ + U Bᵀ): an implicit layer
        stopped after k steps from X = φ(U Bᵀ). Without it each layer has its own matrix, and the
        input enters the first.
    activation : str
    generator : torch.Generator, optional
        Draws the parameters.
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int, layers: int, *,
                 kappa: float | None = None, activation: str = "relu",
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layers = validation.integer("layers", layers)
        own = {"bias": False, "device": "cpu"}
        self.read_in = nn.Linear(input_dim, hidden_dim, **own)
        self.weights = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim, **own)
                                     for _ in range(1 if kappa is not None else layers - 1))
        self.read_off = nn.Linear(hidden_dim, output_dim, **own)
        self.kappa, self.step = kappa, GraphStep(activation)
        redraw(self, generator)

    def forward(self, U: Tensor, adjacency: Tensor) -> Tensor:
        """Predictions, shape (N, output_dim).

        Parameters
        ----------
        U : Tensor, shape (N, input_dim)
        adjacency : Tensor, shape (N, N), CSR
        """
        J = self.read_in(U)
        A_hat = adjacency.values(), adjacency.crow_indices(), adjacency.col_indices()
        if self.kappa is not None:  # λ_PF(Â) = 1
            X = self.step.activation(J)
            W = shrink_rows(self.weights[0].weight, self.kappa)
            for _ in range(self.layers):
                X = self.step(X, J, W, *A_hat)
            return self.read_off(X)
        X, none = U, torch.zeros_like(J)
        for layer in (self.read_in, *self.weights):
            X = self.step(X, none, layer.weight, *A_hat)
        return self.read_off(X)


def widest(input_dim: int, output_dim: int, layers: int, parameters: int) -> int:
    """The largest hidden_dim of `GraphConvolutions` (not tied) with no more parameters.

    Parameters
    ----------
    input_dim, output_dim, layers, parameters : int
        The last is the number allowed.

    Raises
    ------
    ValueError
        If they do not suffice for one.
    """
    n = 0
    while (n + 1) * (input_dim + output_dim + (layers - 1) * (n + 1)) <= parameters:
        n += 1
    if n == 0:
        raise ValueError(f"parameters must allow one hidden state, got {parameters}.")
    return n


class OnGraph(nn.Module):
    """A model of (U, adjacency) on one graph, as a model of U, which a training loop takes.

    Parameters
    ----------
    model : nn.Module
    adjacency : Tensor, shape (N, N)
    """

    def __init__(self, model: nn.Module, adjacency: Tensor) -> None:
        super().__init__()
        self.model, self.adjacency = model, adjacency

    def forward(self, U: Tensor) -> Tensor:
        """The model's predictions of U on the graph.

        Parameters
        ----------
        U : Tensor, shape (N, p)
        """
        return self.model(U, self.adjacency)


def train(model: nn.Module, data: Chains, epochs: int = 80, lr: float = 0.03, **options) -> float:
    """Train to classify every node of every chain, the whole graph a batch: the last loss.

    Parameters
    ----------
    model : nn.Module
        Of (U, adjacency).
    data : Chains
    epochs : int
    lr : float
    **options
        As for `training.fit`.
    """
    history = training.fit(OnGraph(model, data.adjacency), [(data.U, data.labels)], epochs=epochs,
                           lr=lr, progress=False, **options)
    return float(history["train_loss"].iloc[-1])


@torch.no_grad()
def along(model: nn.Module, data: Chains) -> Tensor:
    """Share of chains whose node i is classified correctly, (length,).

    Of equal scores, as they are where no label arrives, none is the largest: such a node counts
    as wrong if its class is not the first of them.

    Parameters
    ----------
    model : nn.Module
    data : Chains
    """
    right = model(data.U, data.adjacency).argmax(dim=1) == data.labels
    return right.reshape(-1, data.length).float().mean(dim=0)


def decay(kappa: float) -> float:
    """The factor r by which a label fades a hop within a long undirected chain.

    There x_i = κ (x_{i−1} + x_i + x_{i+1}) / 3, solved by x_i = rⁱ with r + 1/r = 3/κ − 1, r < 1.

    Parameters
    ----------
    kappa : float
        In (0, 1).
    """
    validation.real("kappa", kappa, above=0.0, below=1.0)
    half = (3 / kappa - 1) / 2
    return half - (half * half - 1) ** 0.5


def _one_chain(kappa: float, length: int) -> tuple[Tensor, Tensor]:
    """κ Â of one chain, and b = 1 at its first node; float64."""
    nodes = torch.arange(length, device="cpu")
    A_hat = normalised_adjacency(torch.stack((nodes[:-1], nodes[1:])), length, dtype=torch.float64)
    return kappa * A_hat.to_dense(), torch.eye(1, length, dtype=torch.float64, device="cpu")


def transport(kappa: float, length: int, rtol: float) -> Solution:
    """The simplest graph network, x = κ Â x + b with b = 1 at the first node of a chain, solved.

    Parameters
    ----------
    kappa : float
    length : int
    rtol : float
        Of Picard's iteration, from zero.

    Returns
    -------
    Solution
        With its states, float64.
    """
    return solve_quietly(*_one_chain(kappa, length), "identity",
                         Picard(rtol=rtol, max_steps=20_000))


def arrived(kappa: float, length: int) -> Tensor:
    """The equilibrium of `transport` by elimination, (length,).

    Parameters
    ----------
    kappa : float
    length : int
    """
    A, b = _one_chain(kappa, length)
    return torch.linalg.solve(torch.eye(length, dtype=A.dtype, device=A.device) - A, b[0])
