"""Small seeded problems that labs, panels and the gallery share."""

from idl_lab.examples.fixed_points import (
    KINDS,
    random_matrix,
    several_starts,
    solve_quietly,
    spread,
)
from idl_lab.examples.gradients import (
    ADJOINTS,
    LISTENERS,
    Gradient,
    exact_gradient,
    gradient_problem,
    gradients_after,
    measure_gradient,
    relative_error,
)
from idl_lab.examples.networks import NETWORKS, change_units, small_network, whole
from idl_lab.examples.sequences import TorchRNN
from idl_lab.examples.sim import digits_teacher
from idl_lab.examples.sim_states import bound_study
from idl_lab.examples.training import tolerance_study

__all__ = [
    "ADJOINTS", "KINDS", "LISTENERS", "NETWORKS", "Gradient", "TorchRNN", "bound_study",
    "change_units", "digits_teacher", "exact_gradient", "gradient_problem", "gradients_after",
    "measure_gradient", "random_matrix", "relative_error", "several_starts", "small_network",
    "solve_quietly", "spread", "tolerance_study", "whole",
]
