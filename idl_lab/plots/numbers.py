"""What the drawing functions ask of the numbers they are given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from idl_lab.solution import Solution


def array(name: str, values: Tensor | np.ndarray, axes: int) -> np.ndarray:
    """The numbers as a float array with that many axes; a diverged solve may bring NaN."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != axes or array.size == 0:
        raise ValueError(f"{name} must have {axes} axes, got shape {array.shape}.")
    return array.astype(float)


def check_solutions(solutions: Mapping[str, Solution], states: bool = False) -> None:
    """Check a mapping of names to solutions, with their states where these are drawn."""
    if not isinstance(solutions, Mapping):
        raise TypeError(f"solutions must be a mapping of names to Solutions, got "
                        f"{type(solutions).__name__}.")
    if not solutions:
        raise ValueError("solutions must hold at least one Solution, got none.")
    for name, solution in solutions.items():
        if not isinstance(solution, Solution):
            raise TypeError(f"{name!r} must be a Solution, got {type(solution).__name__}.")
        if states and solution.trace.states is None:
            raise ValueError(f"{name!r} has no states to draw: solve with keep_states=True.")
