"""Panels: ipywidgets controls bound to a picture of `idl_lab.plots`.

``panel = convergence_panel()`` as the last line of a cell shows it; ``panel.set(kappa=0.9)``
moves its controls from code.
"""

from idl_lab.widgets.convergence import convergence_panel
from idl_lab.widgets.digit import digit_panel
from idl_lab.widgets.gradients import gradient_panel
from idl_lab.widgets.networks import network_panel
from idl_lab.widgets.norm_bound import norm_bound_panel
from idl_lab.widgets.panel import Panel
from idl_lab.widgets.reading import reading_panel
from idl_lab.widgets.sim_scale import scale_panel
from idl_lab.widgets.sim_states import sim_states_panel
from idl_lab.widgets.solver_comparison import SolverComparison
from idl_lab.widgets.tolerance import tolerance_panel

__all__ = [
    "Panel", "SolverComparison", "convergence_panel", "digit_panel", "gradient_panel",
    "network_panel", "norm_bound_panel", "reading_panel", "scale_panel", "sim_states_panel",
    "tolerance_panel",
]
