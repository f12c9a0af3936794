"""Lab 12: what a small change of an image can do to a model: attacks, bounds, certificates."""

from idl_lab.labs.robustness.panel import margin_panel
from idl_lab.labs.robustness.plots import draw_attack, draw_certified, draw_sensitivity
from idl_lab.labs.robustness.problems import (
    attacked,
    differences,
    first_images,
    study,
    train_bounded,
)

__all__ = [
    "attacked", "differences", "draw_attack", "draw_certified", "draw_sensitivity", "margin_panel",
    "study", "first_images", "train_bounded",
]
