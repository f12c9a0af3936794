"""State-driven implicit modeling: an implicit model by convex optimisation from a teacher."""

from idl_lab.sim.sim import SIM, SimResult

__all__ = ["SIM", "SimResult"]
