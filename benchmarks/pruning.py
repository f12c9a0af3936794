"""SIM beside layer-wise reconstruction: as many weights, the same teachers and Gram matrices.

The sparsity is the share of the teacher's own weights that are gone. A student of SIM has as many
non-zeros in A, B, C and D, wherever they are; biases are not counted, and not pruned. Everything
is measured in units in which the teacher's A is in the ball.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import features
from benchmarks.features import KAPPA
from benchmarks.reconstruction import METHODS, refit
from idl_lab.constraints import project_rows
from idl_lab.fixed_point import Picard
from idl_lab.model import ImplicitModel
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.well_posedness import inf_norm, units

SPARSITIES = (0.6, 0.7, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2, 3, 4)
CLOSE = 0.99  # of the number of weights that are allowed: no λ is looked for nearer than that


@dataclass
class Task:
    """A teacher of linear layers and ReLUs, inputs to learn from, and fresh ones to judge by.

    A student is W = [A B] above [C D], (n + q, n + p), and its biases (n + q,).

    Attributes
    ----------
    network : nn.Sequential
        In float64, with biases.
    train, test : Tensor, shapes (m, p)
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
    def blocks(self) -> list[slice]:
        """The rows of W that are each layer's, in the teacher's order."""
        sizes = [layer.out_features for layer in self.layers]
        ends = np.cumsum(sizes[-2::-1])[::-1].tolist()  # the last hidden layer comes first
        return [*(slice(end - size, end) for size, end in zip(sizes, ends, strict=False)),
                slice(sum(sizes[:-1]), sum(sizes))]

    def earlier(self, rows: slice) -> int:
        """The first column of W that a layer may read, if it reads earlier layers and inputs.

        Parameters
        ----------
        rows : slice
            Of `blocks`.
        """
        return 0 if rows == self.blocks[-1] else rows.stop

    @cached_property
    def states(self) -> tuple[Tensor, Tensor]:
        """Φ = [X U] and the targets [Z Y]."""
        X, Z, Y = features.states(self.network, self.train)
        return torch.cat([X, self.train], 1) / self.units, torch.cat([Z, Y], 1) / self.row_units

    @cached_property
    def units(self) -> Tensor:
        """Of each column of Φ, ones of the inputs."""
        v = units(ImplicitModel.from_network(self.network).A.detach(), KAPPA)
        return torch.cat([v, torch.ones(self.train.shape[1], dtype=v.dtype)])

    @property
    def row_units(self) -> Tensor:
        """Of each target, ones of the outputs."""
        q = self.layers[-1].out_features
        return torch.cat([self.units[:self.n], torch.ones(q, dtype=self.units.dtype)])

    @cached_property
    def n(self) -> int:
        """The number of states."""
        return self.blocks[0].stop

    def pruned(self, method: str, sparsity: float) -> tuple[Tensor, Tensor]:
        """The network with each layer reconstructed from the teacher's states.

        Parameters
        ----------
        method : str
            Of `METHODS`.
        sparsity : float
            Of each layer.
        """
        Phi, V = self.states[0] * self.units, torch.zeros(len(self.row_units), len(self.units))
        V, bias, read = V.double(), torch.zeros(len(V)).double(), slice(self.n, Phi.shape[1])
        for layer, rows in zip(self.layers, self.blocks, strict=True):
            inputs = torch.cat([Phi[:, read], torch.ones_like(Phi[:, :1])], dim=1).numpy()
            W = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().numpy()
            found = torch.from_numpy(METHODS[method](
                inputs.T @ inputs, W, round((1 - sparsity) * layer.weight.numel()),
                np.arange(W.shape[1]) < W.shape[1] - 1))
            V[rows, read], bias[rows], read = found[:, :-1], found[:, -1], rows
        return V * self.units / self.row_units[:, None], bias / self.row_units

    def through(self, W: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
        """Least squares on the support, layer by layer, each on the states that those before give.

        Parameters
        ----------
        W : Tensor, shape (n + q, n + p)
            In the teacher's order.
        bounded : bool
            Keep ‖A‖∞ ≤ κ.
        """
        Phi, T = self.states
        Phi, V, bias = Phi.clone(), torch.zeros_like(W), torch.zeros_like(W[:, 0])
        for rows in self.blocks:
            V[rows], bias[rows] = refitted(Phi, T[:, rows], W[rows], self.n if bounded and
                                           rows.stop <= self.n else 0)
            if rows.stop <= self.n:
                Phi[:, rows] = torch.relu(Phi @ V[rows].mT + bias[rows])
        return V, bias

    def judge(self, W: Tensor, bias: Tensor) -> dict[str, float]:
        """Weights, ‖A‖∞, accuracy, and fidelity: R² against the teacher's outputs.

        Parameters
        ----------
        W : Tensor, shape (n + q, n + p)
        bias : Tensor, shape (n + q,)
        """
        n = self.n
        model = ImplicitModel.from_matrices(
            W[:n, :n], W[:n, n:], W[n:, :n], W[n:, n:], activation="relu", state_bias=bias[:n],
            output_bias=bias[n:], solver=Picard(rtol=1e-6, max_steps=1000))
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without κ there may be no equilibrium
            Y, found = self.network(self.test), model(self.test)
        off = (found - Y).square().sum() / (Y - Y.mean(dim=0)).square().sum()
        return {"weights": int(W.count_nonzero()), "norm": float(inf_norm(W[:n, :n])),
                "accuracy": float((found.argmax(dim=1) == self.labels).double().mean()),
                "fidelity": float(1 - off.nan_to_num(nan=torch.inf))}


def refitted(Phi: Tensor, T: Tensor, W: Tensor, ball: int, steps: int = 300
             ) -> tuple[Tensor, Tensor]:
    """Least squares on a support, with biases; rows that leave the ball go down inside it instead.

    Parameters
    ----------
    Phi, T : Tensor, shapes (m, d) and (m, k)
    W : Tensor, shape (k, d)
        Its zeros are kept, and the rows that leave the ball start from it.
    ball : int
        Columns in the ball; 0 for none.
    steps : int
        Of accelerated projected gradient.
    """
    means = Phi.mean(dim=0), T.mean(dim=0)
    Phi, T = Phi - means[0], T - means[1]
    gram, cross, kept = Phi.mT @ Phi, T.mT @ Phi, W != 0
    best = torch.from_numpy(refit(gram.numpy(), cross.numpy(), kept.numpy()))
    out = best[:, :ball].abs().sum(dim=1) > KAPPA
    if out.any():
        rate = 1 / float(torch.linalg.eigvalsh(gram)[-1])
        V = ahead = torch.cat([project_rows(W[out, :ball], KAPPA), W[out, ball:]], dim=1)
        for step in range(steps):
            moved = (ahead - rate * (ahead @ gram - cross[out])) * kept[out]
            moved = torch.cat([project_rows(moved[:, :ball], KAPPA), moved[:, ball:]], dim=1)
            ahead, V = moved + step / (step + 3) * (moved - V), moved
        best[out] = V
    return best, means[1] - best @ means[0]


class Students:
    """SIM's students of a task: state and output matching at λ_z = λ_y = λ.

    Parameters
    ----------
    task : Task
    bounded : bool
        With ‖A‖∞ ≤ κ, or without.
    ordered : bool
        Rows read the layers before theirs and the inputs alone, so that A has no feedback.
    """

    def __init__(self, task: Task, bounded: bool, ordered: bool) -> None:
        self.task, self.bounded, self.ordered = task, bounded, ordered
        # Without their means, as a bias that no λ weighs takes them.
        Phi, T = (M - M.mean(dim=0) for M in task.states)
        self.gram, self.cross, self.norms = Phi.mT @ Phi, T.mT @ Phi, T.square().sum(dim=0)
        self.known = {float(self.cross.abs().amax()): torch.zeros_like(self.cross)}

    def solve(self, lam: float) -> Tensor:
        """W at one λ.

        Parameters
        ----------
        lam : float
        """
        if lam not in self.known:
            n, W = self.task.n, torch.zeros_like(self.cross)
            parts = [(rows, self.task.earlier(rows)) for rows in self.task.blocks]
            for rows, first in parts if self.ordered else ((slice(n), 0), (slice(n, len(W)), 0)):
                ball = {"kappa": KAPPA, "ball": n - first} if (
                    self.bounded and first < n >= rows.stop) else {}
                W[rows, first:] = ADMMSolver(tol=1e-4, device="cpu", progress=False).solve(Problem(
                    self.gram[first:, first:], self.cross[rows, first:], self.norms[rows],
                    lam=lam, **ball)).W
            self.known[lam] = W
        return self.known[lam]

    def of(self, most: int, tries: int = 10) -> Tensor:
        """The W with at most so many non-zeros, and not many fewer where a λ gives that.

        Parameters
        ----------
        most : int
        tries : int
            Solves at most.
        """
        def count(lam: float) -> int:
            return int(self.solve(lam).count_nonzero())

        for _ in range(tries):
            above = min(lam for lam in self.known if count(lam) <= most)
            below = max((lam for lam in self.known if lam < above), default=None)
            if count(above) >= CLOSE * most:
                break
            if below is None:
                self.solve(above / 30)
                continue
            # Between the two by how the counts grow with log λ, and not too near to either.
            few, many = count(above), count(below)
            share = min(max((many - most) / max(many - few, 1), 0.1), 0.9)
            self.solve(math.exp(math.log(below) + share * math.log(above / below)))
        return self.solve(min(lam for lam in self.known if count(lam) <= most))

    def rows(self, most: int) -> dict[str, tuple[Tensor, Tensor]]:
        """W and biases of the students with so many weights, by what was done to them.

        Parameters
        ----------
        most : int
        """
        task, W = self.task, self.of(most)
        Phi, T = task.states
        n, name = task.n, "SIM, ordered" if self.ordered else "SIM"
        name += "" if self.bounded else ", no κ"
        parts = [refitted(Phi, T[:, rows], W[rows], n * (self.bounded and rows.stop <= n))
                 for rows in (slice(n), slice(n, len(W)))]
        found = {name: (W, T.mean(dim=0) - W @ Phi.mean(dim=0)),
                 f"{name}, refitted": (torch.cat([V for V, _ in parts]),
                                       torch.cat([bias for _, bias in parts]))}
        if self.ordered:
            found[f"{name}, refitted through"] = task.through(W, self.bounded)
        return found


def digits(seed: int) -> Task:
    """The digits, 64-64-32-16-10 with biases, 1,400 to learn from and 397 to judge by.

    Parameters
    ----------
    seed : int
    """
    U, labels = features.images(8)
    network = copy.deepcopy(features.teacher((64, 64, 32, 16, 10), True, seed)).double()
    return Task(network, U[:1400].double(), U[1400:].double(), labels[1400:])


def random(seed: int) -> Task:
    """A random ReLU network 10-40-30-4 on N(0, I); labels are its own, so that each layer matters.

    Parameters
    ----------
    seed : int
    """
    draws = torch.Generator("cpu").manual_seed(seed)
    network = features.random_teacher((10, 40, 30, 4), draws).double()
    train, test = (torch.randn(2000, 10, generator=draws, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        return Task(network, train, test, network(test).argmax(dim=1))


TASKS = {"digits": digits, "random teacher": random}


def compare(task: Task, sparsities: Sequence[float] = SPARSITIES) -> list[dict]:
    """A row a method and sparsity, as `Task.judge` gives them.

    Parameters
    ----------
    task : Task
    sparsities : sequence of float
    """
    size = sum(layer.weight.numel() for layer in task.layers)
    groups = [Students(task, bounded, ordered) for ordered in (False, True)
              for bounded in (True, False)]
    rows = []
    for sparsity in sparsities:
        found = {"teacher": task.pruned("magnitude", 0.0)}
        for method in METHODS:
            found[method] = W, _ = task.pruned(method, sparsity)
            found[f"{method}, refitted through"] = task.through(W, bounded=False)
        for students in groups:
            found |= students.rows(round((1 - sparsity) * size))
        rows += [{"method": name, "sparsity": sparsity, **task.judge(*student)}
                 for name, student in found.items()]
    return rows
