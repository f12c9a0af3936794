"""What the bound κ costs state-driven implicit modeling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pandas as pd
from torch import nn

from idl_lab.sim import SIM
from idl_lab.sim.hooks import Batches
from idl_lab.sim.solvers import BaseSolver


def bound_study(teacher: nn.Module, train: Batches, test: Batches, kappas: Sequence[float],
                solver: BaseSolver, lam: float = 0.1) -> pd.DataFrame:
    """SIM with and without rescaling for several κ, on the solver's device.

    Parameters
    ----------
    teacher : nn.Module
    train, test : iterable of (U, target)
    kappas : sequence of float
    solver : BaseSolver
        For all of them.
    lam : float
        λ_z = λ_y.

    Returns
    -------
    pandas.DataFrame
        By (kappa, rescaled): fidelity and accuracy on ``test``, inf_norm (‖A‖∞), gap (relative,
        of the state matching), solved, nonzeros, and the share of its variance that the matching
        leaves unexplained under "layer 1", "layer 2", … and "output".
    """
    rows = {}
    for kappa in kappas:
        for rescaled in (True, False):
            sim = SIM(kappa=kappa, lambda_z=lam, lambda_y=lam, rescale=rescaled,
                      device=solver.device, progress=False)
            with warnings.catch_warnings():  # the table says what the warnings say
                warnings.simplefilter("ignore", UserWarning)
                sim.train(solver=solver, model=teacher, dataloader=train)
            stats, layers = sim.result.stats, sim.result.blocks
            rows[kappa, rescaled] = {
                "fidelity": sim.fidelity(test), "accuracy": sim.evaluate(test),
                "inf_norm": stats["inf_norm"],
                "gap": stats["state"].relative_gap,
                "solved": all(status.ok for status in sim.result.status.values()),
                "nonzeros": sum(stats["nonzeros"].values()),
                **{f"layer {len(layers) - k}": 1 - stats["fit"][layer.name]
                   for k, layer in enumerate(layers)},
                "output": 1 - stats["fit"]["output"]}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = table.index.set_names(["kappa", "rescaled"])
    return table
