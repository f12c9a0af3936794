"""SIM at scale; what a clock or a process has to say was measured once, on 2 cores."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from idl_lab.labs.sim_at_scale.machine import ASSUMED_GPU, Size, fit_machine
from idl_lab.labs.sim_at_scale.plots import (
    draw_budget,
    draw_costs,
    draw_samples_needed,
    draw_stream_memory,
)

# One thread, float64; 64 rows at most, ten steps of the splitting, one of the finish.
POINTS = pd.DataFrame(
    [(part, d, support, 10 if part == "splitting" else 1, flops, seconds)
     for part, rows in {
         "statistics": [(100, 35, 6.00e6, 7.9e-5), (200, 59, 4.80e7, 6.1e-4),
                        (400, 104, 3.84e8, 6.0e-3), (800, 191, 3.07e9, 4.6e-2)],
         "eigendecomposition": [(100, 35, 9.00e6, 7.2e-4), (200, 59, 7.20e7, 3.1e-3),
                                (400, 104, 5.76e8, 1.5e-2), (800, 191, 4.61e9, 9.5e-2)],
         "splitting": [(100, 35, 2.30e7, 4.4e-3), (200, 59, 1.18e8, 8.9e-3),
                       (400, 104, 4.71e8, 1.9e-2), (800, 191, 1.88e9, 5.9e-2)],
         "finish": [(100, 35, 1.47e7, 5.8e-3), (200, 59, 7.61e7, 1.2e-2),
                    (400, 104, 3.11e8, 3.0e-2), (800, 191, 1.30e9, 1.4e-1)]}.items()
     for d, support, flops, seconds in rows],
    columns=["part", "d", "support", "steps", "flops", "seconds"])


def costs() -> Figure:
    """Constants from the three smaller sizes; the largest is predicted."""
    machine = fit_machine(POINTS[POINTS.d < 800])
    return draw_costs(POINTS, machine.explains(POINTS), [100, 200, 400])


def budget() -> Figure:
    """A hundred thousand states on eight assumed GPUs."""
    size = Size(100_000, 784, 1_000_000)
    return draw_budget(ASSUMED_GPU.seconds(size, 8), size.memory(8), ASSUMED_GPU.memory,
                             "n = 100,000, m = 1,000,000, 8 devices")


def stream_memory() -> Figure:
    """The digits' teacher: 298 numbers a sample if they are kept, nothing if they are summed."""
    samples = [20_000, 200_000, 1_000_000]
    return draw_stream_memory(samples, [17e6, 23e6, 23e6], [4 * 298 * m for m in samples])


def samples_needed() -> Figure:
    """The digits: as soon as there are about as many samples as features, more add little."""
    table = pd.DataFrame({
        "samples": 2 * [50, 100, 200, 400, 800, 1400], "lam": 6 * [0.01] + 6 * [1.0],
        "accuracy": [0.904, 0.914, 0.917, 0.912, 0.914, 0.912,
                     0.793, 0.839, 0.856, 0.869, 0.861, 0.864]})
    return draw_samples_needed(table, 0.917, 176)


GALLERY = (stream_memory, samples_needed, costs, budget)
