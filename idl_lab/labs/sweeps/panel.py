"""The difference panel: two settings, and how many seeds tell them apart."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from idl_lab.labs.kit.panel import Panel, dropdown, slider
from idl_lab.labs.sweeps.plots import draw_difference

NUMBERS = ("test_accuracy", "validation_accuracy", "steps")


def difference_panel(runs: pd.DataFrame, seeds: int = 3) -> Panel:
    """Choose two settings and a number; add seeds, and see when the difference is one.

    Parameters
    ----------
    runs : pandas.DataFrame
        From `many_runs`: at least two settings.
    seeds : int
        Where its slider starts.

    Returns
    -------
    Panel
        Controls: number, one, other, seeds.

    Raises
    ------
    ValueError
        If there are fewer than two settings.
    """
    settings = {f"κ {row.kappa:g}, rank {'none' if pd.isna(row.rank) else row.rank}":
                {"kappa": row.kappa, "rank": row.rank}
                for row in runs[["kappa", "rank"]].drop_duplicates().itertuples()}
    if len(settings) < 2:
        raise ValueError(f"runs must be of two settings at least, got {len(settings)}.")

    def draw(number: str, one: str, other: str, seeds: int, figure: Figure | None) -> Figure:
        return draw_difference(runs, number, settings[one], settings[other], seeds, figure=figure)

    names = tuple(settings)
    controls = {"number": dropdown(NUMBERS[0], NUMBERS, "number"),
                "one": dropdown(names[0], names, "one"),
                "other": dropdown(names[-1], names, "other"),
                "seeds": slider(seeds, 1, int(runs["seed"].nunique()), 1, "seeds")}
    return Panel(draw, controls)
