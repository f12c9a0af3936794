"""The clock beside the cost model of SIM: each part of state matching, timed at a few sizes."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from idl_lab import validation
from idl_lab.extras import clock
from idl_lab.labs.sim_at_scale.machine import Size
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.sim.solvers.active_set import ActiveSet


def sparse_problem(n: int, p: int, samples: int, *, generator: torch.Generator,
                   device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """Normal features (m, n + p), and targets (m, n) that a tenth of them explain, with noise.

    Parameters
    ----------
    n, p, samples : int
    generator : torch.Generator
        On the CPU, so that every device has the same problem.
    device : str or torch.device
        Where the features and targets are.
    """
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64,
                           device="cpu").to(device)

    d = n + p
    Phi, W, noise = draw(samples, d), draw(n, d), draw(samples, n)
    W = W * (torch.rand(n, d, generator=generator, device="cpu") < 0.1).to(device)
    W = W / W.abs().sum(dim=1, keepdim=True).clamp(min=1e-3)
    return Phi, Phi @ W.mT + 0.1 * noise


def measure_parts(sizes: Sequence[int], *, seed: int = 0, rows: int = 64, repeat: int = 3,
                  device: str | torch.device = "cpu") -> pd.DataFrame:
    """Time each part of state matching at a few sizes d, half of them states, m = 2d samples.

    On the CPU the time is the processor's, so that other programs do not count; with torch on one
    thread it is that of the clock.

    Parameters
    ----------
    sizes : sequence of int
    seed : int
    rows : int
        Of the steps of ADMM and the finish, whose cost grows with it.
    repeat : int
        The shortest of so many measurements counts.
    device : str or torch.device
        What is measured; it must have float64.

    Returns
    -------
    pandas.DataFrame
        Columns part, d, support, steps, flops, seconds: ten steps of ADMM, one of the finish.
    """
    validation.integer("rows", rows)
    validation.integer("repeat", repeat)
    generator = torch.Generator("cpu").manual_seed(validation.integer("seed", seed, at_least=0))
    found = []
    for d in sizes:
        n = validation.integer("d", d, at_least=4) // 2
        Phi, T = sparse_problem(n, d - n, 2 * d, generator=generator, device=device)
        gram, cross, some = Phi.mT @ Phi, T.mT @ Phi, slice(rows)
        problem = Problem(gram, cross, T.square().sum(0), lam=0.2 * d ** 0.5, kappa=0.9, ball=n
                          ).rows(some)
        _ = problem.spectrum  # so that the first step of ADMM does not pay for it
        steps = ADMMSolver(splitting_steps=10 ** 6).iterates(problem)
        W = deque(itertools.islice(steps, 30), maxlen=1).pop()
        support = int((W != 0).sum(dim=1).amax())
        runs: dict[str, Callable[[], object]] = {
            "statistics": lambda Phi=Phi, T=T: (Phi.mT @ Phi, T.mT @ Phi),
            "eigendecomposition": lambda p=problem: replace(p).spectrum,
            "splitting": lambda steps=steps, p=problem: _ten(steps, p),
            "finish": lambda W=W, p=problem: _one(ActiveSet(p, W), p)}
        size = Size(n, d - n, 2 * d, support=max(support, 1), splitting=10, finishing=1)
        share = {"splitting": len(W) / n, "finish": len(W) / n}
        for part, run in runs.items():
            seconds = min(_time(run, torch.device(device)) for _ in range(repeat))
            found.append((part, d, support, 10 if part == "splitting" else 1,
                          size.flops()[part] * share.get(part, 1), seconds))
    return pd.DataFrame(found, columns=["part", "d", "support", "steps", "flops", "seconds"])


def _ten(steps: Iterator[Tensor], problem: Problem) -> None:
    """Ten steps of ADMM and the test of the gap that follows them."""
    W = deque(itertools.islice(steps, 10), maxlen=1).pop()
    problem.gap(problem.project(W))


def _one(active: ActiveSet, problem: Problem) -> None:
    """A step of the finish on all rows, and its test."""
    active.step(torch.arange(len(problem.cross), device=problem.gram.device))
    W = problem.project(active.W)
    problem.gap(W)
    problem.objective(W)


def _time(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    start = clock(device)  # which waits for the device: a launch returns before its work is done
    run()
    return clock(device) - start
