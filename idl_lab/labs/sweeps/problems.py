"""A model small enough to be trained a hundred times, and what many runs say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from idl_lab import validation
from idl_lab.data import load
from idl_lab.model import ImplicitModel
from idl_lab.training import accuracy, fit

IMAGES = 300  # to fit; fewer than there are, so that a run takes a tenth of a second
TO_CHOOSE = 100  # and to choose by

PARAMETERS = """\
kappa: float = 0.9  # bound of ‖A‖∞, in [0, 1)
rank: int | None = None  # rank of A, in [1, 200] or None
n: int = 20  # states, in [1, 200]
seed: int = 0  # of every random draw, in [0, ∞)
device: str = "cpu"  # where it computes: auto, cpu, cuda or mps"""
RUN = """\
from idl_lab.labs.kit import record
from idl_lab.labs.sweeps import digits_run

record(**digits_run(kappa, rank, n, seed, device))"""


def digits_run(kappa: float, rank: int | None, n: int = 20, seed: int = 0,
               device: str | torch.device = "cpu") -> dict[str, float]:
    """Train an implicit model on 300 of the digits, in a tenth of a second.

    Parameters
    ----------
    kappa, rank, n
        As `ImplicitModel` takes them.
    seed : int
        Of the initial matrices and of the order of the batches; the images are always the same.
    device : str or torch.device

    Returns
    -------
    dict
        validation_accuracy on 100 images, test_accuracy on 360 others, and the steps that the
        solver takes for the latter.
    """
    place, draws = validation.resolve_device(device), torch.Generator("cpu").manual_seed(seed)
    train, test = load("digits", seed=0)
    U, labels = train.dataset.tensors
    model = ImplicitModel(U.shape[1], 10, n, kappa=kappa, rank=rank, device="cpu",
                          generator=draws).to(place)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for matrices this small, threads wait longer than they work
    try:
        fit(model, DataLoader(TensorDataset(U[:IMAGES], labels[:IMAGES]), 64, shuffle=True,
                              generator=draws), epochs=4, lr=0.01, progress=False)
        chosen = slice(IMAGES, IMAGES + TO_CHOOSE)
        with torch.no_grad():
            found = {"validation_accuracy": accuracy(model(U[chosen].to(place)),
                                                     labels[chosen].to(place))}
            U, labels = (tensor.to(place) for tensor in test.dataset.tensors)
            steps = model.equilibrium(U, keep_states=True).stats.steps
            found["test_accuracy"] = accuracy(model(U), labels)
    finally:
        torch.set_num_threads(threads)
    return {name: float(value) for name, value in found.items()} | {"steps": int(steps)}


def write_notebook(folder: str | Path) -> Path:
    """Write a notebook of two cells, its parameters and one run of `digits_run`.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Path
        The file ``digits.ipynb`` there.
    """
    cells = [nbformat.v4.new_markdown_cell("# One run on the digits"),
             nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell(RUN)]
    path = Path(folder) / "digits.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def many_runs(grid: Mapping[str, Sequence[Any]], seeds: Sequence[int], **fixed: Any,
              ) -> pd.DataFrame:
    """`digits_run` for every combination of κ and rank, with each seed, in this process.

    Parameters
    ----------
    grid : mapping
        The values of ``kappa`` and ``rank``.
    seeds : sequence of int
    **fixed
        Given to every run.

    Returns
    -------
    pandas.DataFrame
        A row a run, with the columns that a sweep's table has of it.
    """
    return pd.DataFrame([
        {"kappa": kappa, "rank": rank, "seed": seed} | digits_run(kappa, rank, seed=seed, **fixed)
        for kappa in grid["kappa"] for rank in grid["rank"] for seed in seeds]).astype(
            {"rank": "Int64"})


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean of paired differences d, and the half-width of its 95 % interval.

    It is t s/√R for R differences with standard deviation s, where t is Student's quantile for
    R − 1 degrees of freedom: 12.7 for two, 2.8 for five, 2.2 for twelve.

    Parameters
    ----------
    differences : sequence of float
        One at least; of a single one the half-width is infinite.

    References
    ----------
    Student 1908, The probable error of a mean.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return float(d.mean()), math.inf
    return float(d.mean()), float(stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5)


def best_of(chosen_by: Sequence[float], judged_by: Sequence[float]) -> pd.DataFrame:
    """What is to be expected of the best of K runs, for every K.

    K of N runs are drawn without replacement, and the one with the largest ``chosen_by`` is
    taken: with runs sorted from the best down, that is run i with the probability
    C(N − 1 − i, K − 1)/C(N, K).

    Parameters
    ----------
    chosen_by, judged_by : sequence of float
        What the choice sees of each run, and what it does not.

    Returns
    -------
    pandas.DataFrame
        By K: ``chosen_by`` and ``judged_by`` of the run that is chosen, their expected values.

    Raises
    ------
    ValueError
        If they are not two finite numbers for each of at least one run.
    """
    seen, unseen = (np.asarray(values, dtype=float) for values in (chosen_by, judged_by))
    if seen.ndim != 1 or seen.shape != unseen.shape or not len(seen) or not (
            np.isfinite(seen).all() and np.isfinite(unseen).all()):
        raise ValueError(f"chosen_by and judged_by must be finite numbers, as many of one as of "
                         f"the other, got shapes {seen.shape} and {unseen.shape}.")
    order = np.argsort(-seen, kind="stable")
    count = len(seen)
    weights = np.array([[math.comb(count - 1 - i, k - 1) / math.comb(count, k)
                         for i in range(count)] for k in range(1, count + 1)])
    return pd.DataFrame({"chosen_by": weights @ seen[order], "judged_by": weights @ unseen[order]},
                        index=pd.RangeIndex(1, count + 1, name="runs"))
