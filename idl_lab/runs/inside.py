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
        said["failure"] = error and failure(error, shell)
    except Exception:  # what a failure left behind may be broken itself, after a GPU's fault say
        said["failure"] = None
    return json.dumps(said)


def failure(error: BaseException, shell: Any) -> dict[str, Any] | None:
    """The line of the notebook in which an error arose, and the values of the names in it.

    Parameters
    ----------
    error : BaseException
    shell : IPython's
        Knows which code is a cell, and how it was typed.

    Returns
    -------
    dict or None
        cell (its number, as in ``In [7]``), line, source, values, and for a syntax error message;
        None if no cell is to blame.
    """
    def cell(file: str | None) -> int | None:
        name = shell.compile.format_code_name(file)  # ("Cell", "In[7]")
        return int(name[1][3:-1]) if name else None

    if isinstance(error, SyntaxError) and cell(error.filename):
        return {"cell": cell(error.filename), "line": error.lineno, "message": error.msg,
                "source": (error.text or "").strip(), "values": {}}
    places = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)
              if cell(frame.f_code.co_filename)]
    if not places:
        return None
    frame, line = places[-1]
    number = cell(frame.f_code.co_filename)
    code = linecache.getlines(frame.f_code.co_filename)
    first, last, names = statement("".join(code), line)
    typed = shell.history_manager.input_hist_raw[number].splitlines()  # a magic as it was written
    lines = typed if len(typed) == len(code) else code
    return {"cell": number, "line": line, "values": values(names, frame),
            "source": " ".join(" ".join(lines[first - 1:last]).split())}


def statement(source: str, line: int) -> tuple[int, int, list[str]]:
    """The innermost statement on a line, of a block its head alone, and the names that it reads.

    Parameters
    ----------
    source : str
    line : int
        From 1.

    Returns
    -------
    int, int, list of str
        Its first and its last line, and the names in their order.
    """
    inner = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)
             and node.lineno <= line <= (node.end_lineno or line)][-1]  # the walk goes inwards
    body = getattr(inner, "body", None)
    last = max(inner.lineno, body[0].lineno - 1) if body else inner.end_lineno or line
    names = [node for node in ast.walk(inner) if isinstance(node, ast.Name)
             and isinstance(node.ctx, ast.Load) and node.lineno <= last]
    names.sort(key=lambda node: (node.lineno, node.col_offset))
    return inner.lineno, last, list(dict.fromkeys(node.id for node in names))


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
