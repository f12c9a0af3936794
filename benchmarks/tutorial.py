"""torchidl's Fashion-MNIST tutorial on digits of its size: the teacher, and what SIM makes of it.

``python -m benchmarks.tutorial``, minutes on one core. The teacher is the tutorial's, without
biases, 784-64-32-16-10; the pictures are scikit-learn's digits at 28 × 28, 1,400 for training and
397 for the test. (On Fashion-MNIST the tutorial reports 84.58 % for its teacher and 82.18 % for its
student.)
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.features import images, teacher
from idl_lab import torchidl
from idl_lab.model import ImplicitModel
from idl_lab.sim import SIM
from idl_lab.sim.score import score
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.training import evaluate
from idl_lab.well_posedness import inf_norm

# The tutorial's, the default of torchidl's solvers; it weighs each |w| alike.
THEIRS = {"lambda_z": 1e-6, "lambda_y": 1e-6, "weigh": "uniform", "regenerate_states": True}


def loader(start: int, end: int | None) -> DataLoader:
    """Pictures and labels from one to another, in their order.

    Parameters
    ----------
    start, end : int
    """
    U, labels = images()
    return DataLoader(TensorDataset(U[start:end], labels[start:end]), batch_size=256)


def in_its_units(network: nn.Module) -> tuple[ImplicitModel, float]:
    """The tutorial's problem as it states it: in the teacher's own units.

    Parameters
    ----------
    network : torch.nn.Module

    Returns
    -------
    model : ImplicitModel
    gap : float
        The larger relative gap of the two matchings.
    """
    solver = torchidl.ADMMSolver(regen_states=True)
    sim = torchidl.SIM().train(solver, network, loader(0, 1400))
    return sim.model, max(found.stats.relative_gap for found in solver.results.values())


def by_sim(network: nn.Module, **options: float | str | bool) -> tuple[ImplicitModel, float]:
    """The same by `SIM`, in units in which the teacher is feasible.

    Parameters
    ----------
    network : torch.nn.Module
    **options
        Of `SIM`.
    """
    sim = SIM(**options, progress=False).train(ADMMSolver(progress=False), network, loader(0, 1400))
    return sim.model, max(sim.result.stats["relative_gap"].values())


def at_a_chosen_lambda(network: nn.Module) -> tuple[ImplicitModel, float]:
    """λ is the one that a path on 1,050 training pictures chooses by the accuracy on the other 350.

    Parameters
    ----------
    network : torch.nn.Module
    """
    sim = SIM(progress=False)
    path = sim.path(ADMMSolver(progress=False), network, loader(0, 1050),
                    val_loader=loader(1050, 1400))
    print(path.to_string(), "\n")
    return by_sim(network, lambda_z=sim.lambda_z, lambda_y=sim.lambda_y)


def run() -> None:
    """Print the table: accuracy and fidelity on the test pictures, and the cost."""
    network, test = teacher(), loader(1400, None)
    with torch.no_grad():
        outputs = DataLoader(TensorDataset(images()[0][1400:], network(images()[0][1400:])), 256)
    students: dict[str, Callable[[], tuple[ImplicitModel, float]]] = {
        "λ = 1e-6, regenerated, teacher's units": lambda: in_its_units(network),
        "λ = 1e-6, regenerated": lambda: by_sim(network, **THEIRS),
        "λ chosen": lambda: at_a_chosen_lambda(network)}
    rows = {"teacher": {"accuracy": evaluate(network, test), "fidelity": 1.0}}
    for name, fit in students.items():
        start = time.process_time()
        model, gap = fit()
        rows[name] = {
            "seconds": time.process_time() - start, "accuracy": evaluate(model, test),
            "fidelity": score(model, outputs).value, "norm of A": float(inf_norm(model.A.detach())),
            "nonzeros": sum(int(M.count_nonzero()) for M in (model.A, model.B, model.C, model.D)),
            "gap": gap}
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="{:.4g}".format))


if __name__ == "__main__":
    run()
