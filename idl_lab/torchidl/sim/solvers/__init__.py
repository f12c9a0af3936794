"""torchidl's solvers: its arguments, this project's methods."""

from idl_lab.torchidl.sim.solvers.matching import (
    ADMMMultiGPUSolver,
    ADMMSolver,
    CVXSolver,
    LeastSquareSolver,
    ProjectedGDLowRankSolver,
)
from idl_lab.torchidl.sim.solvers.solver import BaseSolver

__all__ = ["ADMMMultiGPUSolver", "ADMMSolver", "BaseSolver", "CVXSolver", "LeastSquareSolver",
           "ProjectedGDLowRankSolver"]
