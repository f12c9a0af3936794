"""What of this package a reader's answer lets work in its place."""

from __future__ import annotations

import contextlib
import cProfile
import inspect
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, WrapperDescriptorType
from typing import Any

PACKAGE = str(Path(__file__).resolve().parents[2])
# Python's own files and installed packages: what is neither, nor this package, the reader wrote.
INSTALLED = tuple({str(Path(sysconfig.get_path(name)).resolve())
                   for name in ("stdlib", "platstdlib", "purelib", "platlib")})

JUDGE = f"{__name__.partition('.kit.')[0]}.judge"

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
    """The name of the package's own function or class that an answer is or hands on; else "".

    Where nothing of the reader's stands between the checker and the package, no call tells whose
    work it is: what is wrapped or inherited is looked for here.

    Parameters
    ----------
    answer : object
    uses : sequence of str
        Modules of the package that an answer may use.
    """
    try:
        if isinstance(answer, type):
            forms = [getattr(answer, name) for base in answer.__mro__
                     for name in getattr(base, "__abstractmethods__", ())]
            # A base with abstract methods is a form to be filled in: who filled it in counts.
            inside = [answer, *(map(_innermost, forms) if forms else answer.__mro__)]
        else:
            inside = [_innermost(answer)]
        return next((thing.__qualname__ for thing in inside if _ours(_file(thing), uses)), "")
    except Exception:  # the reader's own __getattr__, say
        return ""


def _file(thing: Any) -> str:
    """Where a class or function was written, as far as is known."""
    if isinstance(thing, type):
        return getattr(sys.modules[thing.__module__], "__file__", None) or ""
    return thing.__code__.co_filename if inspect.isfunction(thing) else ""


def _innermost(answer: Any) -> Any:
    """The function that a partial, a bound method, a decorated one or a callable object calls."""
    for _ in range(9):  # an object may name itself
        inside = [(answer, "__wrapped__"), (answer, "func"), (answer, "__func__")]
        # The judge's stand-in for an answer says by itself what that one borrows.
        if not inspect.isfunction(answer) and type(answer).__module__ != JUDGE:
            inside.append((type(answer), "__call__"))
        found = next(filter(callable, (getattr(of, name, None) for of, name in inside)), None)
        if found is None or isinstance(found, WrapperDescriptorType):
            break
        answer = found
    return answer


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
        if isinstance(before[0], cProfile.Profile):
            sys.setprofile(None)
            before[0].enable()  # under %prun on Python 3.11, where it is no function to hand back
        else:
            sys.setprofile(before[0])
        threading.setprofile(before[1])
