"""Every picture of the workbench: ``draw_*(numbers) -> Figure``, in one style.

The functions only draw what they are given, need no kernel and no window, and return a
`matplotlib.figure.Figure`. Those that panels use update their picture in place when they are
given the ``ax`` (one axes) or ``figure`` (several) of an earlier call.
"""

from idl_lab.plots.bench import draw_bench
from idl_lab.plots.fixed_points import (
    draw_convergence,
    draw_norm_bound,
    draw_paths,
    draw_residuals,
    draw_row_sums,
    draw_spectrum,
    draw_state,
)
from idl_lab.plots.gradients import (
    draw_gradient_cosines,
    draw_gradient_costs,
    draw_gradient_directions,
    draw_gradient_errors,
    draw_gradient_memory,
    draw_gradients,
    draw_tangents,
)
from idl_lab.plots.models import draw_balls, draw_digit, draw_history, draw_model
from idl_lab.plots.networks import draw_blocks, draw_rescaled_rows, draw_rescaling, draw_units
from idl_lab.plots.sequences import draw_forecast, draw_memory, draw_reading, draw_steps
from idl_lab.plots.sim_scale import (
    draw_budget,
    draw_costs,
    draw_samples_needed,
    draw_stream_memory,
)
from idl_lab.plots.sim_solvers import draw_patterns, draw_solves, draw_sparsity
from idl_lab.plots.sim_states import (
    draw_bound,
    draw_features,
    draw_segments,
    draw_teacher_states,
)
from idl_lab.plots.training import draw_sweep, draw_tolerance

__all__ = [
    "draw_budget", "draw_costs", "draw_samples_needed", "draw_stream_memory",
    "draw_balls", "draw_bench", "draw_blocks", "draw_convergence", "draw_digit",
    "draw_forecast", "draw_gradient_cosines", "draw_gradient_costs", "draw_gradient_directions",
    "draw_gradient_errors", "draw_gradient_memory", "draw_gradients", "draw_history",
    "draw_memory", "draw_model", "draw_norm_bound", "draw_paths", "draw_reading",
    "draw_rescaled_rows", "draw_rescaling", "draw_residuals", "draw_row_sums", "draw_spectrum",
    "draw_state", "draw_steps", "draw_sweep", "draw_tangents", "draw_tolerance", "draw_units",
    "draw_patterns", "draw_solves", "draw_sparsity",
    "draw_bound", "draw_features", "draw_segments", "draw_teacher_states",
]
