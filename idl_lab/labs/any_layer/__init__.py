"""Lab 14: the equilibrium of any module."""

from idl_lab.labs.any_layer.panel import stability_panel
from idl_lab.labs.any_layer.plots import (
    draw_courses,
    draw_short_gradients,
    draw_table,
)
from idl_lab.labs.any_layer.problems import (
    ADJOINTS,
    SOLVER,
    Block,
    Course,
    classifier,
    cosine,
    gradient_table,
    jacobians,
    measure_gradient,
    quietly,
    radii,
    relative_error,
    train,
)

__all__ = [
    "ADJOINTS", "SOLVER", "Block", "Course", "classifier", "cosine", "draw_courses",
    "draw_table", "draw_short_gradients", "gradient_table", "jacobians",
    "measure_gradient", "quietly", "radii", "relative_error", "stability_panel", "train",
]
