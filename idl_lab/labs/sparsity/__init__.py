"""Lab 11: few weights, by pruning and by SIM."""

from idl_lab.labs.sparsity.panel import sparsity_panel
from idl_lab.labs.sparsity.plots import draw_samples, draw_sparsity, draw_student
from idl_lab.labs.sparsity.problems import GLOBAL, digits, images, random, read_by, table
from idl_lab.labs.sparsity.students import Students

__all__ = [
    "GLOBAL", "Students", "digits", "draw_samples", "draw_sparsity", "draw_student", "images",
    "random", "read_by", "sparsity_panel", "table",
]
