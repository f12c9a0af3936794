"""A lab's code cells, run in this process."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from idl_lab.labs.sweeps import many_runs


def run_cells(path: Path, given: Mapping[str, Any], optimize: int = 0) -> dict[str, Any]:
    """Run them with the parameters given, and return their names; `optimize` asserts nothing."""
    names: dict[str, Any] = {"__name__": "__main__"}
    code = (cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    for k, cell in enumerate(code, start=1):
        source = "\n".join(x for x in cell.source.splitlines() if not x.startswith("%"))
        name = f"cell {k} of {path.stem}"  # a traceback shows its lines
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        exec(compile(source, name, "exec", optimize=optimize), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= given
    return names


def sweep_here(path: Path, grid: Mapping[str, Any], *, repeat: int, parameters: dict[str, Any],
               **options: Any) -> pd.DataFrame:
    """What lab 10's sweep gives, run in this process: kernels of workers take seconds to start."""
    given = dict(parameters)
    first = given.pop("seed")
    return many_runs(grid, range(first, first + repeat), **given).assign(status="ok")
