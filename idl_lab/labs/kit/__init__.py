"""What labs share: the canvas, common pictures and problems, Panel, Exercise, record."""

import torch

from idl_lab.labs.kit.exercise import Example, Exercise
from idl_lab.labs.kit.panel import Panel
from idl_lab.labs.kit.plots import draw_history, draw_rescaled_rows, draw_residuals
from idl_lab.labs.kit.problems import (
    change_units,
    digits_teacher,
    random_matrix,
    random_teacher,
    solve_quietly,
    whole,
)
from idl_lab.labs.kit.record import record

__all__ = [
    "Example", "Exercise", "Panel", "change_units", "digits_teacher", "draw_history",
    "draw_rescaled_rows", "draw_residuals", "random_matrix", "random_teacher", "record",
    "solve_quietly", "whole",
]

# Of float32 a GPU's TF32 keeps ten bits in products and convolutions: numbers that a lab shows to
# be equal to 1e-5 would differ in the third digit. torch's own default is to do so in convolutions.
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
