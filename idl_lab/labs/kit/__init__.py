"""What labs share: the canvas, common pictures and problems, Panel, Exercise, record."""

from idl_lab.labs.kit.exercise import Example, Exercise
from idl_lab.labs.kit.panel import Panel
from idl_lab.labs.kit.plots import draw_history, draw_rescaled_rows, draw_residuals
from idl_lab.labs.kit.problems import (
    change_units,
    digits_teacher,
    random_matrix,
    solve_quietly,
    whole,
)
from idl_lab.labs.kit.record import record

__all__ = [
    "Example", "Exercise", "Panel", "change_units", "digits_teacher", "draw_history",
    "draw_rescaled_rows", "draw_residuals", "random_matrix", "record", "solve_quietly", "whole",
]
