"""How a notebook's numbers are kept in its outputs, and the columns that every run's table has."""

from __future__ import annotations

MIME = "application/vnd.idl-lab.numbers+json"
# Of every run's table, before the parameters and the numbers.
COLUMNS = ("notebook", "status", "error", "seconds", "device", "peak_memory_mb", "started", "host",
           "version", "commit", "python", "torch", "numpy", "scipy", "scikit-learn", "source",
           "path")
Number = bool | int | float | str


def readable(value: Number) -> str:
    """Write a recorded value for a reader: six digits of a float, the rest as it is.

    Parameters
    ----------
    value : bool, int, float or str
    """
    return f"{value:.6g}" if isinstance(value, float) else str(value)
