"""A training step written out in plain torch: the floor of every package, and in float64 the judge.

The model is x = relu(Ax + Bu), ŷ = Cx + Du under cross-entropy, with A = s·P of a free matrix P,
s = min(1, κ/‖P‖∞); or A = L Rᵀ whose factors stay as they are. Nothing here tests for convergence
unless it is told to: the loops run as many products as they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

State = dict[str, Tensor]  # A (free), or L and R; and B, C, D
_LONGEST = 20_000


class Scaled(NamedTuple):
    """A = s·P with what the way back needs: the row of largest sum and that sum."""

    A: Tensor
    factor: float
    row: int
    size: float


def scaled(P: Tensor, kappa: float) -> Scaled:
    """P · min(1, κ/‖P‖∞).

    Parameters
    ----------
    P : Tensor, shape (n, n)
    kappa : float
    """
    size, row = P.abs().sum(dim=1).max(dim=0)
    factor = min(1.0, kappa / float(size))
    return Scaled(P * factor, factor, int(row), float(size))


def scaled_back(dA: Tensor, P: Tensor, to: Scaled) -> Tensor:
    """The gradient of P, where that of A = s·P is dA.

    Parameters
    ----------
    dA, P : Tensor, shape (n, n)
    to : Scaled
        What `scaled` gave.
    """
    dP = dA * to.factor
    if to.factor < 1:  # s = κ/‖P‖∞, and the norm is the sum of one row
        slope = torch.dot(dA.flatten(), to.A.flatten()) / to.size
        dP[to.row] -= slope * P[to.row].sign()
    return dP


def forward(A: Tensor, bT: Tensor, products: int | None) -> Tensor:
    """Xᵀ (n, m) of X = relu(X Aᵀ + b), from relu(b).

    Parameters
    ----------
    A : Tensor, shape (n, n)
    bT : Tensor, shape (n, m)
    products : int or None
        How many; without a number until nothing changes.
    """
    return _repeat(lambda XT: torch.addmm(bT, A, XT).relu_(), bT.relu(), products)


def backward(A: Tensor, g: Tensor, slope: Tensor, products: int | None) -> Tensor:
    """V (m, n) of V = slope ∘ (V A + g).

    Parameters
    ----------
    A : Tensor, shape (n, n)
    g, slope : Tensor, shape (m, n)
    products : int or None
        As for `forward`.
    """
    return _repeat(lambda V: torch.addmm(g, V, A).mul_(slope), slope * g, products)


def _repeat(advance: Callable[[Tensor], Tensor], x: Tensor, products: int | None) -> Tensor:
    if products is not None:
        for _ in range(products):
            x = advance(x)
        return x
    eps = torch.finfo(x.dtype).eps
    for _ in range(_LONGEST):
        following = advance(x)
        if float((following - x).abs().max()) <= 8 * eps * float(following.abs().max()):
            return following
        x = following
    raise RuntimeError(f"not at rest after {_LONGEST} products: is ‖A‖∞ below 1?")


@torch.no_grad()
def gradients(state: State, U: Tensor, labels: Tensor, kappa: float,
              products: tuple[int | None, int | None] = (None, None)) -> State:
    """Gradients of the mean cross-entropy by the name of the matrix.

    Parameters
    ----------
    state : State
    U : Tensor, shape (m, p)
    labels : Tensor of int64, shape (m,)
    kappa : float
    products : (int or None, int or None)
        Forward and backward; without numbers each solve runs until nothing changes.

    Returns
    -------
    dict of Tensor
        As ``state``, and "A in use" for s·P: torchidl leaves s out of its gradient.
    """
    low_rank = "L" in state
    to = None if low_rank else scaled(state["A"], kappa)
    A = state["L"] @ state["R"].mT if to is None else to.A
    XT = forward(A, state["B"] @ U.mT, products[0])
    X = XT.mT
    G = _output_gradient(state, X, U, labels)
    V = backward(A, G @ state["C"], X.sign(), products[1])
    found = {"B": V.mT @ U, "C": G.mT @ X, "D": G.mT @ U}
    if to is None:
        return found | {"L": V.mT @ (X @ state["R"]), "R": X.mT @ (V @ state["L"])}
    dA = V.mT @ X
    return found | {"A": scaled_back(dA, state["A"], to), "A in use": dA}


def _output_gradient(state: State, X: Tensor, U: Tensor, labels: Tensor) -> Tensor:
    G = torch.softmax(X @ state["C"].mT + U @ state["D"].mT, dim=1)
    G[torch.arange(len(labels)), labels] -= 1
    return G.div_(len(labels))


class Floor:
    """The least a training step does: products, constraint, gradient of A, optimiser.

    Everything else that a step needs, the injection, the output, the loss and their gradients, is
    computed once and for all. For dense A.

    Parameters
    ----------
    state : State
    batches : sequence of (Tensor, Tensor)
    kappa : float
    products : sequence of (int, int)
        Forward and backward, batch by batch: those that the package in question made.
    """

    def __init__(self, state: State, batches: list[tuple[Tensor, Tensor]], kappa: float,
                 products: list[tuple[int, int]]) -> None:
        self.parameters = {k: nn.Parameter(M.clone()) for k, M in state.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=0.0)
        self.kappa, self.products, self.given = kappa, products, []
        for U, labels in batches:
            X = forward(scaled(state["A"], kappa).A, state["B"] @ U.mT, None).mT
            g = _output_gradient(state, X, U, labels) @ state["C"]
            self.given.append((state["B"] @ U.mT, g, X.sign()))
        for name, grad in gradients(state, *batches[0], kappa).items():
            if name in self.parameters:
                self.parameters[name].grad = grad

    @torch.no_grad()
    def step(self, batch: int) -> None:
        """One step.

        Parameters
        ----------
        batch : int
            Its number.
        """
        bT, g, slope = self.given[batch]
        ahead, back = self.products[batch]
        P = self.parameters["A"]
        to = scaled(P, self.kappa)
        XT = forward(to.A, bT, ahead)
        V = backward(to.A, g, slope, back)
        P.grad = scaled_back(V.mT @ XT.mT, P, to)
        self.optimizer.step()
