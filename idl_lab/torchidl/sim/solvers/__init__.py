"""torchidl's solvers: its arguments, this project's methods."""

from idl_lab.torchidl.sim.solvers.admm_consensus import ADMMSolver
from idl_lab.torchidl.sim.solvers.admm_consensus_multigpu import ADMMMultiGPUSolver
from idl_lab.torchidl.sim.solvers.cvx import CVXSolver
from idl_lab.torchidl.sim.solvers.least_square import LeastSquareSolver
from idl_lab.torchidl.sim.solvers.projected_gd_lowrank import ProjectedGDLowRankSolver
from idl_lab.torchidl.sim.solvers.solver import BaseSolver

__all__ = ["ADMMMultiGPUSolver", "ADMMSolver", "BaseSolver", "CVXSolver", "LeastSquareSolver",
           "ProjectedGDLowRankSolver"]
