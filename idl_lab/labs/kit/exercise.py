"""An exercise as data: what is given, what is right, and what the usual slips compute.

In a notebook ``check.<lab>.<exercise>(answer)`` shows a `Verdict`: not attempted, a hint, or right.
Whatever the answer is, a checker does not raise: a cell that fails would stop "Run all".
"""

from __future__ import annotations

import enum
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from idl_lab.labs.kit.problems import generator


class Outcome(enum.Enum):
    """How an answer stands; the value is what the reader sees."""

    NOT_ATTEMPTED = "Not attempted yet"
    HINT = "Not yet"
    RIGHT = "Right"


_COLOURS = {Outcome.NOT_ATTEMPTED: "#777777", Outcome.HINT: "#D55E00", Outcome.RIGHT: "#009E73"}


@dataclass(frozen=True)
class Verdict:
    """An outcome and a sentence that helps on.

    Parameters
    ----------
    outcome : Outcome
    sentence : str
        What the reader is told beside the outcome: a hint, or praise.
    """

    outcome: Outcome
    sentence: str

    @property
    def right(self) -> bool:
        """Whether the exercise is solved."""
        return self.outcome is Outcome.RIGHT

    def __repr__(self) -> str:
        return f"{self.outcome.value}. {self.sentence}"

    def _repr_html_(self) -> str:
        return (f"<div style='border-left:4px solid {_COLOURS[self.outcome]};padding-left:8px'>"
                f"<b>{self.outcome.value}.</b> {html.escape(self.sentence)}</div>")


def hint(sentence: str) -> Verdict:
    """The verdict on an answer that is not right yet; ``sentence`` is what helps on."""
    return Verdict(Outcome.HINT, sentence)


def _untouched(what: str) -> Verdict:
    return Verdict(Outcome.NOT_ATTEMPTED, f"Replace the ... by {what} and run this cell again.")


@dataclass(frozen=True)
class Exercise:
    """A function to be written; called with an answer, it compares the two on drawn inputs.

    The draws are those of seed 0 in every call, so that a verdict can be repeated; they are several
    and unlike the notebook's numbers, so that an answer copied from there is not right.

    Parameters
    ----------
    inputs : callable
        Draws the arguments from a `torch.Generator`: a tuple.
    right : callable
        What the reader's function should compute: a tensor or a number.
    what : str
        What takes the place of the ``...``.
    hint : str
        What is said to an answer that no slip explains.
    praise : str
        What is said to a right one.
    slips : mapping of str to callable
        A sentence for the reader, and the wrong function that it belongs to.
    shape : str
        What is said of the answer's shape where it is another.
    draws : int
        Inputs tried; two at least, so that no constant is right.
    """

    inputs: Callable[[torch.Generator], tuple]
    right: Callable[..., Tensor | float]
    what: str
    hint: str
    praise: str
    slips: Mapping[str, Callable[..., Tensor | float]] = field(default_factory=dict)
    shape: str = ""
    draws: int = 3

    def __call__(self, answer: Callable[..., Tensor | float]) -> Verdict:
        """Look at the reader's function."""
        if answer is ...:
            return _untouched(self.what)
        if not callable(answer):
            return hint(f"A function is wanted, yours is {_shown(answer)}.")
        draws, given = generator(), []
        inputs = [self.inputs(draws) for _ in range(self.draws)]
        for arguments in inputs:
            wanted = torch.as_tensor(self.right(*_copies(arguments)))
            try:
                value = answer(*_copies(arguments))
                if value is ... or value is None:
                    return _untouched(self.what)
                tensor = torch.as_tensor(value).detach().to_dense()
                number = tensor.to(wanted)
            except Exception as error:  # the reader's own code: say what it said
                return hint(f"Your function raised {_said(error)}")
            if number.shape != wanted.shape or tensor.is_complex():
                return hint(f"{self.shape or f'The shape {tuple(wanted.shape)} is wanted'}, yours "
                            f"is {_shown(value)}.")
            given.append(number)

        def is_(function: Callable[..., Tensor | float]) -> bool:
            return all(_close(value, function(*_copies(arguments)))
                       for value, arguments in zip(given, inputs, strict=True))

        if is_(self.right):
            return Verdict(Outcome.RIGHT, self.praise)
        return hint(next((said for said, slip in self.slips.items() if is_(slip)), self.hint))


@dataclass(frozen=True)
class Example:
    """Something to be found; called with an answer, it says the first condition that fails.

    Parameters
    ----------
    look : callable
        Turns the answer (and what else the notebook passes) into what the conditions judge; what
        it raises is shown to the reader.
    conditions : sequence of (callable, str)
        A condition, and what is said where it is not met: a format string, ``{0}`` is what
        `look` gave.
    what, praise : str
        As for `Exercise`; ``praise`` is a format string too.
    right : object
        An answer that is right, for the tests.
    slips : mapping of str to object
        Part of a sentence, and a wrong answer that gets it, for the tests.
    options : mapping of str to object
        What `look` is given beside the answer, for the tests.
    """

    look: Callable[..., Any]
    conditions: Sequence[tuple[Callable[[Any], bool], str]]
    what: str
    praise: str
    right: Any
    slips: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, answer: Any, *others: Any, **options: Any) -> Verdict:
        """Look at the reader's answer."""
        if answer is ...:
            return _untouched(self.what)
        try:
            found = self.look(answer, *others, **options)
            for holds, sentence in self.conditions:
                if not holds(found):
                    return hint(sentence.format(found))
            return Verdict(Outcome.RIGHT, self.praise.format(found))
        except Exception as error:  # the reader's own answer: say what was said of it
            return hint(_said(error))


def _copies(arguments: tuple) -> tuple:
    """The arguments anew, so that an answer that overwrites them does not spoil the comparison."""
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)


def _close(value: Tensor, wanted: Tensor | float) -> bool:
    wanted = torch.as_tensor(wanted).to(value)
    return wanted.shape == value.shape and torch.allclose(value, wanted, rtol=1e-5, atol=1e-8)


def _shown(value: Any) -> str:
    text = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else _text(repr, value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {_text(str, error)}"


def _text(of: Callable[[Any], str], value: Any) -> str:
    try:
        return of(value)
    except Exception:  # the reader's own __repr__ or __str__
        return f"a {type(value).__name__} that cannot be shown"
