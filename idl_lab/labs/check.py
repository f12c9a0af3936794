"""The exercises of every lab: ``check.<lab>.<exercise>(answer)``."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType


def __getattr__(lab: str) -> ModuleType:
    # A lab's exercises are loaded when they are asked for, so that a new lab needs no entry here.
    name = f"idl_lab.labs.{lab}"
    if lab.startswith("_") or importlib.util.find_spec(name) is None:
        raise AttributeError(f"there is no lab called {lab!r}.")
    return importlib.import_module(f"{name}.exercises")
