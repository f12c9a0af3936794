"""Tiny notebooks, whose kernels do not import torch: one that does takes three seconds more."""

from __future__ import annotations

import inspect
from pathlib import Path

import nbformat

from idl_lab.labs.kit import record

PARAMETERS = "seed = 0\nkappa = 0.9\nname = 'relu'\nrank = None\nsizes = [\n    1,\n    2,\n]"
# The file itself, not the package, which imports torch.
RECORD = f"import runpy\nrecord = runpy.run_path({inspect.getfile(record)!r})['record']\n"


def write(folder: Path, name: str, *cells: str | tuple[str, str], parameters: str = "") -> Path:
    """Write a notebook without any kernel metadata: a text cell, parameters, code cells.

    A cell may be a pair, of its source and a tag.
    """
    first = [nbformat.v4.new_markdown_cell(f"# On {name}")]
    if parameters:
        cells = ((parameters, "parameters"), *cells)
    path = folder / f"{name}.ipynb"
    pairs = [cell if isinstance(cell, tuple) else (cell, None) for cell in cells]
    code = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag]} if tag else {})
            for source, tag in pairs]
    nbformat.write(nbformat.v4.new_notebook(cells=first + code), path)
    return path
