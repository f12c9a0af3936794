"""Lab 05: what κ, n, rank, activation and tolerance cost."""

from idl_lab.labs.training.panel import tolerance_panel
from idl_lab.labs.training.plots import draw_sweep, draw_tolerance
from idl_lab.labs.training.problems import (
    CountedPicard,
    paired_difference,
    tolerance_study,
)

__all__ = [
    "CountedPicard", "draw_sweep", "draw_tolerance", "paired_difference", "tolerance_panel",
    "tolerance_study",
]
