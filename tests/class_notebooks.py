"""A small lab with two exercises, as an instructor's notebook and as students hand it in."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode, v4

LAB = "00_start_here"
PYTHON = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
STEP = "def my_step(A, B, X, U):\n    return torch.relu(X @ A.T + U @ B.T)"
DAMPING = "def my_damping(slope):\n    return 1 / (1 - slope)"
CHECKS = ("check.start_here.picard_step(my_step)", "check.fixed_points.fastest_damping(my_damping)")


def solved(function: str) -> str:
    """A function with the marks around its body."""
    head, body = function.split("\n")
    return f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"


def instructors(*more: str) -> NotebookNode:
    """The notebook with the solutions; more code cells at its end."""
    cells = [v4.new_markdown_cell("# Start here"),
             v4.new_code_cell("import torch\n\nfrom idl_lab.labs import check"),
             v4.new_markdown_cell("**Exercise 1** (derive)."), v4.new_code_cell(solved(STEP)),
             v4.new_code_cell(CHECKS[0]),
             v4.new_markdown_cell("**Exercise 2** (derive)."), v4.new_code_cell(solved(DAMPING)),
             v4.new_code_cell(CHECKS[1]), *map(v4.new_code_cell, more)]
    return v4.new_notebook(cells=cells, metadata=PYTHON)


def write(folder: Path, notebook: NotebookNode, name: str = LAB) -> Path:
    """Write it into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def answered(notebook: NotebookNode, step: str = "", damping: str = "", first: str = ""
             ) -> NotebookNode:
    """A student's copy with answers written into it, and a cell before them."""
    for cell in notebook.cells:
        for answer, start in ((step, "def my_step"), (damping, "def my_damping")):
            if answer and cell.source.startswith(start):
                cell.source = answer
    if first:
        notebook.cells.insert(2, v4.new_code_cell(first))
    return notebook
