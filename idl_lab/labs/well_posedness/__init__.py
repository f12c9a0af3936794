"""Lab 02: when the equation has one solution."""

from idl_lab.labs.well_posedness.panel import norm_bound_panel
from idl_lab.labs.well_posedness.plots import (
    draw_balls,
    draw_norm_bound,
    draw_paths,
    draw_row_sums,
    draw_spectrum,
    draw_weighted_norm,
)
from idl_lab.labs.well_posedness.problems import several_starts, spread

__all__ = [
    "draw_balls", "draw_norm_bound", "draw_paths", "draw_row_sums", "draw_spectrum",
    "draw_weighted_norm", "norm_bound_panel", "several_starts", "spread",
]
