"""SIM at scale; what a clock or a process has to say is measured anew for each picture."""

from __future__ import annotations

import functools
import warnings

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader

from idl_lab import training
from idl_lab.labs.kit.problems import digits_teacher
from idl_lab.labs.sim_at_scale.machine import ASSUMED_GPU, Size, fit_machine
from idl_lab.labs.sim_at_scale.plots import (
    draw_budget,
    draw_costs,
    draw_samples_needed,
    draw_stream_memory,
)
from idl_lab.labs.sim_at_scale.points import measure_parts
from idl_lab.labs.sim_at_scale.streams import peak_of_states
from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver


@functools.cache
def _taught() -> tuple[nn.Sequential, DataLoader, DataLoader]:
    return digits_teacher(epochs=15)


def costs() -> Figure:
    """Constants from the three smaller sizes; the largest is predicted."""
    known = [50, 100, 200]
    points = measure_parts([*known, 400])
    return draw_costs(points, fit_machine(points[points.d.isin(known)]).explains(points), known)


def budget() -> Figure:
    """A hundred thousand states on eight assumed GPUs."""
    size = Size(100_000, 784, 1_000_000)
    return draw_budget(ASSUMED_GPU.seconds(size, 8), size.memory(8), ASSUMED_GPU.memory,
                       "n = 100,000, m = 1,000,000, 8 devices")


def stream_memory() -> Figure:
    """A teacher of the digits' size: 298 numbers a sample if they are kept, nothing if summed."""
    samples = [10_000, 30_000, 100_000]
    _, peaks = peak_of_states(samples)
    return draw_stream_memory(samples, peaks, [4 * 298 * m for m in samples])


def samples_needed() -> Figure:
    """The digits: as soon as there are about as many samples as features, more add little."""
    teacher, train, test = _taught()
    images = train.dataset.tensors[0]
    order, runs = torch.randperm(len(images), generator=torch.Generator("cpu").manual_seed(0),
                                 device="cpu"), []
    for m in (50, 200, 800):
        for lam in (0.01, 1.0):
            weight = lam * m / len(images)  # the misfit is a sum over samples
            sim = SIM(lambda_z=weight, lambda_y=weight, device="cpu", progress=False)
            with warnings.catch_warnings():  # that a student of 50 samples is poor is what it shows
                warnings.simplefilter("ignore")
                sim.train(ADMMSolver(tol=1e-3, device="cpu", progress=False), teacher,
                          [images[order[:m]]])
            runs.append((m, lam, sim.evaluate(test)))
    table = pd.DataFrame(runs, columns=["samples", "lam", "accuracy"])
    return draw_samples_needed(table, training.evaluate(teacher, test), len(test.dataset), d=176)


GALLERY = (stream_memory, samples_needed, costs, budget)
