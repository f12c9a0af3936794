"""What the tests of torchidl's SIM share: states, a teacher, data, a solver of one's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from idl_lab.torchidl import SIM, BaseSolver, CVXSolver


def teacher_states(seed=0, m=60, n=6, p=5, q=2):
    """Correlated, badly scaled inputs; what a random ReLU teacher makes of them, a column each."""
    rng = np.random.default_rng(seed)
    U = rng.standard_normal((p, p)) @ (np.logspace(0, -2, p)[:, None] * rng.standard_normal((p, m)))
    first = rng.standard_normal((n - 2, p)) @ U
    second = rng.standard_normal((2, n - 2)) @ np.maximum(first, 0)
    Z = np.vstack([second, first])
    X = np.maximum(Z, 0)
    return X, U, Z, rng.standard_normal((q, 2)) @ X[:2]


class Plain(BaseSolver):
    """A solver of one's own: what it was given, and the matrices it is told to give."""

    def __init__(self, *matrices):
        super().__init__("not", used="either")
        self.matrices = matrices

    def solve(self, X, U, Z, Y, config):
        self.given = X, U, Z, Y, config
        return self.matrices


def teacher(seed=0, last=nn.ReLU):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.ReLU(),
                         nn.Linear(3, 2, bias=False), last(), nn.Linear(2, 2, bias=False)).double()


def loader(m=20, batch=8, shape=(1, 2, 2)):
    torch.manual_seed(1)
    U = torch.randn(m, *shape, dtype=torch.float64)
    return DataLoader(TensorDataset(U, U[:, 0, 0, 0].gt(0).long()), batch)


def trained(**options):
    return SIM(dtype="float64", **options).train(CVXSolver(num_processes=1), teacher(), loader())
