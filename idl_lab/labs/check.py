"""The exercises of every lab: ``check.<lab>.<exercise>(answer)``."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType


def __dir__() -> list[str]:
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/exercises.py"))


def __getattr__(lab: str) -> ModuleType:
    # A lab's exercises are loaded when they are asked for, so that a new lab needs no entry here.
    if lab not in __dir__():
        raise AttributeError(f"there is no lab with exercises called {lab!r}; there is "
                             f"{', '.join(__dir__())}.")
    return importlib.import_module(f"idl_lab.labs.{lab}.exercises")
