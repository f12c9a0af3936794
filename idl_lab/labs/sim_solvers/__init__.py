"""Lab 08: solvers of one problem, and what λ does."""

from idl_lab.labs.sim_solvers.panel import SolverComparison, path_panel
from idl_lab.labs.sim_solvers.plots import draw_path, draw_patterns, draw_solves
from idl_lab.labs.sim_solvers.problems import Momentum, admm_step

__all__ = [
    "Momentum", "SolverComparison", "admm_step", "draw_path", "draw_patterns", "draw_solves",
    "path_panel",
]
