"""What each rank does under torchrun for the tests, in a module that is soon imported."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from helpers import mat
from torch import nn

from idl_lab.sim import SIM
from idl_lab.sim.problem import Problem
from idl_lab.sim.sharding import all_reduce
from idl_lab.sim.solvers import ADMMMultiGPUSolver
from idl_lab.sim.states import gram_statistics

QUIET = {"progress": False, "device": "cpu"}
CASES = {
    "usual": {"lam": 0.5, "kappa": 0.9, "ball": 12},
    "no ball": {"lam": 0.5},
    "kappa = 0": {"lam": 0.5, "kappa": 0.0, "ball": 12},
    "lambda = 0": {"lam": 0.0, "kappa": 0.9, "ball": 12},
    "elastic net": {"lam": 0.5, "ridge": 2.0, "kappa": 0.9, "ball": 12},
}
ROWS = {"usual": (7, 2, 1)}  # with two ranks: an odd share, one each, and one rank without any
TRAIN = {"plain": {}, "regenerated": {"regenerate_states": True}}
SUMS = ("gram", "cross_Z", "cross_Y", "norms_Z", "norms_Y")


def made(name="usual", k=7):
    """A problem of 20 columns and k rows."""
    rng = np.random.default_rng(3)
    Phi = rng.standard_normal((60, 20))
    T = 0.4 * Phi @ rng.standard_normal((20, k)) + 0.2 * rng.standard_normal((60, k))
    return Problem(mat(Phi.T @ Phi), mat(T.T @ Phi), mat((T**2).sum(axis=0)), **CASES[name])


def endless():
    """Settings of a solve that goes on until it is stopped."""
    return {"splitting_steps": 10**9, "max_steps": 10**9, "tol": 1e-300, **QUIET}


def images():
    """301 samples like the digits: 64 pixels in [0, 1], many of them 0."""
    pixels = np.random.default_rng(4).normal(0.2, 0.5, (301, 64)).clip(0, 1)
    return mat(pixels, torch.float32)


def teacher(width=12):
    """A network with random weights, the same on every rank."""
    with torch.device("cpu"), torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def summary(sim):
    """What is compared of a trained SIM."""
    result = sim.result
    return {name: getattr(result, name) for name in "ABCD"} | {
        "samples": result.stats["samples"], "fit": result.stats["fit"]["output"]}


def as_rank(out):
    """Solve, train, add up and be refused; the findings go to a file of this rank."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    shard = images()[rank::world].split(100)
    solver = ADMMMultiGPUSolver(timeout=60, **QUIET)
    found = {}
    for name in CASES:
        for k in ROWS.get(name, (7,)):
            rows = solver.solve(made(name, k))
            found[f"{name}, k = {k}"] = rows.W, rows.stats.objective, rows.stats.exchanged
    # Rank 1 alone has seen enough, and all ranks stop.
    rows = ADMMMultiGPUSolver(**endless()).solve(made(), watch=lambda row: rank == 1)
    found["cancelled"] = rows.status.name, rows.stats.steps
    for name, options in TRAIN.items():
        sim = SIM(progress=False, device="cpu", **options).train(solver, teacher(), shard)
        found[name] = summary(sim)
    grams = all_reduce(gram_statistics(teacher(), shard, progress=False))
    found["statistics"] = [getattr(grams, name) for name in SUMS] + [grams.samples]
    found["refused"] = []
    for call in (lambda: all_reduce(gram_statistics(teacher(12 + rank), shard, progress=False)),
                 lambda: solver.solve(made("no ball" if rank else "usual")),
                 lambda: solver.solve(made(k=7 + rank)),
                 lambda: ADMMMultiGPUSolver(tol=1e-6 * (1 + rank), **QUIET).solve(made())):
        try:
            call()
        except ValueError as error:
            found["refused"].append(str(error))
    if rank == 0:
        try:  # what rank 1 does not come to
            ADMMMultiGPUSolver(timeout=1.0, **QUIET).solve(made())
        except RuntimeError as error:
            found["lost"] = str(error)
    torch.save(found, Path(out) / f"{rank}.pt")
