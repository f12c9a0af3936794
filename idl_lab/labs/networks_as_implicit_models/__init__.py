"""Lab 03: networks read off, rescaled and composed."""

from idl_lab.labs.networks_as_implicit_models.panel import network_panel
from idl_lab.labs.networks_as_implicit_models.plots import draw_blocks, draw_rescaling, draw_units
from idl_lab.labs.networks_as_implicit_models.problems import NETWORKS, small_network

__all__ = [
    "NETWORKS", "draw_blocks", "draw_rescaling", "draw_units", "network_panel", "small_network",
]
