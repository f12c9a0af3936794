"""A notebook's numbers, kept as structured output so that a run's report can tabulate them."""

from __future__ import annotations

import math
from typing import Any

from idl_lab.records import COLUMNS, MIME, Number, readable


def record(**numbers: Any) -> None:
    """Show named numbers below a notebook's cell and keep them in its output.

    Parameters
    ----------
    **numbers
        Whole and real numbers (NaN and infinity too), truth values, short texts, or scalars
        of torch or numpy.

    Raises
    ------
    TypeError
        For anything else; the sentence names it.
    ValueError
        For a name that a run's table uses itself.
    """
    taken = sorted(set(numbers) & set(COLUMNS))
    if taken:
        raise ValueError(f"{', '.join(taken)} is a column of a run's table already; record the "
                         f"number under another name.")
    from IPython.display import display

    display(_Numbers({name: _plain(name, value) for name, value in numbers.items()}))


class _Numbers:
    """Displayed: one `name = value` line each to read, one bundle for `recorded`."""

    def __init__(self, numbers: dict[str, Number]) -> None:
        self.numbers = numbers

    def __repr__(self) -> str:
        return "\n".join(f"{name} = {readable(value)}" for name, value in self.numbers.items())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # Pairs, because a saved notebook sorts the keys of an object; and JSON has no NaN and
        # no infinity, so these travel as {"float": "nan"}.
        pairs = [[name, {"float": str(value)} if _not_json(value) else value]
                 for name, value in self.numbers.items()]
        return {"text/plain": repr(self), MIME: {"numbers": pairs}}


def _not_json(value: Number) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _plain(name: str, value: Any) -> Number:
    scalar = value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        scalar = value.item()
    for kind in (bool, int, float, str):
        if isinstance(scalar, kind):
            return kind(scalar)
    raise TypeError(f"record({name}=...) wants an int, float, bool, str or a scalar of torch or "
                    f"numpy, got {type(value).__name__}: {_short(value)}.")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
