"""Lab 10: what a sweep says, and what it does not."""

from idl_lab.labs.sweeps.panel import difference_panel
from idl_lab.labs.sweeps.plots import draw_best_of, draw_difference, draw_runs
from idl_lab.labs.sweeps.problems import (
    best_of,
    digits_run,
    interval,
    many_runs,
    write_notebook,
)

__all__ = [
    "best_of", "difference_panel", "digits_run", "draw_best_of", "draw_difference", "draw_runs",
    "interval", "many_runs", "write_notebook",
]
