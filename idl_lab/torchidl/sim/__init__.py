"""torchidl's SIM, on this project's statistics, problem and solvers."""

from idl_lab.torchidl.sim.sim import SIM

__all__ = ["SIM"]
