"""Lab 09: a million samples, two workers, and a model of the cost."""

from idl_lab.labs.sim_at_scale.machine import ASSUMED_GPU, Machine, Size, fit_machine
from idl_lab.labs.sim_at_scale.panel import scale_panel
from idl_lab.labs.sim_at_scale.plots import (
    draw_budget,
    draw_costs,
    draw_samples_needed,
    draw_stream_memory,
)
from idl_lab.labs.sim_at_scale.points import measure_parts
from idl_lab.labs.sim_at_scale.problems import gaussian, random_teacher
from idl_lab.labs.sim_at_scale.streams import Stream, train_alone

__all__ = [
    "ASSUMED_GPU", "Machine", "Size", "Stream", "draw_budget", "draw_costs",
    "draw_samples_needed", "draw_stream_memory", "fit_machine", "gaussian",
    "measure_parts", "random_teacher", "scale_panel", "train_alone",
]
