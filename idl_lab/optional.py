"""Packages that not every user has."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str) -> Any:
    """Import a package that only one of this project's extras installs.

    Parameters
    ----------
    module : str
        What to import, such as ``"sklearn.datasets"``.
    extra : str
        The extra that has it.

    Raises
    ------
    ModuleNotFoundError
        If it is not there; the sentence says what installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and something that it needs itself is not
        raise ModuleNotFoundError(f"this needs {error.name}, which is not installed: "
                                  f"pip install 'idl_lab[{extra}]' brings it.",
                                  name=error.name) from None
