"""Solvers of the SIM problem: settings as frozen dataclasses, one result."""

from idl_lab.sim.solvers.admm import ADMMSolver
from idl_lab.sim.solvers.base import BaseSolver
from idl_lab.sim.solvers.cvx import CVXSolver
from idl_lab.sim.solvers.distributed import ADMMMultiGPUSolver
from idl_lab.sim.solvers.least_square import LeastSquareSolver
from idl_lab.sim.solvers.low_rank import ProjectedGDLowRankSolver
from idl_lab.sim.solvers.result import Iterate, SolveResult, SolveStats, SolveStatus

__all__ = ["ADMMMultiGPUSolver", "ADMMSolver", "BaseSolver", "CVXSolver", "Iterate",
           "LeastSquareSolver", "ProjectedGDLowRankSolver", "SolveResult", "SolveStats",
           "SolveStatus"]
