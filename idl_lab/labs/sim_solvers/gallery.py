"""Solvers of the SIM problem."""

from __future__ import annotations

import functools

from matplotlib.figure import Figure
from torch.utils.data import DataLoader, Subset

from idl_lab import training
from idl_lab.labs.kit.problems import digits_teacher, generator, normal
from idl_lab.labs.sim_solvers.panel import path_panel
from idl_lab.labs.sim_solvers.plots import draw_patterns, draw_solves
from idl_lab.sim import SIM
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver, CVXSolver, LeastSquareSolver, SolveResult


@functools.cache
def _solved() -> dict[str, SolveResult]:
    """Two solvers on random rows that want to leave the ball, and one that lets them."""
    draws = generator()
    Phi = normal(80, 30, generator=draws)
    T = Phi @ normal(30, 12, generator=draws) + normal(80, 12, generator=draws)
    problem = Problem(Phi.mT @ Phi, T.mT @ Phi, T.square().sum(0), lam=10.0, kappa=0.9, ball=12)
    solvers = {"ADMM": ADMMSolver(check_every=2, device="cpu", progress=False),
               "CVX": CVXSolver(progress=False),
               "least squares": LeastSquareSolver(device="cpu", progress=False)}
    return {name: solver.solve(problem) for name, solver in solvers.items()}


def solves() -> Figure:
    """Against steps, since seconds differ with every run."""
    return draw_solves(_solved(), 0.9, against="step", tol=1e-6, verdict="κ = 0.9, λ = 10")


def patterns() -> Figure:
    """Which entries they leave."""
    return draw_patterns({name: rows.W for name, rows in _solved().items()}, 12)


def path() -> Figure:
    """Students of the digits' teacher; the λ is chosen on a half of the test images."""
    teacher, train, test = digits_teacher(hidden=(32, 16))
    apart = DataLoader(Subset(test.dataset, range(200)), 100)
    solver = ADMMSolver(tol=1e-4, device="cpu", progress=False)
    paths = {way: SIM(refit=way == "refitted", device="cpu", progress=False).path(
        solver, teacher, train, [10 ** (k / 2) for k in range(-4, 5)], val_loader=apart)
        for way in ("as fitted", "refitted")}
    return path_panel({"digits": paths}, {"digits": training.evaluate(teacher, apart)}).figure


GALLERY = (solves, patterns, path)
