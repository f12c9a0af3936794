"""Lab 08: solvers of one problem, and what λ does."""

from idl_lab.labs.sim_solvers.panel import SolverComparison, path_panel
from idl_lab.labs.sim_solvers.plots import draw_path, draw_patterns, draw_solves

__all__ = [
    "SolverComparison", "draw_path", "draw_patterns", "draw_solves", "path_panel",
]
