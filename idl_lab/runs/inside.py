"""What a run asks its kernel at the end, and of a failure.

The kernel runs this file by its path: it imports no more than the standard library, so that a
notebook without torch ends as quickly as it came.
"""

from __future__ import annotations

import ast
import json
import linecache
import math
import reprlib
import sys
import traceback
from types import FrameType, ModuleType
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def facts() -> str:
    """What only the kernel knows, as JSON: device, gpu, gpu_memory_mb, failure."""
    from IPython import get_ipython

    shell = get_ipython()
    said: dict[str, Any] = {"device": str(shell.user_ns.get("device", "cpu"))}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        said["gpu"] = torch.cuda.get_device_name()
        said["gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    error = getattr(sys, "last_value", None)
    try:
        said["failure"] = error and failure(error, shell.compile)
    except Exception:  # what a failure left behind may be broken itself, after a GPU's fault say
        said["failure"] = None
    return json.dumps(said)


def failure(error: BaseException, cells: Any) -> dict[str, Any] | None:
    """The line of the notebook in which an error arose, and the values of the names in it.

    Parameters
    ----------
    error : BaseException
    cells : IPython's compiler
        Knows which code is a cell.

    Returns
    -------
    dict or None
        cell (as it shows, ``In[7]``), line, source, values; None if no cell is to blame.
    """
    if isinstance(error, SyntaxError) and cells.format_code_name(error.filename):
        _, cell = cells.format_code_name(error.filename)
        return {"cell": cell, "line": error.lineno, "source": (error.text or "").strip(),
                "values": {}}
    places = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)
              if cells.format_code_name(frame.f_code.co_filename)]
    if not places:
        return None
    frame, line = places[-1]
    source, names = statement("".join(linecache.getlines(frame.f_code.co_filename)), line)
    return {"cell": cells.format_code_name(frame.f_code.co_filename)[1], "line": line,
            "source": source, "values": values(names, frame)}


def statement(source: str, line: int) -> tuple[str, list[str]]:
    """The innermost statement on a line, of a block its head alone, and the names that it reads.

    Parameters
    ----------
    source : str
    line : int
        From 1.
    """
    around = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)
              and node.lineno <= line <= (node.end_lineno or line)]
    if not around:
        return "", []
    inner = around[-1]  # ast.walk goes outside in
    body = getattr(inner, "body", None)
    end = max(inner.lineno, body[0].lineno - 1) if body else inner.end_lineno
    names = [node for node in ast.walk(inner) if isinstance(node, ast.Name)
             and isinstance(node.ctx, ast.Load) and node.lineno <= (end or line)]
    names.sort(key=lambda node: (node.lineno, node.col_offset))
    text = " ".join(" ".join(source.splitlines()[inner.lineno - 1:end]).split())
    return text, list(dict.fromkeys(node.id for node in names))


def values(names: list[str], frame: FrameType) -> dict[str, str]:
    """How the names read where the error arose; functions, classes and modules say nothing.

    Parameters
    ----------
    names : list of str
    frame : frame
    """
    there = {**frame.f_globals, **frame.f_locals}
    return {name: readable(there[name]) for name in names
            if name in there and not callable(there[name])
            and not isinstance(there[name], ModuleType)}


def readable(value: Any) -> str:
    """A value in a few words: an array by its shape, unless it is small.

    Parameters
    ----------
    value : object
    """
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and math.prod(shape) > 6:
            return f"{type(value).__name__} {'×'.join(map(str, shape))}"
        return " ".join(_SHORT.repr(value).split())
    except Exception as error:
        return f"<{type(value).__name__}, {type(error).__name__} in its repr>"
