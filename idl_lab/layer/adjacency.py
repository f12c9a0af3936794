"""The normalised adjacency matrix Â of a graph, sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.sparse import Layout


def normalised_adjacency(edges: Tensor, nodes: int, *, directed: bool = False,
                         self_loops: bool = True, dtype: torch.dtype | None = None) -> Tensor:
    """The normalised adjacency matrix Â of a graph, sparse; node i listens to node j if Â_ij ≠ 0.

    Undirected: D^(−1/2) (A + I) D^(−1/2), D the row sums of A + I (Kipf and Welling 2017).
    Directed: D⁻¹ (A + I), so that a node takes the mean of itself and of those it listens to. In
    both λ_PF(Â) = 1, but for a directed graph without loops and cycles, which has 0. Several
    graphs are one whose nodes are counted on: Â is then block-diagonal.

    Parameters
    ----------
    edges : Tensor of int64, shape (2, E)
        A column an edge, from a source to a target; one given twice counts once.
    nodes : int
        N; nodes without an edge are allowed.
    directed : bool
        An edge lets its target listen to its source, and not the other way round.
    self_loops : bool
        Add I. Without it the row of a node that listens to no one is zero.
    dtype : torch.dtype, optional
        torch's default one by default.

    Returns
    -------
    Tensor, shape (N, N), CSR

    Raises
    ------
    TypeError, ValueError
        If the edges are no such tensor, or name a node that is not there.

    References
    ----------
    Kipf and Welling 2017, arXiv 1609.02907.
    """
    validation.integer("nodes", nodes)
    dtype = torch.get_default_dtype() if dtype is None else validation.floating(dtype)
    if not isinstance(edges, Tensor) or edges.dtype != torch.int64:
        got = edges.dtype if isinstance(edges, Tensor) else type(edges).__name__
        raise TypeError(f"edges must be a tensor of int64, got {got}.")
    validation.check_shape("edges", edges, "two edges", two=2)
    if edges.numel() and not (0 <= int(edges.min()) and int(edges.max()) < nodes):
        raise ValueError(f"edges must name nodes from 0 to {nodes - 1}, got {int(edges.min())} to "
                         f"{int(edges.max())}.")
    source, target = edges
    row, col = (target, source) if directed else (torch.cat((target, source)),
                                                  torch.cat((source, target)))
    if self_loops:
        every = torch.arange(nodes, device=edges.device)
        row, col = torch.cat((row, every)), torch.cat((col, every))
    entry = torch.unique(row * nodes + col)  # in order, and each once
    row, col = entry // nodes, entry % nodes
    degree = torch.bincount(row, minlength=nodes)
    size = degree.to(dtype)
    values = 1 / size[row] if directed else (size[row] * size[col]).rsqrt()
    crow = torch.cat((degree.new_zeros(1), degree.cumsum(0)))
    return Layout(crow, col, (nodes, nodes)).tensor(values)
