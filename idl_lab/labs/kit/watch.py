"""What of this package a reader's answer lets work in its place."""

from __future__ import annotations

import contextlib
import functools
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = str(Path(__file__).resolve().parents[2])
# Python's own files and installed packages: what is neither, nor this package, the reader wrote.
INSTALLED = tuple({str(Path(sysconfig.get_path(name)).resolve())
                   for name in ("stdlib", "platstdlib", "purelib", "platlib")})

# Something that is made, looked up or shown does no work.
IDLE = {"__init__", "__post_init__", "__new__", "__getattr__", "__dir__", "__repr__", "<module>"}


def _ours(file: str, uses: Sequence[str]) -> bool:
    """Whether a file is this package's, and not of what an answer may use."""
    if not file.startswith(PACKAGE):
        return False
    parts = Path(file).relative_to(PACKAGE).with_suffix("").parts
    name = ".".join([Path(PACKAGE).name, *parts])
    return not any(f"{name}.".startswith(f"{allowed}.") for allowed in uses)


def _readers(frame: FrameType) -> bool:
    code, module = frame.f_code, str(frame.f_globals.get("__name__"))
    written = code.co_filename == "<string>" and module.startswith(__name__.partition(".")[0])
    return not written and not code.co_filename.startswith((PACKAGE, "<frozen", *INSTALLED))


def lent(answer: Any, uses: Sequence[str] = ()) -> str:
    """The name of the function or class that an answer is, if the package's own; else "".

    Parameters
    ----------
    answer : object
    uses : sequence of str
        Modules of the package that an answer may use.
    """
    while isinstance(answer, functools.partial):
        answer = answer.func
    if isinstance(answer, type):
        file = getattr(sys.modules.get(answer.__module__), "__file__", None) or ""
    else:
        answer = getattr(answer, "__func__", answer)
        file = getattr(getattr(answer, "__code__", None), "co_filename", "")
    return answer.__qualname__ if _ours(file, uses) else ""


@contextlib.contextmanager
def watched(uses: Sequence[str] = ()) -> Iterator[list[str]]:
    """Notes which functions of the package the reader's code calls, in a list that it gives.

    They are seen call by call, in this thread and those that it starts: a look at the source would
    miss what is called through another name, and patched functions would fail a panel that works
    behind it.

    Parameters
    ----------
    uses : sequence of str
        Modules of the package that an answer may use.
    """
    found: list[str] = []
    stop = sys._getframe(2).f_code  # whoever watches: what is above it is the notebook itself

    def see(frame: FrameType, event: str, called: object) -> None:
        code = frame.f_code
        if event == "c_call" and called is sys.setprofile and _readers(frame):
            found.append("sys.setprofile")  # after which nothing would be seen
        if event != "call" or found or code.co_name in IDLE or not _ours(code.co_filename, uses):
            return
        above = frame.f_back
        # What an allowed function calls in its turn is its own affair.
        while above is not None and above.f_code is not stop and not _ours(
                above.f_code.co_filename, ()):
            if _readers(above):
                found.append(code.co_qualname)
                return
            above = above.f_back

    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(see)
    sys.setprofile(see)
    try:
        yield found
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])
