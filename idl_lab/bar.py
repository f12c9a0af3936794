"""The bar that training and SIM show while they work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from idl_lab import extras

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(iterable: Iterable | None = None, *, progress: bool = True, **options: Any
                 ) -> tqdm:
    """A tqdm bar that is gone when its work is done: in a notebook or on a terminal, in no log.

    Parameters
    ----------
    iterable : iterable, optional
        What is gone through; without one the caller moves the bar.
    progress : bool
        False shows nothing anywhere.
    **options
        As for tqdm.
    """
    bar = extras.need("tqdm.auto", "train").tqdm
    # In a notebook stdout is never a terminal, so tqdm's own test (disable=None) would hide it.
    in_notebook = any("notebook" in base.__module__ for base in bar.__mro__)
    quiet = (False if in_notebook else None) if progress else True
    return bar(iterable, disable=quiet, leave=False, **options)
