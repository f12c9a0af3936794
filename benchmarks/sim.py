"""SIM's solvers beside torchidl's, on the same states of the same teacher, in one run.

Ours run before and after each of torchidl's and sum their statistics anew each time; torchidl is
given the raw states. What each found is judged by one `Problem`: its objective, how far that is
above the best lower bound that was proved, and by how much A leaves the ball.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import features
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.labs.kit.problems import digits_teacher
from idl_lab.labs.sim_at_scale.streams import peak_of_states
from idl_lab.model import ImplicitModel
from idl_lab.sim import SIM
from idl_lab.sim.problem import Problem, output_matching, state_matching
from idl_lab.sim.solvers import (
    ADMMMultiGPUSolver,
    ADMMSolver,
    BaseSolver,
    CVXSolver,
    LeastSquareSolver,
)
from idl_lab.sim.states import States, collect, gram_statistics
from idl_lab.training import evaluate

KAPPA = 0.99
SAMPLES = (20_000, 200_000)
# What λ multiplies, and whether its choice is fitted anew.
WAYS = (("uniform", False), ("standard", False), ("adaptive", False), ("adaptive", True))


class Found(NamedTuple):
    """What one solver made of the states: seconds, [A B] and [C D]."""

    seconds: float
    state: Tensor
    output: Tensor


def ours(solver: BaseSolver, teacher: nn.Module, train: DataLoader, lam: float) -> Found:
    """Statistics and both matchings, in the teacher's own units: the problem torchidl solves.

    Parameters
    ----------
    solver : BaseSolver
    teacher : torch.nn.Module
        Without biases.
    train : DataLoader
    lam : float
        λ of both.
    """
    start = time.perf_counter()
    grams = gram_statistics(teacher, train, ones=False, progress=False)
    state = solver.solve(state_matching(grams, KAPPA, lam))
    output = solver.solve(output_matching(grams, lam))
    return Found(time.perf_counter() - start, state.W, output.W)


def theirs(kind: str, settings: dict[str, float], states: States) -> Found:
    """The same by a solver of torchidl, in a fresh process.

    Its CVXSolver forks, and a fork of a process whose threads have worked waits for ever.

    Parameters
    ----------
    kind : str
        Name of the class.
    settings : dict
        Its arguments.
    states : States
    """
    raw = [T.T.numpy().astype(np.float32) for T in (states.X, states.U, states.Z, states.Y)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        seconds, found = process.submit(_solved_by_torchidl, kind, settings, raw).result()
    A, B, C, D = (torch.from_numpy(M).double() for M in found)
    return Found(seconds, torch.cat([A, B], dim=1), torch.cat([C, D], dim=1))


def _solved_by_torchidl(kind: str, settings: dict[str, float], raw: list[np.ndarray]
                        ) -> tuple[float, list[np.ndarray]]:
    from torchidl.sim import solvers

    options = {"activation_fn": nn.functional.relu, "device": "cpu", "atol": 1e-6, "kappa": KAPPA}
    solver = getattr(solvers, kind)(**settings)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = solver.solve(*raw, options)
    return time.perf_counter() - start, [
        np.asarray(M.toarray() if hasattr(M, "toarray") else M) for M in found]


def judge(found: Found, problem: Problem, optimum: float, test: DataLoader) -> dict[str, float]:
    """Figures of one answer.

    Parameters
    ----------
    found : Found
    problem : Problem
        Of state matching.
    optimum : float
        A lower bound of its objective.
    test : DataLoader
    """
    n = problem.ball
    objective = float(problem.objective(found.state).sum())
    A, B, C, D = (part.float() for M in (found.state, found.output)
                  for part in (M[:, :n], M[:, n:]))
    model = ImplicitModel.from_matrices(A, B, C, D, solver=Picard(max_steps=3000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # outside the ball that may well be
        accuracy = evaluate(model, test)
    return {"objective": objective, "above the optimum": objective / optimum - 1,
            "norm of A": float(found.state[:, :n].abs().sum(dim=1).amax()),
            "nonzeros": int(found.state.count_nonzero()), "accuracy": accuracy}


def contest(lam: float, peers: dict[str, tuple[str, dict[str, float]]], repeats: int = 3
            ) -> pd.DataFrame:
    """All solvers on the digits at one λ: figures, median seconds, and of each of torchidl's.

    Parameters
    ----------
    lam : float
        λ_z = λ_y.
    peers : dict of str to (str, dict)
        torchidl's solvers by name: class and arguments besides λ.
    repeats : int
        Runs of ours before and after each of torchidl's.
    """
    teacher, train, test = digits_teacher(0)
    states = collect(teacher, train, progress=False)
    grams = gram_statistics(teacher, train, ones=False, progress=False)
    problem = state_matching(grams, KAPPA, lam)
    mine = {"ADMMSolver": (ADMMSolver, repeats), "CVXSolver": (CVXSolver, 1),
            "LeastSquareSolver": (LeastSquareSolver, repeats)}
    runs: dict[str, list[Found]] = {}

    def turn() -> None:
        for name, (kind, times) in mine.items():
            runs.setdefault(name, []).extend(
                ours(kind(progress=False), teacher, train, lam) for _ in range(times))

    turn()
    for name, (kind, settings) in peers.items():
        runs[name] = [theirs(kind, {**settings, "lambda_z": lam, "lambda_y": lam}, states)]
        turn()
    best = runs["ADMMSolver"][-1]
    optimum = float(problem.dual(best.state).sum())
    rows = {name: {"seconds": pd.Series([run.seconds for run in all_]).median()}
            | judge(all_[-1], problem, optimum, test) for name, all_ in runs.items()}
    table = pd.DataFrame(rows).T
    for name in peers:
        table.insert(1, f"of {name}", table["seconds"] / table.loc[name, "seconds"])
    return table


def large(columns: tuple[int, int] = (112, 784), samples: int = 2000) -> Problem:
    """State matching of the size of torchidl's Fashion-MNIST tutorial, on synthetic states.

    Parameters
    ----------
    columns : (int, int)
        n and p.
    samples : int
    """
    found = features.independent(0.0, columns, samples)
    return Problem(**found.products, kappa=KAPPA, ball=found.ball)


def accuracies(lams: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)) -> pd.DataFrame:
    """Accuracy against sparsity, in the units in which the teacher is feasible.

    Parameters
    ----------
    lams : tuple of float
        λ_z = λ_y.
    """
    rows = []
    for name, options in (("without biases", {}), ("with biases", {"biases": True}),
                          ("convolutions", {"biases": True, "conv": True})):
        teacher, train, test = digits_teacher(0, **options)
        for (weigh, refit), lam in itertools.product(WAYS, lams):
            sim = SIM(kappa=KAPPA, lambda_z=lam, lambda_y=lam, weigh=weigh, refit=refit,
                      device="cpu", progress=False)
            sim.train(ADMMSolver(progress=False), teacher, train)
            figures = sim.result.stats
            total = sum(getattr(sim.result, M).numel() for M in "ABCD")
            rows.append({"teacher": name, "its accuracy": evaluate(teacher, test), "λ": lam,
                         "weigh": weigh, "refit": refit, "fidelity": sim.result.fidelity,
                         "accuracy": sim.evaluate(test), "norm of A": figures["inf_norm"],
                         "share of zeros": 1 - sum(figures["nonzeros"].values()) / total,
                         "certified": sim.model.certificate().well_posed,
                         "seconds": figures["seconds"]})
    return pd.DataFrame(rows)


def run() -> None:
    """Print the comparison."""
    peers = {"torchidl CVX": ("CVXSolver", {"num_processes": os.cpu_count()}),
             # Its example script's settings.
             "torchidl ADMM": ("ADMMSolver", {"num_epoch_ab": 1500, "num_epoch_cd": 120,
                                              "rho_ab": 1.0, "rho_cd": 1.0})}
    print(f"SIM: digits, 1,400 samples, teacher 64-64-32-16-10 without biases, n = 112, κ = "
          f"{KAPPA}, not rescaled; ours are medians")
    for lam in (1e-2, 1.0):
        table = contest(lam, peers)
        print(f"\nλ = {lam:g}\n" + table.to_string(float_format="{:.4g}".format))
    print("to reach: ADMMSolver 1/75 = 0.0133 of torchidl's CVX and 1/8 = 0.125 of its ADMM, "
          "CVXSolver 1/10 of its CVX\n")
    problem = large()
    print(f"{len(problem.gram)} columns, {len(problem.norms)} rows, 2,000 synthetic samples")
    for lam in (1e-2, 1.0):
        asked = dataclasses.replace(problem, lam=lam)
        one = ADMMSolver(progress=False).solve(asked)
        two = ADMMMultiGPUSolver(workers=2, device="cpu", progress=False).solve(asked)
        apart = float((one.stats.objective - two.stats.objective).abs().sum()
                      / one.stats.objective.sum())
        print(f"λ = {lam:g}: ADMMSolver {one.stats.seconds:.1f} s, relative gap "
              f"{one.stats.relative_gap:.1e} (to reach: 30 s); two workers "
              f"{two.stats.seconds:.1f} s, {two.history['seconds'].iloc[-1]:.1f} s of it after "
              f"their start; the same objective up to {apart:.0e}, W up to "
              f"{float((one.W - two.W).abs().max() / one.W.abs().max()):.0e} of its largest entry")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print("\nrescaled\n" + accuracies().to_string(index=False, float_format="{:.4g}".format))
    _, (few, many) = peak_of_states(SAMPLES, sizes=(64, 64, 32, 16, 10))
    print(f"\npeak memory of summing the statistics: {few / 1e6:.0f} MB at {SAMPLES[0]:,} samples, "
          f"{many / 1e6:.0f} MB at {SAMPLES[1]:,}: {many / few:.2f} times (to reach: 1.2)")


