"""INSTRUCTORS.md: every panel has its question, and says what is written; every exercise is there.

Run as a program it writes the table of exercises.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import panel_cells

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "INSTRUCTORS.md"
MARKS = "<!-- exercises -->", "<!-- end of the exercises -->"
LABS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
TRAINED = {"05", "06", "07", "08", "09", "10", "11", "12", "13", "14"}  # seconds until the panel


def exercises() -> dict[str, tuple[str, str, int, str]]:
    """By number, as 01.2: name, level, points, what is asked for."""
    from idl_lab.labs import check

    return {f"{number}.{k}": (name, checker.exercise.level.value, checker.exercise.level.points,
                              checker.exercise.what)
            for number, path in LABS.items() if path.stem[3:] in check.labs()
            for k, (name, checker)
            in enumerate(getattr(check, path.stem[3:]).exercises.items(), start=1)}


def table() -> str:
    known = exercises()
    rows = [f"| {number} | `{name}` | {level} | {points} | {what.replace('|', chr(92) + '|')} |"
            for number, (name, level, points, what) in known.items()]
    total = sum(points for _, _, points, _ in known.values())
    return "\n".join(["", "| | exercise | level | points | what is asked for |", "| --- " * 5 + "|",
                      *rows, "", f"{len(known)} exercises, {total} points.", ""])


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def sections() -> Iterator[tuple[str, str]]:
    """Of each panel its heading and what stands below."""
    panels = page().partition("## Before each panel")[2].partition("\n## ")[0]
    for part in panels.split("\n### ")[1:]:
        title, _, text = part.partition("\n")
        yield title, text


SECTIONS = dict(sections())


def test_the_table_holds_every_exercise():
    assert page().partition(MARKS[0])[2].partition(MARKS[1])[0] == table(), (
        f"write it anew: python {Path(__file__).relative_to(ROOT)}")


def test_the_plans_ask_for_exercises_that_there_are():
    plans = page().partition("## One session")[2].partition("## Before each panel")[0]
    asked = re.findall(r"\b\d\d\.\d\b", plans)
    assert len(asked) > 20
    assert not sorted(set(asked) - set(exercises()))


def test_every_panel_has_its_question():
    panels = {number: len(re.findall(r"^(?:panel|choice) = ", "\n".join(all_cells(path)),
                                      re.MULTILINE))
              for number, path in LABS.items()}
    written = [title[:2] for title in SECTIONS]
    assert written == [number for number, count in panels.items() for _ in range(count)]
    for title, text in SECTIONS.items():
        assert "**Ask:**" in text and text.count("\n- ") >= 2 and rows(text), title


def all_cells(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"]


def rows(text: str) -> list[tuple[str, list[str]]]:
    """What is set, and the pieces of what the panel then says."""
    return [(values, [piece.strip() for piece in said.split(" … ")])
            for values, said in re.findall(r"^\| `(\w+=.*?)` \| (.*) \|$", text, re.MULTILINE)]


def panel_of(path: Path, name: str) -> Any:
    """A lab's panel as its notebook makes it, and no more of a lab that trains nothing."""
    cells = (all_cells if path.stem[:2] in TRAINED else panel_cells)(path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        code = re.sub("^%.*", "", cell, flags=re.MULTILINE)
        exec(compile(code, path.stem, "exec", optimize=1), names)
        if re.search(rf"^{name} = ", code, re.MULTILINE):
            return names[name]
    raise AssertionError(f"{path.name} makes no {name}")


@pytest.mark.filterwarnings("ignore")  # the labs' own tests see those
@pytest.mark.parametrize("title", [
    pytest.param(title, marks=[pytest.mark.slow] * (title[:2] in TRAINED), id=title)
    for title in SECTIONS])
def test_a_panel_says_what_is_written(title):
    name = re.search(r"\| `(\w+)\.set\(", SECTIONS[title])[1]
    panel = panel_of(LABS[title[:2]], name)
    for values, pieces in rows(SECTIONS[title]):
        panel.set(**eval(f"dict({values})"))
        if hasattr(panel, "run"):
            panel.run(wait=True)
        for piece in pieces:
            assert piece in panel.text, f"{values}: {panel.text}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    before, _, rest = page().partition(MARKS[0])
    PAGE.write_text(before + MARKS[0] + table() + MARKS[1] + rest.partition(MARKS[1])[2],
                    encoding="utf-8")
