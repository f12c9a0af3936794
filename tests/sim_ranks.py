"""What each rank does under torchrun for the tests, in a module that is soon imported."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from helpers import mat
from torch import nn

from idl_lab.sim import SIM
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMMultiGPUSolver

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


def made(name="usual", k=7):
    """A problem of 20 columns and k rows."""
    rng = np.random.default_rng(3)
    Phi = rng.standard_normal((60, 20))
    T = 0.4 * Phi @ rng.standard_normal((20, k)) + 0.2 * rng.standard_normal((60, k))
    return Problem(mat(Phi.T @ Phi), mat(T.T @ Phi), mat((T**2).sum(axis=0)), **CASES[name])


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
        "samples": result.stats["samples"], "fit": result.stats["fit"]["output"],
        "fidelity": result.stats["fidelity"]}


def shift(network, rank, name):
    """The network, of which rank 1 has one number that is another."""
    with torch.no_grad():
        dict([*network.named_parameters(), *network.named_buffers()])[name].view(-1)[0] += rank
    return network


def normalised():
    """A teacher with buffers, which are no parameters and change what it computes."""
    with torch.device("cpu"), torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))


def said(call):
    """What a call is refused with."""
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def trained(solver, network, loader, **options):
    """A SIM, fitted to what this rank has."""
    return SIM(progress=False, device="cpu", **options).train(solver, network, loader)


def as_rank(out):
    """Solve, train, and be refused; the findings go to a file of this rank."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    every = images()
    shard = every[rank::world].split(100)
    solver = ADMMMultiGPUSolver(timeout=60, **QUIET)
    found = {}
    for name in CASES:
        for k in ROWS.get(name, (7,)):
            rows = solver.solve(made(name, k))
            found[f"{name}, k = {k}"] = rows.W, rows.stats.objective, rows.status.name
    # Rank 1 alone has seen enough of its rows.
    rows = replace(solver, tol=1e-300, max_steps=50).solve(made(), watch=lambda row: rank == 1)
    found["cancelled"] = rows.status.name, rows.stats.steps, rows.history.step.tolist()
    for name, options in TRAIN.items():
        found[name] = summary(trained(solver, teacher(), shard, **options))
        # One shard may be empty, be it the first rank's.
        for empty in (0, 1):
            loader = every.split(100) if rank != empty else []
            found[f"{name}, {empty} empty"] = summary(
                trained(solver, teacher(), loader, **options))
    found["refused"] = [said(call) for call in (
        lambda: trained(solver, shift(teacher(), rank, "0.weight"), shard),
        lambda: trained(solver, shift(normalised(), rank, "1.running_mean"), shard),
        lambda: trained(solver, teacher(12 + rank), shard),
        lambda: trained(solver, teacher(), []),
        lambda: trained(solver, teacher(), [torch.full((4, 64), torch.nan)] if rank else shard),
        lambda: solver.solve(made("no ball" if rank else "usual")),
        lambda: solver.solve(made(k=7 + rank)),
        lambda: replace(solver, tol=1e-6 * (1 + rank)).solve(made()))]
    if rank == 0:  # what rank 1 does not come to
        found["lost"] = said(lambda: replace(solver, timeout=1.0).solve(made()))
    torch.save(found, Path(out) / f"{rank}.pt")


def as_mortal():
    """Rank 1 is killed in the middle of its rows; what rank 0 says of it goes to stdout."""
    import torch.distributed as dist
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    try:
        ADMMMultiGPUSolver(timeout=60, **QUIET).solve(
            made(), watch=lambda row: rank and os.kill(os.getpid(), 9))
    except RuntimeError as error:
        print(error, flush=True)
        os._exit(3)
