"""An exercise as data: what is given, what is right, and what the usual slips compute.

In a notebook ``check.<lab>.<exercise>(answer)`` shows a `Verdict`: not attempted, a hint, or right.
Whatever the answer is, an exercise does not raise: a cell that fails would stop "Run all".
"""

from __future__ import annotations

import enum
import html
import os
import re
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
    NO_GUESS = "No guess yet"
    GUESSED = "Your guess"
    RIGHT = "Right"


class Level(enum.Enum):
    """How hard an exercise is; the value is what the reader sees."""

    WARM_UP = "warm-up"
    DERIVE = "derive"
    EXPERIMENT = "experiment"
    STRETCH = "stretch"

    @property
    def points(self) -> int:
        """What a right answer earns."""
        return {Level.WARM_UP: 1, Level.STRETCH: 3}.get(self, 2)


_COLOURS = {Outcome.NOT_ATTEMPTED: "#777777", Outcome.HINT: "#D55E00",
            Outcome.NO_GUESS: "#777777", Outcome.GUESSED: "#0072B2", Outcome.RIGHT: "#009E73"}
GRADING = "NBGRADER_EXECUTION"  # nbgrader sets it in the kernels that it starts


@dataclass(frozen=True)
class Verdict:
    """An outcome and a sentence that helps on.

    nbgrader reads the points of a cell off what it shows, as a number; in a kernel that it started
    the text of a verdict is therefore its points.

    Parameters
    ----------
    outcome : Outcome
    sentence : str
        What the reader is told beside the outcome: a hint, or praise.
    share : float
        Of the points, in [0, 1].
    of : int
        The points of the exercise; 0 where none are given.
    """

    outcome: Outcome
    sentence: str
    share: float = 0.0
    of: int = 0

    @property
    def right(self) -> bool:
        """Whether the exercise is solved."""
        return self.outcome is Outcome.RIGHT

    @property
    def points(self) -> float:
        """What the answer earns."""
        return round(self.share * self.of, 2)

    def __repr__(self) -> str:
        return f"{self.points:g}" if GRADING in os.environ else self._text()

    def _text(self) -> str:
        earned = f" ({self.points:g} of {self.of} points)" if self.of and self.share else ""
        return f"{self.outcome.value}. {self.sentence}{earned}"

    def _repr_html_(self) -> str:
        said = html.escape(self._text().removeprefix(f"{self.outcome.value}. "))
        said = re.sub("`([^`]+)`", r"<code>\1</code>", said)
        return (f"<div style='border-left:4px solid {_COLOURS[self.outcome]};padding-left:8px'>"
                f"<b>{self.outcome.value}.</b> {said}</div>")


def hint(sentence: str, share: float = 0.0) -> Verdict:
    """The verdict on an answer that is not right yet.

    Parameters
    ----------
    sentence : str
        What helps on.
    share : float
        Of the points, in [0, 1).
    """
    return Verdict(Outcome.HINT, sentence, share)


def _untouched(what: str) -> Verdict:
    return Verdict(Outcome.NOT_ATTEMPTED,
                   f"Replace the ... by {what}; run that cell, then this one.")


def _nothing_returned(what: str) -> Verdict:
    """A function that returns nothing still has its dots, or its reader forgot to return."""
    return Verdict(Outcome.NOT_ATTEMPTED, f"Your function returns nothing. Replace its ... by "
                   f"`return` and {what}; run that cell, then this one.")


@dataclass(frozen=True)
class Partly:
    """A slip that earns a share of the points.

    Parameters
    ----------
    share : float
        In (0, 1).
    slip : callable
        The function, as among `Exercise.slips`.
    """

    share: float
    slip: Callable[..., Tensor | float]


@dataclass(frozen=True)
class Exercise:
    """A function to be written; called with an answer, it compares the two on drawn inputs.

    The draws are those of one seed in every call, so that a verdict can be repeated; they are
    several and unlike the notebook's numbers, so that an answer copied from there is not right.

    Parameters
    ----------
    inputs : callable
        Draws the arguments from a `torch.Generator`: a tuple.
    right : callable
        What the reader's function should compute: a tensor or a number.
    what : str
        What takes the place of the ``...``.
    hints : sequence of str
        What is said to an answer that no slip explains: to the first try the first, and so on.
    praise : str
        What is said to a right one.
    level : Level
        How hard it is, which says how many points it has.
    slips : mapping of str to callable or Partly
        A sentence for the reader, and the wrong function that it belongs to.
    shape : str
        What is said of the answer's shape where it is another.
    draws : int
        Inputs tried; two at least, so that no constant is right.
    uses : sequence of str
        What of this package an answer may call, such as ``"idl_lab.norms"``: nothing by default,
        since the reader is to write it.
    """

    inputs: Callable[[torch.Generator], tuple]
    right: Callable[..., Tensor | float]
    what: str
    hints: Sequence[str]
    praise: str
    level: Level = Level.DERIVE
    slips: Mapping[str, Callable[..., Tensor | float] | Partly] = field(default_factory=dict)
    shape: str = ""
    draws: int = 3
    uses: Sequence[str] = ()

    def __call__(self, answer: Callable[..., Tensor | float], *, tries: int = 0, seed: int = 0
                 ) -> Verdict:
        """Look at the reader's function, after so many tries that were wrong.

        Parameters
        ----------
        answer : callable
            The reader's function.
        tries : int
            Wrong ones so far.
        seed : int
            Of the draws.
        """
        if answer is ...:
            return _untouched(self.what)
        if not callable(answer):
            return hint(f"A function is wanted, yours is {_shown(answer)}.")
        draws, given = generator(seed), []
        inputs = [self.inputs(draws) for _ in range(self.draws)]
        for arguments in inputs:
            wanted = torch.as_tensor(self.right(*_copies(arguments)))
            try:
                value = answer(*_copies(arguments))
                if value is ... or value is None:
                    return _nothing_returned(self.what)
                tensor = torch.as_tensor(value).detach().to_dense()
                number = tensor.to(wanted)
            except Exception as error:  # the reader's own code: say what it said
                return hint(f"Your function raised {_said(error)}{_advice(error)}")
            if number.shape != wanted.shape or tensor.is_complex():
                return hint(f"{self.shape or f'The shape {tuple(wanted.shape)} is wanted'}, yours "
                            f"is {_shown(value)}.")
            given.append(number)

        def is_(function: Callable[..., Tensor | float]) -> bool:
            return all(_close(value, function(*_copies(arguments)))
                       for value, arguments in zip(given, inputs, strict=True))

        if is_(self.right):
            return Verdict(Outcome.RIGHT, self.praise, 1.0)
        for said, slip in self.slips.items():
            share, function = (slip.share, slip.slip) if isinstance(slip, Partly) else (0.0, slip)
            if is_(function):
                return hint(said, share)
        return hint(_step(self.hints, tries))


