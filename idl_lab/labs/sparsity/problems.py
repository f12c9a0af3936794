"""Teachers to make sparse, and what is left of them: pruned networks, and students of SIM.

Every one of them is a matrix W = [A B] above [C D], (n + q, n + p), and biases, in the teacher's
own units: a pruned network's blocks, or a student's rows. Its size is its number of non-zeros;
biases are not counted, and not pruned.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.compose import prune_states
from idl_lab.data import SHAPES, load
from idl_lab.fixed_point import Picard
from idl_lab.labs.kit.problems import digits_teacher, random_teacher, whole
from idl_lab.labs.sparsity.pruning import METHODS, largest, refit
from idl_lab.model import ImplicitModel
from idl_lab.networks import redraw
from idl_lab.sim.score import fidelity
from idl_lab.sim.states import with_float64
from idl_lab.training import fit

GLOBAL = "magnitude, all layers at once"
PRUNINGS = (GLOBAL, *METHODS)
REFITS = ("", "refitted", "refitted through")


class Sparse(NamedTuple):
    """Something sparse, and what it is worth.

    Attributes
    ----------
    model : ImplicitModel
    weights : int
        Non-zeros of A, B, C and D.
    states : int
        That are left once those that do nothing are dropped.
    accuracy, fidelity : float
        On inputs that nothing was fitted to; fidelity is R² against the teacher's outputs.
    """

    model: ImplicitModel
    weights: int
    states: int
    accuracy: float
    fidelity: float


@dataclass
class Task:
    """A teacher of linear layers and ReLUs, inputs to learn from, and fresh ones to judge by.

    Attributes
    ----------
    network : nn.Sequential
    train, test : Tensor, shapes (m, p)
        On the network's device.
    labels : Tensor, shape (m,)
        Of the fresh inputs.
    """

    network: nn.Sequential
    train: Tensor
    test: Tensor
    labels: Tensor

    @cached_property
    def layers(self) -> list[nn.Linear]:
        """The teacher's linear layers."""
        return [layer for layer in self.network if isinstance(layer, nn.Linear)]

    @cached_property
    def size(self) -> int:
        """The number of the teacher's weights."""
        return sum(layer.weight.numel() for layer in self.layers)

    @cached_property
    def blocks(self) -> list[slice]:
        """The rows of W that are each layer's, in the teacher's order."""
        sizes = [layer.out_features for layer in self.layers]
        ends = np.cumsum(sizes[-2::-1])[::-1].tolist()  # the last hidden layer comes first
        return [*(slice(end - size, end) for size, end in zip(sizes, ends, strict=False)),
                slice(sum(sizes[:-1]), sum(sizes))]

    @cached_property
    def n(self) -> int:
        """The number of states."""
        return self.blocks[0].stop

    @cached_property
    def states(self) -> tuple[Tensor, Tensor]:
        """Φ = [X U] and the targets [Z Y] on the training inputs, float64."""
        Z, X = [], self.train
        at = with_float64(X.device)
        with torch.no_grad():
            for layer in self.layers:
                Z.append(layer(X))
                X = torch.relu(Z[-1])
        U, *Z, Y = (T.to(at).double() for T in (self.train, *Z))
        return torch.cat([*(z.relu() for z in Z[::-1]), U], 1), torch.cat([*Z[::-1], Y], 1)

    def first(self, samples: int) -> Task:
        """The same with the first so many of the inputs to learn from.

        Parameters
        ----------
        samples : int

        Raises
        ------
        ValueError
            For more than there are.
        """
        if validation.integer("samples", samples) > len(self.train):
            raise ValueError(f"samples must be at most {len(self.train)}, got {samples}.")
        return replace(self, train=self.train[:samples])

    def in_other_units(self, seed: int = 0) -> Task:
        """The same function: each state in a unit of its own, from 1/8 to 8.

        Parameters
        ----------
        seed : int
        """
        network = copy.deepcopy(self.network)
        layers = [layer for layer in network if isinstance(layer, nn.Linear)]
        draws = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            for layer, following in zip(layers, layers[1:], strict=False):
                unit = 8 ** (2 * torch.rand(len(layer.weight), generator=draws, device="cpu") - 1)
                unit = unit.to(layer.weight)
                layer.weight /= unit[:, None]
                layer.bias /= unit
                following.weight *= unit
        return replace(self, network=network)

    def pruned(self, method: str, sparsity: float) -> tuple[Tensor, Tensor]:
        """The network with each layer pruned, and by OBC and ALPS reconstructed: W and biases.

        Parameters
        ----------
        method : str
            Of `PRUNINGS`.
        sparsity : float
            Of each layer; of all together for `GLOBAL`, which compares the layers' weights.
        """
        Phi = self.states[0]
        V = Phi.new_zeros(self.blocks[-1].stop, Phi.shape[1])
        bias, read = V.new_zeros(len(V)), slice(self.n, Phi.shape[1])
        sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in self.layers]).cpu()
        kept = largest(sizes[None].numpy(), round((1 - sparsity) * self.size),
                       np.ones(self.size, dtype=bool))[0]
        masks = torch.from_numpy(kept).to(V.device).split(
            [layer.weight.numel() for layer in self.layers])
        for layer, rows, mask in zip(self.layers, self.blocks, masks, strict=True):
            W, b = layer.weight.detach().to(V), layer.bias.detach().to(V)
            if method == GLOBAL:
                V[rows, read], bias[rows] = W * mask.view_as(W), b
            else:
                inputs = torch.cat([Phi[:, read], torch.ones_like(Phi[:, :1])], dim=1)
                found = torch.from_numpy(METHODS[method](
                    _array(inputs.mT @ inputs), _array(torch.cat([W, b[:, None]], 1)),
                    round((1 - sparsity) * W.numel()), np.arange(inputs.shape[1]) < W.shape[1])
                ).to(V)
                V[rows, read], bias[rows] = found[:, :-1], found[:, -1]
            read = rows
        return V, bias

    def refitted(self, W: Tensor, through: bool = False) -> tuple[Tensor, Tensor]:
        """Least squares on the non-zeros, layer by layer, with biases.

        Parameters
        ----------
        W : Tensor, shape (n + q, n + p)
            In the teacher's order: a layer reads earlier ones and the inputs.
        through : bool
            On the states that the layers before give once they are refitted, not on the teacher's.
        """
        Phi, T = self.states
        Phi, V, bias = Phi.clone(), Phi.new_zeros(W.shape), Phi.new_zeros(len(W))
        for rows in self.blocks:
            means = Phi.mean(dim=0), T[:, rows].mean(dim=0)
            off, target = Phi - means[0], T[:, rows] - means[1]
            V[rows] = torch.from_numpy(refit(*map(
                _array, (off.mT @ off, target.mT @ off, W[rows] != 0)))).to(V)
            bias[rows] = means[1] - V[rows] @ means[0]
            if through and rows.stop <= self.n:
                Phi[:, rows] = torch.relu(Phi @ V[rows].mT + bias[rows])
        return V, bias

    def prune(self, method: str, sparsity: float, then: str = "") -> Sparse:
        """A pruned network, refitted or not, and what it is worth.

        Parameters
        ----------
        method : str
            Of `PRUNINGS`.
        sparsity : float
            In [0, 1].
        then : {"", "refitted", "refitted through"}
        """
        validation.choice("method", method, PRUNINGS)
        validation.real("sparsity", sparsity, at_least=0.0, at_most=1.0)
        validation.choice("then", then, REFITS)
        W, bias = self.pruned(method, sparsity)
        return self.judge(self.model(*(self.refitted(W, then == REFITS[2]) if then
                                       else (W, bias))))

    def model(self, W: Tensor, bias: Tensor) -> ImplicitModel:
        """The implicit model of W and biases.

        Parameters
        ----------
        W : Tensor, shape (n + q, n + p)
        bias : Tensor, shape (n + q,)
        """
        n = self.n
        return ImplicitModel.from_matrices(
            W[:n, :n], W[:n, n:], W[n:, :n], W[n:, n:], activation="relu", state_bias=bias[:n],
            output_bias=bias[n:], solver=Picard(max_steps=1000))

    @torch.no_grad()
    def judge(self, model: ImplicitModel) -> Sparse:
        """What a model is worth, on its own device.

        Parameters
        ----------
        model : ImplicitModel
        """
        U = self.test.to(model.C)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where there is no equilibrium the figures say so
            right = model(U).argmax(dim=1).cpu() == self.labels.cpu()
            share = fidelity(model, [(self.test, self.network(self.test))]).value
        return Sparse(model, int(whole(model).count_nonzero()), len(prune_states(model).B),
                      float(right.double().mean()), share)


