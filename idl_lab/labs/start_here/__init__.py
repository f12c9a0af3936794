"""Lab 00: the two equations and a model of the digits."""

from idl_lab.labs.start_here.panel import digit_panel
from idl_lab.labs.start_here.plots import draw_digit

__all__ = [
    "digit_panel", "draw_digit",
]
