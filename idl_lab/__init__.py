"""idl_lab: a workbench for implicit deep learning, x = φ(Ax + Bu), ŷ = Cx + Du."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idl_lab.layer import EquilibriumLayer
    from idl_lab.model import ImplicitModel
    from idl_lab.rnn import ImplicitRNN, ImplicitRNNCell

__all__ = ["EquilibriumLayer", "ImplicitModel", "ImplicitRNN", "ImplicitRNNCell"]
__version__ = "0.1.0"
_ROOMS = {"EquilibriumLayer": "layer", "ImplicitModel": "model",
          "ImplicitRNN": "rnn", "ImplicitRNNCell": "rnn"}


# Imported at their first use: the command line, which computes nothing itself, needs no torch.
def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
