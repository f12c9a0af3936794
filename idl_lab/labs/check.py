"""The exercises of every lab: ``check.<lab>.<exercise>(answer)``, and who solved how many.

A checker remembers the tries in a small file beside the notebook, gives a hint more with each, and
shows the solution after a right answer or three wrong ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from idl_lab import records
from idl_lab.labs.kit import progress
from idl_lab.labs.kit.exercise import (
    GRADING,
    Example,
    Exercise,
    Guess,
    Outcome,
    Verdict,
    hint,
)
from idl_lab.labs.kit.watch import lent, watched

TRIES = 3  # wrong ones, after which the solution may be seen


@dataclass(frozen=True)
class Text:
    """Words that a notebook shows as they are.

    Parameters
    ----------
    text : str
    """

    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Checker:
    """An exercise as a notebook meets it.

    Parameters
    ----------
    name : str
        ``"<lab>.<exercise>"``.
    exercise : Exercise or Example
        What looks at an answer.
    """

    name: str
    exercise: Exercise | Example

    def __call__(self, answer: Any, *others: Any, **options: Any) -> Verdict:
        """Look at an answer, and remember the try.

        Parameters
        ----------
        answer : object
            The reader's.
        *others, **options : object
            What else the lab shows the exercise.
        """
        known = self._known
        # A warning in red would cost all points in nbgrader, which tells it from an error by none.
        with contextlib.redirect_stderr(sys.stdout if GRADING in os.environ else sys.stderr):
            verdict = self.judged(answer, *others, tries=known.get("tries", 0), **options)
        if verdict.outcome is not Outcome.NOT_ATTEMPTED:
            progress.note(self.name, share=max(verdict.share, known.get("share", 0.0)),
                          tries=known.get("tries", 0) + (not verdict.right))
        return verdict

    def __repr__(self) -> str:  # shown where the brackets were forgotten: it must tell no hint
        return f"check.{self.name}: call it with your answer; .hint() and .solution() help."

    def judged(self, answer: Any, *others: Any, **options: Any) -> Verdict:
        """The verdict alone; an answer that lets the library work in its place earns nothing.

        Parameters
        ----------
        answer : object
        *others, **options : object
            As for a call, and ``tries`` and ``seed`` as an exercise takes them.
        """
        uses = self.exercise.uses
        with watched(uses) as borrowed:
            verdict = self.exercise(answer, *others, **options)
        return self.scored(verdict, max([lent(answer, uses), *borrowed], key=bool))

    def scored(self, verdict: Verdict, borrowed: str = "") -> Verdict:
        """A verdict with the points of the exercise.

        Parameters
        ----------
        verdict : Verdict
        borrowed : str
            What of the library the answer lets work, if anything: it then earns nothing.
        """
        if borrowed and verdict.outcome is not Outcome.NOT_ATTEMPTED:
            verdict = hint(f"It lets {borrowed} of the library work: write it yourself.")
        return dataclasses.replace(verdict, of=self.exercise.level.points)

    @property
    def _known(self) -> dict[str, Any]:
        return progress.read().get(self.name, {})

    def hint(self) -> Text:
        """One hint more with each call."""
        hints = self.exercise.hints
        if not hints:
            return Text("There is no hint but what the checker says of an answer.")
        seen = min(self._known.get("hints", 0) + 1, len(hints))
        progress.note(self.name, hints=seen)
        return Text("\n".join(f"Hint {k} of {len(hints)}: {text}"
                              for k, text in enumerate(hints[:seen], 1)))

    def solution(self) -> Text:
        """A solution, after a right answer or three wrong ones."""
        tries, solved = self._known.get("tries", 0), self._known.get("share", 0) == 1
        if not solved and tries < TRIES:
            return Text(f"The solution is shown after a right answer or {TRIES} wrong ones; you "
                        f"have tried {tries} time{'s' * (tries != 1)}.")
        return Text(solutions().get(self.name, "The notebook that came has no solution of it."))


@dataclass(frozen=True)
class Summary:
    """Who solved what: a table in a notebook.

    Parameters
    ----------
    rows : mapping of str to tuple
        Of each exercise its level, the points earned, those to be had, and the wrong tries.
    """

    rows: Mapping[str, tuple[str, float, int, int]]

    @property
    def points(self) -> float:
        """What was earned of all of them."""
        return sum(earned for _, earned, _, _ in self.rows.values())

    @property
    def of(self) -> int:
        """To be had."""
        return sum(of for _, _, of, _ in self.rows.values())

    def __repr__(self) -> str:
        wide = max([len(name) for name in self.rows], default=0)
        lines = [f"{name:{wide}}  {level:10}  {earned:g} of {of}"
                 + f"  ({tries} wrong)" * bool(tries)
                 for name, (level, earned, of, tries) in self.rows.items()]
        solved = sum(earned == of for _, earned, of, _ in self.rows.values())
        return "\n".join([*lines, f"{solved} of {len(self.rows)} exercises, "
                                  f"{self.points:g} of {self.of} points"])


class Lab:
    """The exercises of one lab.

    Parameters
    ----------
    name : str
        Its folder in `idl_lab.labs`.
    """

    def __init__(self, name: str) -> None:
        found = vars(importlib.import_module(f"idl_lab.labs.{name}.exercises"))
        self._name = name
        self._guesses = {n: e for n, e in found.items() if isinstance(e, Guess)}
        self.exercises = {n: Checker(f"{name}.{n}", e) for n, e in found.items()
                          if isinstance(e, (Exercise, Example))}

    def __dir__(self) -> list[str]:
        return [*self.exercises, *self._guesses, "summary"]

    def __getattr__(self, name: str) -> Checker | Guess:
        if name.startswith("_") or name == "exercises":
            raise AttributeError(name)
        found = self.exercises | self._guesses
        if name not in found:
            raise AttributeError(f"lab {self._name} has no exercise {name!r}; it has "
                                 f"{', '.join(found)}.")
        return found[name]

    def summary(self) -> Summary:
        """What was earned in this lab."""
        known = progress.read()
        rows = {}
        for checker in self.exercises.values():
            of, mine = checker.exercise.level.points, known.get(checker.name, {})
            rows[checker.name] = (checker.exercise.level.value,
                                  round(of * mine.get("share", 0), 2), of, mine.get("tries", 0))
        return Summary(rows)


def summary() -> Summary:
    """What was earned in the series."""
    return Summary({name: row for lab in labs() for name, row in _lab(lab).summary().rows.items()})


def labs() -> list[str]:
    """The labs that have exercises, by name."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/exercises.py"))


_lab = cache(Lab)


@cache
def solutions() -> dict[str, str]:
    """The solution of each exercise: what the notebooks, as they came, have between its marks."""
    import nbformat

    found, last = {}, ""
    for path in sorted(records.shipped().glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if "### BEGIN SOLUTION" in cell.source:
                # Without the dots that it replaces, which stand above its first mark.
                source = re.sub(r"^\w+ = \.\.\..*\n(?=### BEGIN)", "", cell.source, flags=re.M)
                last = re.sub(r" *### (BEGIN|END) SOLUTION\n?", "", source).strip()
            elif last and (asked := re.search(r"^check\.(\w+\.\w+)\(", cell.source, re.MULTILINE)):
                found[asked[1]], last = last, ""  # what is asked next has an answer of its own
    return found


def __dir__() -> list[str]:
    return [*labs(), "summary"]


def __getattr__(lab: str) -> Lab:
    # A lab's exercises are loaded when they are asked for, so that a new lab needs no entry here.
    if lab not in labs():
        raise AttributeError(f"there is no lab with exercises called {lab!r}; there is "
                             f"{', '.join(labs())}.")
    return _lab(lab)
