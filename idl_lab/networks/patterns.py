"""Sparse matrices of a network read off: as tensors, and as parameters."""

from __future__ import annotations

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from idl_lab.sparse import Layout, Sparse


def from_scipy(M: scipy.sparse.csr_array, dtype: torch.dtype, device: torch.device | str = "cpu"
               ) -> Tensor:
    """A scipy matrix as a CSR tensor.

    Parameters
    ----------
    M : csr_array, shape (n, p)
    dtype, device
        Of the tensor.
    """
    M.sort_indices()
    crow, col = (torch.as_tensor(i.astype(np.int64), device=device) for i in (M.indptr, M.indices))
    return Layout(crow, col, M.shape).tensor(torch.as_tensor(M.data, dtype=dtype, device=device))


class Pattern(nn.Module):
    """A sparse matrix, its pattern fixed and its values free.

    Parameters
    ----------
    M : Tensor, shape (n, p), sparse (CSR)
    """

    def __init__(self, M: Tensor) -> None:
        super().__init__()
        self.register_buffer("crow", M.crow_indices())
        self.register_buffer("col", M.col_indices())
        self.shape = tuple(M.shape)
        self._layout: tuple[tuple, Layout] | None = None

    def forward(self, values: Tensor) -> Sparse:
        """The matrix.

        Parameters
        ----------
        values : Tensor, shape (entries,)
        """
        # One layout for all calls, which knows the transpose, until another is loaded or it moves.
        key = (self.crow, self.crow._version, self.col, self.col._version)
        if self._layout is None or any(a is not b for a, b in zip(key, self._layout[0],
                                                                  strict=True)):
            self._layout = key, Layout(self.crow, self.col, self.shape)
        return Sparse(values, self._layout[1])

    def free(self, M: Tensor) -> tuple[Tensor]:
        """The values of M, which must have this pattern.

        Parameters
        ----------
        M : Tensor, shape (n, p), dense or sparse

        Raises
        ------
        ValueError
            If it has another pattern.
        """
        M = M if M.layout == torch.sparse_csr else M.to_sparse_csr()
        if not (tuple(M.shape) == self.shape and torch.equal(M.crow_indices(), self.crow)
                and torch.equal(M.col_indices(), self.col)):
            raise ValueError(f"a sparse parameter keeps its pattern of {len(self.col)} entries in "
                             f"shape {self.shape}, got {M._nnz()} entries in {tuple(M.shape)}.")
        return (M.values(),)

    def extra_repr(self) -> str:
        """Shape and number of entries."""
        return f"{self.shape[0]}, {self.shape[1]}, entries={len(self.col)}"
