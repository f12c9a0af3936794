"""Lab 07: a teacher's states, and why fitting them is convex."""

from idl_lab.labs.sim_states.panel import sim_states_panel
from idl_lab.labs.sim_states.plots import (
    draw_answers,
    draw_bound,
    draw_duality,
    draw_features,
    draw_segments,
    draw_teacher_states,
)
from idl_lab.labs.sim_states.problems import bound_study

__all__ = [
    "bound_study", "draw_answers", "draw_bound", "draw_duality", "draw_features", "draw_segments",
    "draw_teacher_states", "sim_states_panel",
]
