"""Six settings with eight seeds each, on the digits."""

from __future__ import annotations

import functools

import pandas as pd
from matplotlib.figure import Figure

from idl_lab.labs.sweeps import problems
from idl_lab.labs.sweeps.plots import draw_best_of, draw_difference, draw_runs


@functools.cache
def _runs() -> pd.DataFrame:
    return problems.many_runs({"kappa": (0.5, 0.9, 0.99), "rank": (1, None)}, range(8))


def runs() -> Figure:
    """The steps of the solver against κ, for two ranks."""
    return draw_runs(_runs(), "steps", "kappa", by=["rank"])


def difference() -> Figure:
    """Two settings whose accuracies eight seeds cannot tell apart."""
    return draw_difference(_runs(), "test_accuracy", {"kappa": 0.5, "rank": None},
                           {"kappa": 0.99, "rank": None}, 5)


def best_of() -> Figure:
    """The best of 48 runs: what it was chosen by, and what it is."""
    table = _runs()
    found = problems.best_of(table["validation_accuracy"], table["test_accuracy"])
    return draw_best_of(found, table["test_accuracy"].mean())


GALLERY = (runs, difference, best_of)
