"""Solvers of the SIM problem: settings as frozen dataclasses, one result."""

from idl_lab.sim.solvers.admm import ADMMSolver
from idl_lab.sim.solvers.base import BaseSolver, Rows, RowStats, SolveStatus
from idl_lab.sim.solvers.cvx import CVXSolver

__all__ = ["ADMMSolver", "BaseSolver", "CVXSolver", "RowStats", "Rows", "SolveStatus"]
