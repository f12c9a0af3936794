"""The exercises of lab 15."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from idl_lab.labs.kit.exercise import Example, Exercise, Guess, Level, Partly
from idl_lab.labs.kit.problems import generator, normal, random_matrix

# ---- the normalised adjacency matrix --------------------------------------------------------


def _eye(A: Tensor) -> Tensor:
    return torch.eye(len(A), dtype=A.dtype, device=A.device)


def _graph(draws: torch.Generator, nodes: int = 7) -> tuple[Tensor]:
    """A tree of which each node hangs on one of the three before it, and one edge more."""
    A = torch.zeros(nodes, nodes, dtype=torch.float64, device="cpu")
    for i in range(1, nodes):
        A[i, int(torch.randint(max(0, i - 3), i, (), generator=draws, device="cpu"))] = 1
    A[2, 0] = 1
    return (torch.maximum(A, A.mT),)


def _scaled(A: Tensor, degrees: Tensor) -> Tensor:
    return A / (degrees[:, None] * degrees) ** 0.5


normalised = Exercise(
    inputs=_graph,
    right=lambda A: _scaled(A + _eye(A), A.sum(1) + 1),
    what="the matrix Â",
    level=Level.WARM_UP,
    slips={
        "Each node is its own neighbour too: the loops are missing.":
            lambda A: _scaled(A, A.sum(1)),
        "The degrees are those of the graph with its loops.":
            lambda A: _scaled(A + _eye(A), A.sum(1)),
        "That is D⁻¹(A + I), the mean over the neighbours: its rows sum to 1, and it is not "
        "symmetric. Half of D on either side.": lambda A: (A + _eye(A)) / (A.sum(1) + 1)[:, None],
        "Both sides have the whole of D: take its root.":
            lambda A: _scaled(A + _eye(A), (A.sum(1) + 1) ** 2),
    },
    hints=["Add the loops first, A + I. The degree of a node is its row sum.",
           "D^(−1/2) M D^(−1/2) has the entries M_ij / √(d_i d_j)."],
    praise="Symmetric, with λ_PF = 1 on every graph.")

# ---- how many layers a graph needs ----------------------------------------------------------


def _distances(A: Tensor) -> Tensor:
    """Hops from each node to each."""
    hops = torch.full_like(A, float("inf"))
    reached = _eye(A)
    for k in range(len(A)):
        hops[(reached > 0) & hops.isinf()] = k
        reached = reached @ (A + _eye(A))
    return hops


layers_needed = Exercise(
    inputs=lambda draws: _graph(draws, 8 + int(torch.randint(0, 8, (), generator=draws,
                                                             device="cpu"))),
    right=lambda A: _distances(A).max(),
    what="the smallest number of layers",
    shape="One number is wanted",
    level=Level.DERIVE,
    draws=5,
    slips={
        "That counts the nodes of the longest way; a layer goes along an edge.":
            lambda A: _distances(A).max() + 1,
        "So many layers let one node hear all others. Every node is to.":
            lambda A: _distances(A).max(dim=1).values.min(),
        "That is what the first node needs; another may be further from some.":
            lambda A: _distances(A)[0].max(),
        "So many are always enough, as on a chain. This graph may need fewer.":
            lambda A: len(A) - 1,
        "That is half the sum of all entries, the number of edges.":
            lambda A: A.sum() / 2,
    },
    hints=["After k layers a node hears those that a walk of k steps reaches; with the loops a "
           "walk may stand still.",
           "Entry (i, j) of (A + I)^k is not zero where j is at most k hops from i.",
           "Multiply by A + I until no entry is zero, and count."],
    praise="The diameter of the graph; an implicit network needs not know it.")

# ---- how a label fades ----------------------------------------------------------------------


def _inputs(draws: torch.Generator) -> tuple[Tensor]:
    """A κ between 0.3 and 0.98."""
    return (0.3 + 0.68 * torch.rand((), generator=draws, dtype=torch.float64, device="cpu"),)


def _root(s: Tensor) -> Tensor:
    """The root below 1 of r + 1/r = s."""
    return s / 2 - ((s / 2) ** 2 - 1).sqrt()


decay = Exercise(
    inputs=_inputs,
    right=lambda kappa: _root(3 / kappa - 1),
    what="the factor r",
    level=Level.DERIVE,
    slips={
        "That root is above 1: it grows along the chain. The other one fades.":
            Partly(0.5, lambda kappa: 1 / _root(3 / kappa - 1)),
        "κ bounds what a step may do to the whole state; a hop loses more, since a node passes on "
        "to both sides.":
            lambda kappa: kappa * 1.0,
        "κ/3 is what a node gets of its neighbour in one step. At the equilibrium it also hears "
        "itself and the node behind it.":
            lambda kappa: kappa / 3,
        "You left out the node itself: Â has a loop at every node, and three entries of 1/3 a row.":
            lambda kappa: _root(2 / kappa),
        "Take the loop to the other side: rⁱ(1 − κ/3) = κ(rⁱ⁻¹ + rⁱ⁺¹)/3, so r + 1/r = 3/κ − 1.":
            lambda kappa: _root(3 / kappa),
    },
    hints=[
        "Section 5 has an equation for r. Multiply it by r: a quadratic.",
        "r² − (3/κ − 1) r + 1 = 0. The product of its two roots is 1.",
        "So one is below 1: (s − √(s² − 4))/2 with s = 3/κ − 1."],
    praise="A label fades by this factor a hop, whatever its class.")

# ---- a counter-example ----------------------------------------------------------------------


class Averaged(NamedTuple):
    """A graph, and what is left of states that are averaged over neighbours 1,000 times.

    Attributes
    ----------
    symmetric, plain, connected : bool
        Whether edges have no direction, whether entries are 0 and 1 and none is a loop, and whether
        each node can be reached from each.
    left : float
        The spread of the states, as a share of that at the start.
    nodes : int
    """

    symmetric: bool
    plain: bool
    connected: bool
    left: float
    nodes: int


def _averaged(answer: Any) -> Averaged:
    A = torch.as_tensor(answer).detach().to(device="cpu", dtype=torch.float64)
    if A.ndim != 2 or len(A) != A.shape[1] or not 3 <= len(A) <= 50:
        raise ValueError(f"a square matrix for 3 to 50 nodes is wanted, got shape "
                         f"{tuple(A.shape)}.")
    plain = bool(((A == 0) | (A == 1)).all()) and not A.diagonal().any()
    connected = bool((torch.linalg.matrix_power(A.ne(0).double() + _eye(A), len(A)) > 0).all())
    left = 0.0
    if plain and connected:
        start = x = normal(len(A), 20, generator=generator())
        for _ in range(1000):
            x = A @ x / A.sum(1, keepdim=True)
        left = float((x - x.mean(dim=0)).norm() / (start - start.mean(dim=0)).norm())
    return Averaged(torch.equal(A, A.mT), plain, connected, left, len(A))


def _ring(nodes: int) -> Tensor:
    shifted = torch.eye(nodes, device="cpu").roll(1, 0)
    return torch.maximum(shifted, shifted.mT)


restless = Example(
    look=_averaged,
    conditions=[
        (lambda found: found.plain,
         "Entries are 0 or 1, and no node is its own neighbour: the diagonal is zero."),
        (lambda found: found.symmetric, "Who hears is heard: the matrix is to be symmetric."),
        (lambda found: found.connected, "The graph falls apart: one part never hears the other."),
        (lambda found: found.left > 0.01,
         "After 1,000 rounds the states of these {0.nodes} nodes are alike, to {0.left:.0e} of "
         "their spread at the start. What if the nodes next to each other must always differ?")],
    what="an adjacency matrix",
    praise="{0.left:.0%} of the spread is left: the two sides swap their means for ever. A loop at "
           "every node, as in Â, ends that.",
    right=_ring(6),
    level=Level.EXPERIMENT,
    hints=["Averaging makes all states alike unless something keeps the nodes apart. What if a "
           "node never listens to its like?",
           "Colour the nodes red and blue so that every edge joins a red one and a blue one, and "
           "start with 1 on red and 0 on blue.",
           "Any tree has such colours; so has a ring of an even number of nodes."],
    slips={
        "are alike": _ring(5),
        "falls apart": torch.block_diag(_ring(3), _ring(3)),
        "Entries are 0 or 1": torch.eye(6, device="cpu"),
        "symmetric": torch.eye(6, device="cpu").roll(1, 0),
        "3 to 50 nodes": _ring(6)[:3],
    })

# ---- all nodes at once ----------------------------------------------------------------------


def _linear_network(draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    (A,) = _graph(draws, 5)
    A_hat = _scaled(A + _eye(A), A.sum(1) + 1)
    return A_hat, random_matrix(3, 0.9, generator=draws), normal(5, 3, generator=draws)


def _at_once(A_hat: Tensor, W: Tensor, b: Tensor) -> Tensor:
    K = torch.kron(A_hat.contiguous(), W.contiguous())
    return torch.linalg.solve(_eye(K) - K, b.flatten()).reshape(b.shape)


linear_state = Exercise(
    inputs=_linear_network,
    right=_at_once,
    what="the state X",
    shape="X has a row a node, (5, 3)",
    level=Level.STRETCH,
    slips={
        "X stands before Wᵀ: you took W for its transpose.":
            Partly(1 / 3, lambda A_hat, W, b: _at_once(A_hat, W.mT, b)),
        "The rows of X one after the other have Â ⊗ W; W ⊗ Â belongs to its columns.":
            lambda A_hat, W, b: torch.linalg.solve(
                torch.eye(15, dtype=W.dtype, device=W.device) - torch.kron(W, A_hat),
                b.flatten()).reshape(b.shape),
        "That is one step from X = 0.": lambda A_hat, W, b: b.clone(),
        "A step more is no solution: X is on both sides.": lambda A_hat, W, b: A_hat @ b @ W.mT + b,
        "Without Â no node hears another.": lambda A_hat, W, b: _at_once(_eye(A_hat), W, b),
    },
    hints=["X is on both sides, and on the right between two matrices. Write its rows one after "
           "the other, as one long vector x: `X.flatten()`.",
           "Then ÂXWᵀ becomes (Â ⊗ W) x, `torch.kron`, and x = (Â ⊗ W) x + b is a linear system.",
           "Or repeat X ← ÂXWᵀ + b some hundred times: it contracts, since λ_PF(Â) = 1 and "
           "‖W‖∞ < 1."],
    praise="With the eigenvectors of Â and W it costs no more than those (EIGNN, Liu et al. 2021).")

# ---- a guess --------------------------------------------------------------------------------

reach = Guess(
    what="a number of nodes",
    found="Solved with κ = 0.5, {0} of the 30 nodes have heard; you said {1}.")
