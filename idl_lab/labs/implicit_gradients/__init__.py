"""Lab 04: the gradient by the implicit function theorem."""

from idl_lab.labs.implicit_gradients.panel import gradient_panel
from idl_lab.labs.implicit_gradients.plots import (
    draw_adjoint,
    draw_gradient_cosines,
    draw_gradient_costs,
    draw_gradient_directions,
    draw_gradient_errors,
    draw_gradient_memory,
    draw_gradients,
    draw_tangents,
)
from idl_lab.labs.implicit_gradients.problems import (
    ADJOINTS,
    LISTENERS,
    Gradient,
    exact_gradient,
    gradient_problem,
    gradients_after,
    measure_gradient,
    relative_error,
)

__all__ = [
    "ADJOINTS", "LISTENERS", "Gradient", "draw_adjoint", "draw_gradient_cosines",
    "draw_gradient_costs", "draw_gradient_directions", "draw_gradient_errors",
    "draw_gradient_memory", "draw_gradients", "draw_tangents", "exact_gradient", "gradient_panel",
    "gradient_problem", "gradients_after", "measure_gradient", "relative_error",
]
