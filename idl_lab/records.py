"""Where the series is; what a run keeps in a notebook, numbers and pictures; its columns."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

MIME = "application/vnd.idl-lab.numbers+json"
# Of every run's table, before the parameters and the numbers.
COLUMNS = ("notebook", "status", "error", "seconds", "device", "peak_memory_mb", "started", "host",
           "version", "commit", "python", "torch", "numpy", "scipy", "scikit-learn", "source",
           "path")
PICTURES = "IDL_LAB_PICTURES"  # in the environment of a kernel: how many `filmed` asks for
Number = bool | int | float | str


def shipped() -> Path:
    """The notebooks as they came: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def readable(value: Number) -> str:
    """Write a recorded value for a reader: six digits of a float, the rest as it is.

    Parameters
    ----------
    value : bool, int, float or str
    """
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def filmed(pictures: int = 10) -> Iterator[None]:
    """Kernels that are started meanwhile keep so many pictures of each panel that they show.

    The environment's own ``IDL_LAB_PICTURES`` goes before; 0 there means none.

    Parameters
    ----------
    pictures : int
        Some 50 ms and 20 KB each.
    """
    if PICTURES in os.environ:
        yield
        return
    os.environ[PICTURES] = str(pictures)
    try:
        yield
    finally:
        del os.environ[PICTURES]