@dataclass(frozen=True)
class Example:
    """Something to be found; called with an answer, it says the first condition that fails.

    Parameters
    ----------
    look : callable
        Turns the answer (and what else the notebook passes) into what the conditions judge; what
        it raises is shown to the reader.
    conditions : sequence of (callable, str) or (callable, str, float)
        A condition, and what is said where it is not met: a format string, ``{0}`` is what
        `look` gave. Behind it the share of the points that an answer has that meets this one and
        all before it: 0 where none is said.
    what, praise, level, hints, uses
        As for `Exercise`; ``praise`` is a format string too, and there may be no hints.
    right : object
        An answer that is right, for the tests.
    slips : mapping of str to object
        Part of a sentence, and a wrong answer that gets it, for the tests.
    options : mapping of str to object
        What `look` is given beside the answer, for the tests.
    """

    look: Callable[..., Any]
    conditions: Sequence[tuple]
    what: str
    praise: str
    right: Any
    level: Level = Level.EXPERIMENT
    hints: Sequence[str] = ()
    slips: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    uses: Sequence[str] = ()

    def __call__(self, answer: Any, *others: Any, tries: int = 0, seed: int = 0, **options: Any
                 ) -> Verdict:
        """Look at the reader's answer.

        Parameters
        ----------
        answer : object
        *others, **options : object
            For `look`.
        tries, seed : int
            As for an `Exercise`; an example draws nothing.
        """
        if answer is ...:
            return _untouched(self.what)
        share = 0.0
        try:
            found = self.look(answer, *others, **options)
            for holds, sentence, *earned in self.conditions:
                if not holds(found):
                    return hint(sentence.format(found), share)
                share = max([share, *earned])
            return Verdict(Outcome.RIGHT, self.praise.format(found), 1.0)
        except NotAttempted:
            return _untouched(self.what)
        except Exception as error:  # the reader's own answer: say what was said of it
            return hint(_said(error), share)


class NotAttempted(Exception):
    """Raised by an example's `look` where the reader's function returns its dots still."""


@dataclass(frozen=True)
class Guess:
    """A number or a word to be written down before a panel is touched, and compared afterwards.

    It has no points: whoever guesses wrong has learnt most.

    Parameters
    ----------
    what : str
        What takes the place of the ``...``.
    found : str
        What is said of the truth, a format string: ``{0}`` is the truth, ``{1}`` the guess.
    """

    what: str
    found: str

    def __call__(self, guess: Any, truth: Any) -> Verdict:
        """Put a guess beside the truth.

        Parameters
        ----------
        guess : object
            The reader's.
        truth : object
            What was measured.
        """
        if guess is ... or guess is None:
            return Verdict(Outcome.NO_GUESS, f"Replace the ... by {self.what} before you look, "
                           f"and run this cell again.")
        return Verdict(Outcome.GUESSED, self.found.format(truth, _shown(guess)))


def _step(hints: Sequence[str], tries: int) -> str:
    """The hint of a try, and which of how many it is."""
    step = min(tries, len(hints) - 1)
    return hints[step] + (f" [hint {step + 1} of {len(hints)}]" if len(hints) > 1 else "")


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


_ADVICE = {"Boolean value of Tensor": "if, while and max(0, ·) want one number; torch.where, "
           "torch.relu and the like take a whole tensor.",
           "shapes cannot be multiplied": "Samples are rows, in what you are given and in what you "
           "return."}


def _advice(error: Exception) -> str:
    """What to do about an error of torch that does not say it."""
    text = _text(str, error)
    return "".join(f". {said}" for part, said in _ADVICE.items() if part in text)


def _text(of: Callable[[Any], str], value: Any) -> str:
    try:
        return of(value)
    except Exception:  # the reader's own __repr__ or __str__
        return f"a {type(value).__name__} that cannot be shown"
