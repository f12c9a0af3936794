"""torchidl's ADMM on one device."""

from __future__ import annotations

from dataclasses import dataclass

from idl_lab.sim import solvers
from idl_lab.sim.problem import Problem
from idl_lab.torchidl.sim.solvers.matching import ENDS, Matching


@dataclass
class ADMMSolver(Matching):
    """torchidl's ADMM: λ stands before ‖w‖₁ there as it does here.

    Its output matching took a step of the subgradient in place of a threshold, so that C and D had
    no zeros; here they have those of the optimum.

    Parameters
    ----------
    num_epoch_ab, num_epoch_cd : int
        Not used: a solve ends at a duality gap.
    lambda_y, lambda_z : float
        λ of output and of state matching.
    rho_ab, rho_cd : float
        Not used: each row balances its penalty ρ by itself.
    batch_feature_size : int
        Not used: all rows are solved together.
    regen_states : bool
        Fit C and D to the equilibria of the A and B that were found, not to the teacher's states.
    tol : float
        Entries of at most this size are set to zero.

    Raises
    ------
    TypeError, ValueError
        For a negative λ or tol.

    Warns
    -----
    UserWarning
        For arguments that are given and not used.
    """

    num_epoch_ab: int = 1000
    num_epoch_cd: int = 100
    lambda_y: float = 1e-6
    lambda_z: float = 1e-6
    rho_ab: float = 10.0
    rho_cd: float = 10.0
    batch_feature_size: int = 100
    regen_states: bool = False
    tol: float = 1e-6

    unused = {"num_epoch_ab": ENDS, "num_epoch_cd": ENDS, "rho_ab": "ρ balances itself",
              "rho_cd": "ρ balances itself", "batch_feature_size": "all rows are solved together"}

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        return solvers.ADMMSolver(device=str(problem.gram.device))
