"""A tensor inside a network as what it is there: an affine function of the input and the states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

INPUT = -1  # as a source; the states of block k are source k, in the order of the calls


@dataclass(eq=False)
class Store:
    """Σ_k terms[k] x_k + bias; several values may share it, as tensors share memory.

    Attributes
    ----------
    terms : dict of int to csr_array, shapes (s, size of source k)
        Of the blocks of states k that it depends on, and of the input under `INPUT`.
    bias : ndarray, shape (s,)
    viewed : bool
        Whether another value shows these components in another order: writing to one would have
        to change the other, which is not modelled.
    """

    terms: dict[int, scipy.sparse.csr_array]
    bias: np.ndarray
    viewed: bool = False

    @classmethod
    def source(cls, k: int, size: int) -> Store:
        """The input, or the states of a block, as they are.

        Parameters
        ----------
        k : int
        size : int
        """
        return cls({k: scipy.sparse.eye_array(size, format="csr")}, np.zeros(size))

    def map(self, M: scipy.sparse.sparray, shift: np.ndarray | float = 0.0) -> Store:
        """M times this, plus a shift, in memory of its own.

        Parameters
        ----------
        M : sparse array, shape (size, size of this)
        shift : ndarray of shape (size,), or float
        """
        terms = {k: (M @ T).tocsr() for k, T in self.terms.items()}
        return Store(terms, M @ self.bias + shift)

    def plus(self, other: Store) -> Store:
        """The sum of two of one size.

        Parameters
        ----------
        other : Store
        """
        terms = dict(self.terms)
        for k, T in other.terms.items():
            terms[k] = terms[k] + T if k in terms else T
        return Store(terms, self.bias + other.bias)


@dataclass(eq=False)
class Value:
    """A tensor of the network: its components as an affine function, and a batch of it.

    Attributes
    ----------
    batch : Tensor, shape (2, *shape)
        What torch itself makes of two inputs there, so that it says which arguments are right
        and which shape comes out.
    store : Store
        The affine function of which the components are the values.
    """

    batch: Tensor
    store: Store

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.batch.shape[1:])

    @property
    def size(self) -> int:
        """How many components a sample has."""
        return math.prod(self.shape)

    def axis(self, dim: int) -> int:
        """Where in `shape` a dimension of torch's is, which counts the batch as 0.

        Parameters
        ----------
        dim : int
            From the end where it is negative.

        Raises
        ------
        ValueError
            If it is the batch, or no dimension.
        """
        rank = len(self.shape) + 1
        if not -rank <= dim < rank or dim % rank == 0:
            raise ValueError(f"dimension {dim} of a (batch, ...) tensor with {rank} dimensions "
                             f"is the batch or none at all")
        return dim % rank - 1

    def expect(self, shape: Sequence[int | None]) -> None:
        """Ask for a shape.

        Parameters
        ----------
        shape : sequence of int or None
            Without the batch; None fits any size.

        Raises
        ------
        ValueError
            If this has another one.
        """
        if len(shape) != len(self.shape) or any(a not in (None, b) for a, b in
                                                zip(shape, self.shape, strict=True)):
            wanted = ", ".join("any" if a is None else str(a) for a in shape)
            raise ValueError(f"it takes (batch, {wanted}), got (batch, "
                             f"{', '.join(map(str, self.shape))}); check input_shape")


def numbers(shape: Sequence[int], first: int = 1) -> Tensor:
    """The number of each component, in a shape with a batch of one.

    Parameters
    ----------
    shape : sequence of int
        Without the batch.
    first : int
    """
    size = math.prod(shape)
    count = torch.arange(first, first + size, dtype=torch.float64, device="cpu")
    return count.reshape(1, *shape)
