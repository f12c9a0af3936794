"""The grid of a sweep: how it is written, the runs it makes, what their files are called."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from idl_lab.runs import series
from idl_lab.runs.parameters import check


def plan(lab: series.Lab, grid: Mapping[str, Sequence[Any]], repeat: int = 1,
         parameters: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The runs of a sweep: the name of each one's file, and the parameters that it is given.

    Parameters
    ----------
    lab : Lab
    grid : mapping of str to sequence
    repeat : int
    parameters : mapping, optional
        As for `sweep`.

    Raises
    ------
    ValueError
        With one sentence, where the grid is not one.
    """
    parameters, grid = dict(parameters or {}), {name: list(grid[name]) for name in grid}
    if repeat < 1:
        raise ValueError(f"every combination is run at least once, got repeat={repeat}.")
    if not grid and repeat == 1:
        raise ValueError("there is nothing to sweep: a grid is wanted, such as kappa=0.5,0.9.")
    for name, values in grid.items():
        if name in parameters:
            raise ValueError(f"parameter {name!r} has a grid and a value as well: give one.")
        if not values:
            raise ValueError(f"the grid of {name!r} has no values; such as kappa=0.5,0.9 is one.")
        for k, value in enumerate(values):
            check({lab.name: lab.parameters}, parameters | {name: value})
            if any(type(value) is type(other) and value == other or
                   {type(value), type(other)} == {int, float} and value == other
                   for other in values[:k]):
                raise ValueError(f"{name}={spelled(value)} stands in the grid twice.")
    if "seed" in lab.parameters and "seed" not in grid:
        first = parameters.get("seed", lab.parameters["seed"].default)
        grid["seed"] = [first + k for k in range(repeat)]
        check({lab.name: lab.parameters}, parameters | {"seed": grid["seed"][-1]})
    elif repeat > 1:
        raise ValueError("the grid has seeds of its own: leave out the repeats." if "seed" in grid
                         else f"{lab.name} has no parameter 'seed' to repeat it with.")
    points = [parameters | dict(zip(grid, point, strict=True))
              for point in itertools.product(*grid.values())]
    return {stem(lab.name, point): point for point in points}


def read_grid(given: Sequence[str]) -> dict[str, list[Any]]:
    """The grid that the command line gives: ``kappa=0.5,0.9``, ``rank=1,5,none``.

    Parameters
    ----------
    given : sequence of str

    Raises
    ------
    ValueError
        With one sentence, where it cannot be read.
    """
    grid: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = (part.strip() for part in text.partition("="))
        found: list[str] = []
        for piece in values.split(","):
            if found and not _whole(found[-1]):  # a comma of a list or of a text
                found[-1] += f",{piece}"
            else:
                found.append(piece)
        if not name or not equals or not all(value.strip() for value in found):
            raise ValueError(f"--grid {text!r} is no grid: write a parameter and its values, such "
                             f"as kappa=0.5,0.9 or rank=1,5,none.")
        if name in grid:
            raise ValueError(f"parameter {name!r} has two grids: write all its values in one.")
        grid[name] = [_value(value.strip()) for value in found]
    return grid


def _whole(text: str) -> bool:
    return (text.count("[") == text.count("]") and text.count("(") == text.count(")")
            and text.count("'") % 2 == text.count('"') % 2 == 0)


def _value(text: str) -> Any:
    """A value of the command line: as Python writes it, and none, true, false."""
    return {"none": None, "true": True, "false": False}.get(text.lower(), series.value(text))


def spelled(value: Any) -> str:
    """A value as one writes it on the command line: none, true, 0.5, relu.

    Parameters
    ----------
    value : object
    """
    return value if isinstance(value, str) else (
        str(value).lower() if value is None or isinstance(value, bool) else repr(value))


def stem(lab: str, parameters: Mapping[str, Any]) -> str:
    """The name of a run's file: ``05_training,kappa=0.5,rank=none,seed=0``.

    Where the values cannot all be read from it, a few letters tell it from others: so of signs
    that a file's name may not have, capitals that some systems take for small letters, a text
    that reads like a number, and of too many values for a name.

    Parameters
    ----------
    lab : str
    parameters : mapping
    """
    said = {name: re.sub(r"[^\w.+-]", "_", spelled(value)) for name, value in parameters.items()}
    name = ",".join([lab, *(f"{key}={text}" for key, text in said.items())])
    plain = all(text == text.lower() and repr(_value(text)) == repr(parameters[key])
                for key, text in said.items())
    if plain and len(name) <= 150:
        return name
    exact = json.dumps(dict(parameters), default=str)
    return f"{name[:150]},{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
