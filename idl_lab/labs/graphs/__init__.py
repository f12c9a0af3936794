"""Lab 15: labels that travel along chains."""

from idl_lab.labs.graphs.panel import transport_panel
from idl_lab.labs.graphs.plots import draw_fading, draw_lengths, draw_reach
from idl_lab.labs.graphs.problems import (
    GraphConvolutions,
    along,
    arrived,
    chains,
    decay,
    train,
    transport,
    widest,
)

__all__ = [
    "GraphConvolutions", "along", "arrived", "chains", "decay", "draw_fading", "draw_lengths",
    "draw_reach", "train", "transport", "transport_panel", "widest",
]
