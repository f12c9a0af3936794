"""Peak memory of whole processes: `python -m idl_lab.bench.memory KIND SIZE` prints megabytes."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from idl_lab.equilibrium import Adjoint, Implicit, Unrolled, equilibrium
from idl_lab.fixed_point import Picard
from idl_lab.sim.states import statistics

ADJOINTS = {"Implicit": Implicit(), "Unrolled": Unrolled()}
STEPS = (10, 100, 1000)


def peak_memory() -> pd.DataFrame:
    """Megabytes of forward + backward, n = 256, batch 1024: rows steps, columns adjoints."""
    return pd.DataFrame({name: [peak(name, steps) for steps in STEPS] for name in ADJOINTS},
                        index=pd.Index(STEPS, name="fixed-point steps"))


def peak(kind: str, size: int) -> float:
    """Megabytes that a fresh process needs.

    Parameters
    ----------
    kind : str
        "Implicit" or "Unrolled": by how much a forward and backward pass raises the peak;
        "samples": the peak of a process that sums SIM's statistics.
    size : int
        Fixed-point steps, or samples.
    """
    return float(subprocess.run([sys.executable, "-m", "idl_lab.bench.memory", kind, str(size)],
                                check=True, capture_output=True, text=True).stdout)


def _peak() -> float:
    unit = 1024 if platform.system() == "Darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit / 1024


def _gradient(adjoint: Adjoint, steps: int) -> float:
    generator = torch.Generator("cpu").manual_seed(0)
    A = 0.999 * torch.eye(256)
    b = torch.rand(1024, 256, generator=generator)
    warnings.simplefilter("ignore")
    equilibrium(A.requires_grad_(), b[:2], adjoint=adjoint,
                solver=Picard(0.0, 2)).value.sum().backward()
    ballast, before = [], _peak()
    while _peak() < before + 1:  # imports peaked higher than they left off
        ballast.append(torch.ones(2**18))
    before = _peak()
    equilibrium(A, b, adjoint=adjoint, solver=Picard(0.0, steps)).value.sum().backward()
    return _peak() - before


class Draws:
    """Batches of 1,000 seeded inputs (1000, 64), made as they are asked for."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator("cpu").manual_seed(0)
        for _ in range(self.samples // 1000):
            yield torch.rand(1000, 64, generator=generator)


def _samples(count: int) -> float:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16),
              nn.ReLU(), nn.Linear(16, 10)]
    found = statistics(nn.Sequential(*layers), Draws(count), progress=False)
    assert found.samples == count
    return _peak()


if __name__ == "__main__":
    _kind, _size = sys.argv[1], int(sys.argv[2])
    print(_samples(_size) if _kind == "samples" else _gradient(ADJOINTS[_kind], _size))