def _array(T: Tensor) -> np.ndarray:
    """For the methods of `pruning`, which work on Gram matrices, row by row, on the CPU."""
    return T.cpu().numpy()


def table(walks: Mapping[str, Mapping[float, Sparse]]) -> pd.DataFrame:
    """A row a method and sparsity: method, sparsity, and the figures of `Sparse`.

    Parameters
    ----------
    walks : mapping of str to mapping of float to Sparse
        By method and sparsity.
    """
    return pd.DataFrame([{"method": method, "sparsity": sparsity} | {
        figure: getattr(found, figure) for figure in Sparse._fields[1:]}
        for method, walk in walks.items() for sparsity, found in walk.items()])


def read_by(task: Task, model: ImplicitModel) -> Tensor:
    """Of each entry of [A B; C D] what it reads, (n + q, n + p), int8 on the CPU.

    Parameters
    ----------
    task : Task
    model : ImplicitModel
        With the states of the task's teacher.

    Returns
    -------
    Tensor
        0 where the entry is zero; 1 for the layer before, as in the teacher; 2 for an earlier one,
        or the input; 3 for the row's own layer or a later one.
    """
    W = whole(model).cpu()
    kinds, before = torch.full(W.shape, 3, dtype=torch.int8, device="cpu"), slice(task.n, len(W[0]))
    for rows in task.blocks:
        kinds[rows, 0 if rows.stop > task.n else rows.stop:] = 2
        kinds[rows, before], before = 1, rows
    return torch.where(W != 0, kinds, 0)


