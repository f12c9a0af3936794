"""The scale panel: what state matching would take, at a size and on machines of your choice."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.labs.sim_at_scale.machine import ASSUMED_GPU, Machine, Size
from idl_lab.labs.sim_at_scale.plots import draw_budget

HEARS = {"every state": 1, "one of 10 layers": 10, "one of 100 layers": 100}


def scale_panel(machines: Sequence[Machine] = (ASSUMED_GPU,), *, p: int = 784,
                log_n: float = 3.0) -> Panel:
    """Choose n, m, the devices, and what a state hears; see time and memory by part.

    Parameters
    ----------
    machines : sequence of Machine
    p : int
        Inputs.
    log_n : float
        Where the slider for log₁₀ n starts, in [2, 6] by quarters.

    Returns
    -------
    Panel
        Controls: log_n, log_m, devices, hears, machine.

    Raises
    ------
    ValueError
        Without a machine.
    """
    named = {machine.name: machine for machine in machines}
    if not named:
        raise ValueError("machines must hold at least one Machine, got none.")

    def draw(log_n: float, log_m: float, devices: int, hears: str, machine: str,
             figure: Figure | None) -> Figure:
        size = Size(round(10 ** log_n), p, round(10 ** log_m), blocks=HEARS[hears])
        count = "one device" if devices == 1 else f"{devices} devices"
        return draw_budget(
            named[machine].seconds(size, devices), size.memory(devices), named[machine].memory,
            f"n = {size.n:,}, m = {size.samples:,}, {count}", figure=figure)

    controls = {"log_n": slider(log_n, 2.0, 6.0, 0.25, "log₁₀ n"),
                "log_m": slider(5.0, 3.0, 8.0, 0.25, "log₁₀ m"),
                "devices": slider(1, 1, 64, 1, "devices"),
                "hears": dropdown("every state", tuple(HEARS), "a state hears"),
                "machine": dropdown(next(iter(named)), tuple(named), "machine")}
    for name in ("hears", "machine"):  # whose choices are longer than usual
        controls[name].layout.width = "250px"
    return Panel(draw, controls)
