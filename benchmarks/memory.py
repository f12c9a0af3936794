"""Peak memory of whole processes: `python -m benchmarks.memory KIND STEPS` prints megabytes."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pandas as pd
import torch

from idl_lab.equilibrium import Adjoint, Implicit, Unrolled, equilibrium
from idl_lab.fixed_point import Picard
from idl_lab.labs.sim_at_scale.streams import peak_memory

ADJOINTS = {"Implicit": Implicit(), "Unrolled": Unrolled()}
STEPS = (10, 100, 1000)


def peaks() -> pd.DataFrame:
    """Megabytes of forward + backward, n = 256, batch 1024: rows steps, columns adjoints."""
    return pd.DataFrame({name: [peak(name, steps) for steps in STEPS] for name in ADJOINTS},
                        index=pd.Index(STEPS, name="fixed-point steps"))


def peak(kind: str, steps: int) -> float:
    """Megabytes by which a forward and backward pass raises the peak of a fresh process.

    Parameters
    ----------
    kind : str
        "Implicit" or "Unrolled".
    steps : int
        Fixed-point steps.
    """
    return float(subprocess.run([sys.executable, "-m", "benchmarks.memory", kind, str(steps)],
                                check=True, capture_output=True, text=True).stdout)


def _gradient(adjoint: Adjoint, steps: int) -> float:
    generator = torch.Generator("cpu").manual_seed(0)
    A = 0.999 * torch.eye(256)
    b = torch.rand(1024, 256, generator=generator)
    warnings.simplefilter("ignore")
    equilibrium(A.requires_grad_(), b[:2], adjoint=adjoint,
                solver=Picard(0.0, max_steps=2)).value.sum().backward()
    ballast, before = [], peak_memory()
    while peak_memory() < before + 2**20:  # imports peaked higher than they left off
        ballast.append(torch.ones(2**18))
    before = peak_memory()
    equilibrium(A, b, adjoint=adjoint, solver=Picard(0.0, max_steps=steps)).value.sum().backward()
    return (peak_memory() - before) / 2**20


if __name__ == "__main__":
    print(_gradient(ADJOINTS[sys.argv[1]], int(sys.argv[2])))
