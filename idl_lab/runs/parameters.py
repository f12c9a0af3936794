"""What a notebook's parameters cell declares: names, types, defaults, meanings and ranges.

A line of the cell reads ``kappa: float = 0.9  # bound of ‖A‖∞, in [0, 1)``. Its comment ends in an
interval, or in ``one of a, b, c``, or in neither; ``or None`` behind it makes None legal.
"""

from __future__ import annotations

import ast
import difflib
import io
import math
import textwrap
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (int, float, bool, str, list, tuple,
                                                           dict)}
# What stands for a value of a type in Python, and so in a notebook: 1 for 1.0, a tuple for a list.
_ALIKE: dict[type, tuple[type, ...]] = {float: (int, float), list: (list, tuple),
                                        tuple: (list, tuple)}
_SPELLED = {"true": "True", "false": "False", "none": "None"}


class Expression(str):
    """The source of a default that is no literal: its value shows only when the cell runs."""

    __slots__ = ()


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`; a round bracket leaves the end out.

    Parameters
    ----------
    low, high : float
        The ends, which may be infinite.
    brackets : str
        How the ends are written, as in ``[)``.
    """

    low: float
    high: float
    brackets: str = "[]"

    def __contains__(self, given: Any) -> bool:
        return bool((self.low < given or given == self.low and self.brackets[0] == "[")
                    and (given < self.high or given == self.high and self.brackets[1] == "]"))

    def __str__(self) -> str:
        low, high = (str(end).replace("inf", "∞") for end in (self.low, self.high))
        return f"in {self.brackets[0]}{low}, {high}{self.brackets[1]}"


@dataclass(frozen=True)
class Choice:
    """One of a few values.

    Parameters
    ----------
    values : tuple
        These.
    """

    values: tuple[Any, ...]

    def __contains__(self, given: Any) -> bool:
        return given in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook.

    Parameters
    ----------
    name : str
        Of the variable.
    kind : type, optional
        Of its values; None where neither annotation nor default tells it.
    default : object
        Its value in the cell, an `Expression` where that is no literal.
    meaning : str
        What it is, in a few words.
    allowed : Interval or Choice, optional
        The legal values; all of the kind without.
    optional : bool
        Whether None is legal too.
    """

    name: str
    kind: type | None
    default: Any
    meaning: str = ""
    allowed: Interval | Choice | None = None
    optional: bool = False

    @property
    def wanted(self) -> str:
        """The legal values in words, as in ``float in [0, 1) or None``."""
        kind = self.kind.__name__ if self.kind else "anything"
        like = f"{kind} {self.allowed}" if self.allowed else f"{kind} like {self.default!r}"
        return like + " or None" * self.optional

    def check(self, given: Any, where: str) -> None:
        """Make sure that a value is legal.

        Parameters
        ----------
        given : object
            The value.
        where : str
            The notebook's name, for the sentence.

        Raises
        ------
        ValueError
            With what was given and what is wanted.
        """
        if self.kind is None or (given is None and self.optional):
            return
        right = type(given) in _ALIKE.get(self.kind, (self.kind,))
        if right and (self.allowed is None or given in self.allowed) and _finite(given, self):
            return
        spelled = _SPELLED.get(str(given).lower())
        hint = f" (Python spells it {spelled})" if spelled and spelled != str(given) else ""
        if self.kind is int and type(given) is float and given.is_integer():
            hint = f" (write {int(given)})"
        raise ValueError(f"parameter {self.name!r} of {where} wants {self.wanted}, got "
                         f"{type(given).__name__} {given!r}{hint}.")


def _finite(given: Any, parameter: Parameter) -> bool:
    """NaN and the infinities are legal only where an interval holds them."""
    return parameter.allowed is not None or type(given) is not float or math.isfinite(given)


def read(source: str) -> dict[str, Parameter]:
    """The parameters that a cell assigns, by name.

    A cell need not declare anything: the kind is then its default's, and every value of it legal.

    Parameters
    ----------
    source : str
        The cell's Python.

    Raises
    ------
    SyntaxError
        If it is no Python.
    ValueError
        If an interval is none, or a default is outside of what its own line allows.
    """
    found = {}
    comments = {token.start[0]: token.string.lstrip("# ").strip()
                for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
                comment = comments.get(node.end_lineno or node.lineno, "")
                found[target.id] = _parameter(target.id, annotation, node.value, comment)
    return found


def _parameter(name: str, annotation: ast.expr | None, value: ast.expr, comment: str) -> Parameter:
    try:
        default: Any = ast.literal_eval(value)
    except ValueError:
        default = Expression(ast.unparse(value))
    words = ast.unparse(annotation).strip("'").split(" | ") if annotation else []
    kinds = [_KINDS.get(word.split("[")[0]) for word in words if word != "None"]
    if not words and default is not None and not isinstance(default, Expression):
        kinds = [type(default)]
    kind = kinds[0] if len(kinds) == 1 else None
    text, optional = comment.removesuffix(" or None"), comment.endswith(" or None")
    meaning, allowed = _allowed(name, text, kind)
    parameter = Parameter(name, kind, default, meaning, allowed,
                          optional or "None" in words or default is None)
    if allowed is not None and not isinstance(default, Expression):
        parameter.check(default, "the parameters cell")
    return parameter


def _allowed(name: str, comment: str, kind: type | None) -> tuple[str, Interval | Choice | None]:
    """Part a comment in the meaning and the values that it allows."""
    meaning, _, end = f", {comment}".rpartition(", in ")
    if kind in (int, float) and meaning and end[:1] + end[-1:] in ("[]", "[)", "(]", "()"):
        ends = end[1:-1].replace("∞", "inf").replace("−", "-").split(",")
        try:
            low, high = (float(x) if "inf" in x else ast.literal_eval(x.strip()) for x in ends)
            interval = Interval(low, high, end[0] + end[-1])
            if not low < high and not (low == high and interval.brackets == "[]"):
                raise ValueError
        except (ValueError, SyntaxError, TypeError):
            if len(ends) > 1:  # else it is prose, "in (s)" say
                raise ValueError(f"the range of parameter {name!r} is an interval like [0, 1) or "
                                 f"[1, ∞), got {end!r}") from None
        else:
            return meaning.removeprefix(", "), interval
    meaning, _, end = f", {comment}".rpartition(", one of ")
    if meaning:
        texts = [text.strip() for text in end.split(",")]
        choice = Choice(tuple(texts if kind is str else map(value, texts)))
        return meaning.removeprefix(", "), choice
    return comment, None


def value(text: str) -> Any:
    """Read a parameter's value as Python writes it; anything that is no literal is a text."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def check(declared: Mapping[str, Mapping[str, Parameter]], given: Mapping[str, Any]) -> None:
    """Make sure that every value has a notebook that knows it, and is legal in all that do.

    Parameters
    ----------
    declared : mapping of str to mapping of str to Parameter
        The notebooks' parameters by the notebooks' names.
    given : mapping of str to object
        Names and the values to be given.

    Raises
    ------
    ValueError
        With one sentence that says what was given and what is wanted.
    """
    for name, value in given.items():
        having = [lab for lab, parameters in declared.items() if name in parameters]
        if not having:
            known = sorted({known for parameters in declared.values() for known in parameters})
            raise ValueError(f"no parameter {name!r} in {', '.join(declared)}; "
                             f"{nearest(name, known)}there is {', '.join(known) or 'none'}.")
        for lab in having:
            declared[lab][name].check(value, lab)


def nearest(name: str, known: Sequence[str]) -> str:
    """``did you mean 'kappa'? `` for a name that is nearly a known one, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}? " if close else ""


def table(parameters: Iterable[Parameter], width: int = 80) -> str:
    """One line a parameter, in columns: name, type, default, meaning with the legal values.

    Parameters
    ----------
    parameters : iterable of Parameter
    width : int
        Longer lines are broken under their last column.
    """
    rows = [(p.name, p.kind.__name__ if p.kind else "", _shown(p.default),
             ", ".join(str(part) for part in (p.meaning, p.allowed) if part)
             + " or None" * (p.optional and p.allowed is not None)) for p in parameters]
    wide = [max((len(row[k]) for row in rows), default=0) for k in range(3)]
    lines = []
    for *cells, last in rows:
        start = "    " + "".join(cell.ljust(w + 2) for cell, w in zip(cells, wide, strict=True))
        room = max(width - len(start), 20)
        lines += [textwrap.fill(last, room + len(start), initial_indent=start,
                                subsequent_indent=" " * len(start)) if last else start.rstrip()]
    return "\n".join(lines)


def _shown(default: Any) -> str:
    text = str(default) if isinstance(default, Expression) else repr(default)
    return text if len(text) <= 20 else f"{text[:17]}..."
