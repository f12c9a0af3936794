"""SIM beside layer-wise reconstruction: as many weights, the same teachers and states.

The sparsity is the share of the teacher's own weights that are gone. A student of SIM has as many
non-zeros in A, B, C and D, wherever they are; biases are not counted, and not pruned. Students
and methods are those of lab 11.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pandas as pd

from idl_lab.labs.sparsity.problems import GLOBAL, Task, digits, random, table
from idl_lab.labs.sparsity.students import Students

SPARSITIES = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2, 3, 4)
HIDDEN = (32, 16)
TASKS: dict[str, Callable[[int], Task]] = {
    "digits": functools.partial(digits, hidden=HIDDEN),
    "noisy digits": functools.partial(digits, hidden=HIDDEN, noise=0.3),
    "random teacher": random,
    "random teacher, correlated": functools.partial(random, correlation=0.95)}
PRUNED = ((GLOBAL, ""), (GLOBAL, "refitted"), ("magnitude", ""), ("magnitude", "refitted"),
          ("magnitude", "refitted through"), ("OBC", ""), ("OBC", "refitted through"),
          ("ALPS", ""), ("ALPS", "refitted through"))
PAPER, ORDERED, ADAPTIVE = "SIM", "SIM without feedback", "SIM without feedback, adaptive"
STUDENTS = {PAPER: {"weigh": "uniform"}, "SIM, adaptive": {"weigh": "adaptive"},
            ORDERED: {"weigh": "uniform", "feedback": False},
            ADAPTIVE: {"weigh": "adaptive", "feedback": False}}


def compare(task: Task, sparsities: Sequence[float] = SPARSITIES) -> pd.DataFrame:
    """What each method is worth at each sparsity, as `table` has it.

    Parameters
    ----------
    task : Task
    sparsities : sequence of float
    """
    walks = {f"{method}, {then}" if then else method: {
        sparsity: task.prune(method, sparsity, then) for sparsity in sparsities}
        for method, then in PRUNED}
    for name, options in STUDENTS.items():
        students = Students(task, **options)
        ways = ["", "refitted"] if name == PAPER else ["refitted"]
        for then in ways + ["refitted through"] * ("feedback" in options):
            walks[f"{name}, {then}" if then else name] = {
                sparsity: students.student(sparsity, then) for sparsity in sparsities}
    return table(walks)
