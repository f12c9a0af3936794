"""Random teachers that need their layers, students of them, and an oracle in numpy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver, BaseSolver


def random_teacher(depth: int, act: type[nn.Module] = nn.ReLU, *, width: int = 8, p: int = 6,
                   q: int = 2, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """p-width-…-5-q, of ``depth`` hidden layers, as torch draws it."""
    torch.manual_seed(seed)
    sizes = [p, *[width] * (depth - 1), 5]
    parts = [part for a, b in zip(sizes, sizes[1:], strict=False)
             for part in (nn.Linear(a, b, bias=bias), act())]
    return nn.Sequential(*parts, nn.Linear(5, q, bias=bias)).double()


def batches_of(U: Tensor, targets: Tensor | None = None, size: int = 64) -> list:
    """U, or pairs of it and targets, in batches."""
    if targets is None:
        return list(U.split(size))
    return list(zip(U.split(size), targets.split(size), strict=True))


def taught_sim(teacher: nn.Module, U: Tensor, solver: BaseSolver | None = None,
               **options) -> SIM:
    """A SIM trained on U, in float64 on the CPU."""
    solver = solver or ADMMSolver(device="cpu", progress=False)
    sim = SIM(**{"device": "cpu", "progress": False, "dtype": torch.float64} | options)
    return sim.train(solver=solver, model=teacher, dataloader=batches_of(U))


def r_squared(predicted: np.ndarray, wanted: np.ndarray) -> float:
    """1 − Σ(ŷ − y)²/Σ(y − ȳ)²."""
    predicted, wanted = np.asarray(predicted), np.asarray(wanted)
    return 1 - ((predicted - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()
