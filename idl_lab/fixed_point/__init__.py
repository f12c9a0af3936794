"""Solvers for x = f(x): settings as frozen dataclasses, one entry function.

A solver is three methods, ``init / step / terminate``, so that a panel single-steps the very
code that training runs. States x are batches, shape (m, n); every sample converges on its own.
"""

from idl_lab.fixed_point.anderson import Anderson
from idl_lab.fixed_point.gauss_seidel import GaussSeidel
from idl_lab.fixed_point.newton import Broyden, Newton
from idl_lab.fixed_point.picard import Pace, Picard
from idl_lab.fixed_point.solve import fixed_point, reshape, run, told
from idl_lab.fixed_point.solver import Guard, Map, Solver, SolverState, check_solver, measure
from idl_lab.fixed_point.splitting import PeacemanRachford

__all__ = ["Anderson", "Broyden", "GaussSeidel", "Guard", "Map", "Newton", "Pace",
           "PeacemanRachford", "Picard", "Solver", "SolverState", "check_solver", "fixed_point",
           "measure", "reshape", "run", "told"]
