"""idl_lab: a workbench for implicit deep learning, x = φ(Ax + Bu), ŷ = Cx + Du."""

from idl_lab.model import ImplicitModel

__all__ = ["ImplicitModel"]
__version__ = "0.1.0"
