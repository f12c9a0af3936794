"""torchidl's names and arguments on this project's models, so that its code runs unchanged.

``from torchidl import …`` becomes ``from idl_lab.torchidl import …``, and so with the modules
below it: ``torchidl.sim.solvers``, ``torchidl.implicit_function``. What is kept is what a user
writes; what is not is what was wrong: settings belong to a model and not to a class, the gradient
sees the constraint, a ``dphi`` is not trusted but derived, and a solver of SIM ends at an optimum
that it can prove. (The reference is torchidl 0.0.4.)
"""

from idl_lab.torchidl.implicit_base_model import ImplicitModel
from idl_lab.torchidl.implicit_function import (
    ImplicitFunction,
    ImplicitFunctionInf,
    ImplicitFunctionTriu,
    ImplicitFunctionWarning,
)
from idl_lab.torchidl.implicit_rnn_model import ImplicitRNN, ImplicitRNNCell
from idl_lab.torchidl.sim import SIM
from idl_lab.torchidl.sim.solvers import (
    ADMMMultiGPUSolver,
    ADMMSolver,
    BaseSolver,
    CVXSolver,
    LeastSquareSolver,
    ProjectedGDLowRankSolver,
)

__all__ = ["SIM", "ADMMMultiGPUSolver", "ADMMSolver", "BaseSolver", "CVXSolver",
           "ImplicitFunction", "ImplicitFunctionInf", "ImplicitFunctionTriu",
           "ImplicitFunctionWarning", "ImplicitModel", "ImplicitRNN", "ImplicitRNNCell",
           "LeastSquareSolver", "ProjectedGDLowRankSolver"]
