"""What a solver is in torchidl: the states' matrices in, the model's matrices out."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np


class BaseSolver(abc.ABC):
    """A solver by torchidl's contract, for a subclass of one's own: it has `solve`.

    (`idl_lab.sim.solvers.BaseSolver` is another: a generator of iterates, and its solve has a
    certificate and needs the data's Gram matrices alone.)

    Parameters
    ----------
    *args, **kwargs
        Not used; a subclass may hand on what it likes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    @abc.abstractmethod
    def solve(self, X: np.ndarray, U: np.ndarray, Z: np.ndarray, Y: np.ndarray,
              model_config: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        """The matrices A, B, C, D of X = φ(AX + BU), Y = CX + DU; a column is a sample.

        Parameters
        ----------
        X, Z : ndarray, shape (n, m)
            Activations and pre-activations, the last layer's first.
        U : ndarray, shape (p, m)
            Inputs.
        Y : ndarray, shape (q, m)
            The teacher's outputs.
        model_config : dict
            ``activation_fn``, ``device``, ``atol`` and ``kappa`` of the SIM.

        Returns
        -------
        A, B, C, D : ndarray, sparse matrix of scipy or Tensor
            Of shapes (n, n), (n, p), (q, n) and (q, p).
        """
