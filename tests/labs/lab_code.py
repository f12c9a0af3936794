"""A lab's code cells, run in this process."""

from __future__ import annotations

import linecache
import re
import symtable
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


def answers(path: Path, stub: bool = False) -> dict[str, Any]:
    """The answer to each exercise of a lab, from the cells that it needs and no others.

    Parameters
    ----------
    path : Path
    stub : bool
        Whether what stands between the marks is replaced by dots, as it is for students.
    """
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"]
    found, last = {}, 0
    for k, source in enumerate(code):
        if "### BEGIN SOLUTION" in source:
            last = k
        elif asked := re.fullmatch(r"check\.(\w+\.\w+)\((\w+)\)", source.strip()):
            names: dict[str, Any] = {"__name__": "__main__"}
            for cell in _needed(code[:last + 1]):
                if stub:
                    cell = re.sub(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", r"\1...", cell,
                                  flags=re.S | re.M)
                exec(compile(cell, f"answer to {asked[1]}", "exec"), names)
            found[asked[1]] = names[asked[2]]
    return found


def _needed(code: list[str]) -> list[str]:
    """The last cell, and those before it that make what it names."""
    kept, wanted = [], None
    for cell in reversed(code):
        source = re.sub("^[%!].*", "", cell, flags=re.M)
        made, used = _names(symtable.symtable(source, "cell", "exec"))
        if wanted is None or wanted & made:
            wanted = (wanted or set()) - made | used
            kept.append(source)
    return kept[::-1]


def _names(table: symtable.SymbolTable, inside: bool = False) -> tuple[set[str], set[str]]:
    """What a cell makes, and what it takes from elsewhere."""
    symbols = table.get_symbols()
    made = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in symbols if s.is_referenced() and (s.is_global() or not inside)}
    for child in table.get_children():
        used |= _names(child, inside=True)[1]
    return made, used - made


def sweep_here(path: Path, grid: Mapping[str, Any], *, repeat: int, parameters: dict[str, Any],
               **options: Any) -> pd.DataFrame:
    """What lab 10's sweep gives, run in this process: kernels of workers take seconds to start."""
    given = dict(parameters)
    first = given.pop("seed")
    return many_runs(grid, range(first, first + repeat), **given).assign(status="ok")
