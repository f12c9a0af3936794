"""Lab 13: what a model says outside the range of its training, and why."""

from idl_lab.labs.extrapolation.panel import unit_panel
from idl_lab.labs.extrapolation.plots import draw_errors, draw_levels, draw_symmetries
from idl_lab.labs.extrapolation.problems import (
    SILU,
    Examples,
    Normalised,
    Perceptron,
    argmax,
    arithmetic,
    errors,
    least_squares,
    over_scales,
    over_shifts,
    size,
    spikes,
    train,
    trained,
    without_feedback,
)

__all__ = [
    "SILU", "Examples", "Normalised", "Perceptron", "argmax", "arithmetic", "draw_errors",
    "draw_levels", "draw_symmetries", "errors", "least_squares", "over_scales", "over_shifts",
    "size", "spikes", "train", "trained", "unit_panel", "without_feedback",
]
