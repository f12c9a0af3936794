"""The equilibrium with a column a sample, also for solvers of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Picard


def wide(M: Any, device: str | torch.device = "cpu") -> Tensor:
    """A matrix of numpy, scipy (sparse) or torch as a dense tensor in float64.

    Parameters
    ----------
    M : array-like
    device : str or torch.device
        Where to; the CPU in place of mps, which has no float64.
    """
    device = validation.resolve_device(device)
    M = torch.as_tensor(M.toarray() if scipy.sparse.issparse(M) else M)
    return M.detach().to("cpu" if device.type == "mps" else device, torch.float64)


@torch.no_grad()
def fixpoint_iteration(A: Any, B: Any, U: np.ndarray | Tensor, activation_fn: Callable,
                       device: str | torch.device, max_iter: int = 50_000, atol: float = 1e-6,
                       patience: int = 1000) -> Tensor:
    """X = φ(AX + BU) with a column a sample, (n, m), solved in float64 on ``device``.

    Parameters
    ----------
    A, B : ndarray, sparse matrix of scipy or Tensor, shapes (n, n) and (n, p)
    U : ndarray or Tensor, shape (p, m)
    activation_fn : callable
        φ.
    device : str or torch.device
    max_iter : int
        Steps at most.
    atol : float
        ‖X − φ(AX + BU)‖∞ in every sample.
    patience : int
        Not used: a solve that comes no nearer is known by its residuals.

    Warns
    -----
    ConvergenceWarning
        When the solve stops early.
    """
    A, B, U = (wide(M, device) for M in (A, B, U))
    return equilibrium(A, U.mT @ B.mT, activation_fn,
                       solver=Picard(0.0, atol=atol, max_steps=max_iter)).value.mT
