"""Solvers of the SIM problem."""

from __future__ import annotations

import functools

from matplotlib.figure import Figure

from idl_lab import training
from idl_lab.labs.kit.problems import digits_teacher, generator, normal
from idl_lab.labs.sim_solvers.plots import draw_patterns, draw_solves, draw_sparsity
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


def sparsity() -> Figure:
    """SIM of the digits' teacher, in units in which it is feasible."""
    teacher, train, test = digits_teacher()
    solver = ADMMSolver(tol=1e-4, device="cpu", progress=False)
    points = SIM(device="cpu", progress=False).path(
        solver, teacher, train, (0.01, 0.1, 1.0, 10.0), val_loader=test)
    return draw_sparsity(points, training.evaluate(teacher, test), len(test.dataset))


GALLERY = (solves, patterns, sparsity)
