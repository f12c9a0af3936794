"""Lab 01: a network as a fixed point; Picard, damping, Anderson."""

from idl_lab.labs.fixed_points.panel import convergence_panel
from idl_lab.labs.fixed_points.plots import draw_convergence, draw_model, draw_state
from idl_lab.labs.fixed_points.problems import even_injection

__all__ = [
    "convergence_panel", "draw_convergence", "draw_model", "draw_state", "even_injection",
]
