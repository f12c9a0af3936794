"""Lab 08: five solvers on one problem."""

from idl_lab.labs.sim_solvers.panel import SolverComparison
from idl_lab.labs.sim_solvers.plots import draw_patterns, draw_solves, draw_sparsity

__all__ = [
    "SolverComparison", "draw_patterns", "draw_solves", "draw_sparsity",
]