def digits(seed: int = 0, hidden: Sequence[int] = (32, 16), noise: float = 0.0,
           device: torch.device | str = "cpu") -> Task:
    """The digits, 64-32-16-10 with biases: 1,400 to learn from, 397 to judge by.

    Parameters
    ----------
    seed : int
    hidden : sequence of int
        Sizes of the hidden layers.
    noise : float
        Standard deviation of what is added to every pixel, of the fresh images too; the teacher is
        trained without.
    device : torch.device or str
    """
    network, train, test = digits_teacher(seed, hidden=hidden, biases=True, device=device)
    draws = torch.Generator("cpu").manual_seed(seed)
    (U, _), (fresh, labels) = (loader.dataset.tensors for loader in (train, test))
    U, fresh = (T + noise * torch.randn(T.shape, generator=draws, device="cpu")
                for T in (U, fresh))
    return Task(network, *(T.to(device) for T in (U, fresh, labels)))


def random(seed: int = 0, correlation: float = 0.0, sizes: Sequence[int] = (10, 40, 30, 4),
           device: torch.device | str = "cpu") -> Task:
    """A random ReLU network, without biases, that needs its layers: labels are its own.

    Parameters
    ----------
    seed : int
    correlation : float
        ρ in [0, 1): inputs i and j are normal with covariance ρ^|i − j|.
    sizes : sequence of int
        Of the input, the hidden layers and the output.
    device : torch.device or str
    """
    validation.real("correlation", correlation, at_least=0.0, below=1.0)
    network, train, _ = random_teacher(seed, sizes=sizes, device=device)
    for layer in network:
        if isinstance(layer, nn.Linear):
            layer.bias = nn.Parameter(torch.zeros(layer.out_features, device=device))
    U = train.dataset.dataset.tensors[0]
    at = torch.arange(U.shape[1], dtype=torch.float64, device="cpu")
    covariance = torch.tensor(correlation).double() ** (at - at[:, None]).abs()
    U = U.to(device) @ torch.linalg.cholesky(covariance).mT.float().to(device)
    half = len(U) // 2
    with torch.no_grad():
        return Task(network, U[:half], U[half:], network(U[half:]).argmax(dim=1))


def images(name: str = "fashion_mnist", seed: int = 0, hidden: Sequence[int] = (64, 32, 16),
           epochs: int = 5, device: torch.device | str = "cpu") -> Task:
    """A data set of `idl_lab.data`, and a network trained on it by Adam at 2e-3.

    Parameters
    ----------
    name : str
        Of `idl_lab.data.DATASETS`.
    seed : int
    hidden : sequence of int
        Sizes of the hidden layers.
    epochs : int
    device : torch.device or str
    """
    train, test = load(name, seed=seed)
    sizes = [int(np.prod(SHAPES[name])), *hidden]
    parts = [part for p, q in zip(sizes, hidden, strict=False)
             for part in (nn.Linear(p, q, device="cpu"), nn.ReLU())]
    network = nn.Sequential(*parts, nn.Linear(sizes[-1], 10, device="cpu"))
    redraw(network, torch.Generator("cpu").manual_seed(seed))
    fit(network.to(device), train, epochs=epochs, lr=2e-3, progress=False)
    return Task(network.eval(), *(T.to(device) for T in (
        train.dataset.tensors[0], *test.dataset.tensors)))
