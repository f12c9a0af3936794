"""Small digits students and pruned networks, and a random teacher that needs its layers."""

from __future__ import annotations

from functools import cache

import pandas as pd
from matplotlib.figure import Figure

from idl_lab.labs.sparsity.plots import draw_samples, draw_sparsity, draw_student
from idl_lab.labs.sparsity.problems import Sparse, Task, digits, random, table
from idl_lab.labs.sparsity.students import Students

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


@cache
def _task() -> Task:
    return digits(0)


def _walks(task: Task) -> dict[str, dict[float, Sparse]]:
    students = Students(task, feedback=False, weigh="uniform")
    return {"ALPS": {at: task.prune("ALPS", at) for at in SPARSITIES},
            "SIM without feedback": {at: students.student(at) for at in SPARSITIES}}


def sparsity() -> Figure:
    """A network of the digits and a random one, pruned by ALPS, and SIM without feedback."""
    return draw_sparsity({name: table(_walks(task)) for name, task in (
        ("digits", _task()), ("random teacher", random(0)))})


def samples() -> Figure:
    """Both at a fifth of the weights, fitted to the first samples of the digits."""
    tables = []
    for count in (50, 100, 200, 400, 1400):
        task = _task().first(count)
        walks = {"ALPS": {0.8: task.prune("ALPS", 0.8)},
                 "SIM without feedback": {0.8: Students(
                     task, feedback=False, weigh="adaptive").student(0.8)}}
        tables.append(table(walks).assign(samples=count))
    return draw_samples(pd.concat(tables))


def student() -> Figure:
    """A student without feedback, of a tenth of its teacher's weights."""
    return draw_student(_task(), _walks(_task()), "SIM without feedback", 0.9)


GALLERY = (sparsity, samples, student)
