"""idl_lab: a workbench for implicit deep learning, x = φ(Ax + Bu), ŷ = Cx + Du."""

from idl_lab.layer import EquilibriumLayer
from idl_lab.model import ImplicitModel
from idl_lab.rnn import ImplicitRNN, ImplicitRNNCell

__all__ = ["EquilibriumLayer", "ImplicitModel", "ImplicitRNN", "ImplicitRNNCell"]
__version__ = "0.1.0"
