"""What a reader has solved, in a small file of the folder that the notebooks run in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from idl_lab.labs.kit.exercise import GRADING

FILE = ".idl_lab_progress.json"
_kept: dict[str, dict[str, Any]] = {}  # in this kernel alone, where no file can be written


def read() -> dict[str, dict[str, Any]]:
    """What is known of each exercise: ``tries`` that were wrong, ``share`` of the points, …"""
    try:
        saved = json.loads(Path(FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or broken: what this kernel knows is left
        saved = {}
    entries = saved.items() if isinstance(saved, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)} | _kept


def note(name: str, **changes: Any) -> None:
    """Keep something of an exercise.

    Parameters
    ----------
    name : str
        ``"<lab>.<exercise>"``.
    **changes : object
        What is to stand there from now on.
    """
    if GRADING in os.environ:  # a folder that is graded stays as it came
        _kept[name] = read().get(name, {}) | changes
        return
    try:
        with FileLock(f"{FILE}.lock", timeout=2):  # two labs may be open at once
            found = read()
            found[name] = found.get(name, {}) | changes
            draft = Path(f"{FILE}.{os.getpid()}")
            draft.write_text(json.dumps(found, indent=1), encoding="utf-8")
            draft.replace(FILE)
    except (OSError, Timeout):  # a folder that is not one's own: a lab must not stop for it
        _kept[name] = read().get(name, {}) | changes
