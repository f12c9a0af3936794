"""State-driven implicit modeling: an implicit model by convex optimisation from a teacher."""

from idl_lab.sim.result import SimResult
from idl_lab.sim.sim import SIM

__all__ = ["SIM", "SimResult"]
