"""Lab 06: the equation solved at each time step."""

from idl_lab.labs.implicit_rnn.panel import reading_panel
from idl_lab.labs.implicit_rnn.plots import draw_forecast, draw_memory, draw_reading, draw_steps
from idl_lab.labs.kit.recurrent import TorchRNN

__all__ = [
    "TorchRNN", "draw_forecast", "draw_memory", "draw_reading", "draw_steps", "reading_panel",
]
