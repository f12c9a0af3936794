"""The editions of the labs: a student's copy, a course for nbgrader, assignments for otter-grader.

All are made of the instructor's notebooks. An exercise there is an answer cell, whose solution
stands between two marks, and behind it a cell that asks ``check.<lab>.<exercise>(answer)``.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbformat import NotebookNode

from idl_lab.runs.series import Lab

if TYPE_CHECKING:  # torch, which a student's copy is made without
    from idl_lab.labs.kit.exercise import Example, Exercise

STUB = "..."  # what takes the place of a solution
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
CONFIG = "nbgrader_config.py"
CONFIG_TEXT = '''"""Written by `idl-lab student`; what you set at the end goes before."""

from idl_lab.runs import grading

c = get_config()
grading.configure(c)
'''
# In the cell that asks, and not in the students' copy. Read anew from the disk, so that a judge
# that was replaced in the notebook does not give the points.
HIDDEN = '''
### BEGIN HIDDEN TESTS
import importlib

import idl_lab.labs.judge

importlib.reload(idl_lab.labs.judge).points("{name}", {answer})
### END HIDDEN TESTS'''
OTTER_TEST = '''""" # BEGIN TEST CONFIG
hidden: true
points: {points:g}
""" # END TEST CONFIG
def test_{exercise}_{part}(env):
    import importlib
    import idl_lab.labs.judge
    answer = eval({answer!r}, dict(env))
    earned = importlib.reload(idl_lab.labs.judge).points("{name}", answer)
    assert earned >= {earned:g}, "see what is said above"'''


@dataclass(frozen=True)
class Asked:
    """An exercise as it stands in a notebook.

    Parameters
    ----------
    name : str
        ``"<lab>.<exercise>"``.
    answer : str
        The expression that is looked at.
    answered, asked : int
        Where its two cells are.
    """

    name: str
    answer: str
    answered: int
    asked: int

    @property
    def id(self) -> str:
        """Of the cell that asks, in nbgrader's gradebook."""
        return self.name.replace(".", "-")


def question(cell: NotebookNode) -> tuple[str, str] | None:
    """The exercise that a cell asks for and the answer it looks at; None where it is no such cell.

    Parameters
    ----------
    cell : NotebookNode
    """
    try:
        [statement] = ast.parse(cell.source).body
        called: Any = statement.value  # type: ignore[attr-defined]
        given = [*called.args, *called.keywords]
        alone = len(given) == 1 and not isinstance(given[0], (ast.keyword, ast.Starred))
        if called.func.value.value.id == "check" and alone:
            return f"{called.func.value.attr}.{called.func.attr}", ast.unparse(given[0])
    except (SyntaxError, ValueError, AttributeError):
        pass
    return None


def exercises(notebook: NotebookNode, where: str) -> list[Asked]:
    """The exercises of a notebook, in its order; guesses, which have no points, are left out.

    Parameters
    ----------
    notebook : NotebookNode
    where : str
        What an error calls it.

    Raises
    ------
    ValueError
        If one is unknown, is asked twice or with more than its answer, or has no answer cell with
        its marks.
    """
    found: list[Asked] = []
    answered = None
    for k, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        if BEGIN in cell.source or END in cell.source:
            if re.findall(r"### (BEGIN|END) SOLUTION$", cell.source, re.M) != ["BEGIN", "END"]:
                raise ValueError(f"{where}: a cell wants one line {BEGIN} and behind it one line "
                                 f"{END}, this one has others: {cell.source[:60]!r}")
            answered = k
        names = [name for name in re.findall(r"^check\.(\w+\.\w+)\(", cell.source, re.MULTILINE)
                 if not name.endswith(".summary") and _exercise(name, where)]
        if not names:
            continue
        asks = question(cell)
        if asks is None:
            raise ValueError(f"{where}: exercise {names[0]} wants a cell that is nothing but "
                             f"check.{names[0]}(answer), with the answer alone.")
        if answered is None:
            raise ValueError(f"{where}: exercise {asks[0]} has no answer cell before it with "
                             f"{BEGIN} and {END}.")
        if asks[0] in [other.name for other in found]:
            raise ValueError(f"{where} asks check.{asks[0]} twice: one cell has the points.")
        found.append(Asked(*asks, answered, k))
        answered = None
    return found


def _exercise(name: str, where: str = "") -> Exercise | Example | None:
    """The exercise of this name, or None if it is a guess."""
    from idl_lab.labs import check

    lab, exercise = name.split(".")
    known = getattr(check, lab, None)
    if known is None or not hasattr(known, exercise):
        raise ValueError(f"{where} asks check.{name}, and there is no such exercise.")
    return known.exercises[exercise].exercise if exercise in known.exercises else None


def points(name: str) -> int:
    """What an exercise is worth.

    Parameters
    ----------
    name : str
        ``"<lab>.<exercise>"``.
    """
    return _exercise(name).level.points


def steps(name: str) -> list[float]:
    """The points that a part of an answer may earn, and those of a whole one.

    Parameters
    ----------
    name : str
        ``"<lab>.<exercise>"``.
    """
    exercise = _exercise(name)
    shares = {getattr(slip, "share", 0.0) for slip in exercise.slips.values()}
    shares |= {earned for _, _, *given in getattr(exercise, "conditions", ()) for earned in given}
    return sorted({round(share * exercise.level.points, 2) for share in shares | {1.0}} - {0.0})


def stripped(source: str) -> str:
    """A cell without its solution, as nbgrader's `ClearSolutions` leaves it.

    Parameters
    ----------
    source : str
        A line with each mark, or none.
    """
    return re.sub(rf"^(\s*){BEGIN}.*?{END}", rf"\1{STUB}", source, flags=re.MULTILINE | re.DOTALL)


def student(notebook: NotebookNode) -> NotebookNode:
    """A student's copy: no solution, and no output that tells one.

    The pictures stay, for a reader before the first run, but not those of a cell that uses an
    answer.

    Parameters
    ----------
    notebook : NotebookNode
        The instructor's; it becomes the copy.
    """
    answers: set[str] = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        solved = BEGIN in cell.source
        if solved:
            answers |= {name for name, stored in _names(cell.source) if stored}
            # A second stub under "name = ..." would be shown as Ellipsis, whatever the answer.
            cell.source = re.sub(rf"^(\w+ = {re.escape(STUB)}.*)\n{re.escape(STUB)}$", r"\1",
                                 stripped(cell.source), flags=re.MULTILINE)
        used = {name for name, _ in _names(cell.source)}
        if solved or used & answers or re.search(r"^check\.", cell.source, re.MULTILINE):
            cell.outputs, cell.execution_count = [], None
    return notebook


def _names(source: str) -> Iterator[tuple[str, bool]]:
    """The names of a cell's top level that it gives a value, and all that it reads."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic, say: it is read as it stands
        yield from ((name, False) for name in re.findall(r"\w+", source))
        return
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, True
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Name):
            yield inner.id, isinstance(inner.ctx, ast.Store)


def _code(source: str, **metadata: object) -> NotebookNode:
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def graded(notebook: NotebookNode, where: str) -> list[Asked]:
    """Mark an instructor's notebook for nbgrader: what is an answer, what gives points.

    No other cell is marked, so that a student may change all the rest.

    Parameters
    ----------
    notebook : NotebookNode
        It is changed.
    where : str
        What an error calls it.
    """
    found = exercises(notebook, where)
    kinds = {"schema_version": 3, "task": False}
    for exercise in found:
        answer, asks = notebook.cells[exercise.answered], notebook.cells[exercise.asked]
        answer.metadata["nbgrader"] = kinds | {
            "grade": False, "solution": True, "locked": False, "grade_id": f"{exercise.id}-answer"}
        asks.metadata["nbgrader"] = kinds | {
            "grade": True, "solution": False, "locked": True, "grade_id": exercise.id,
            "points": points(exercise.name)}
        asks.source += HIDDEN.format(name=exercise.name, answer=exercise.answer)
    return found


def course(folder: Path, labs: Sequence[Lab], say: Callable[[str], None] = print) -> None:
    """Make a course for nbgrader, or add labs to one: source/, release/, the gradebook.

    Parameters
    ----------
    folder : Path
    labs : sequence of Lab
    say : callable
        Told of each lab when it is there.

    Raises
    ------
    ValueError
        If the folder holds something else, or one of the labs.
    """
    from idl_lab.runs import grading

    marked = _marked(folder, labs, graded, [Path("source", lab.name) for lab in labs], CONFIG)
    (folder / "submitted").mkdir(exist_ok=True)
    if not (folder / CONFIG).exists():
        (folder / CONFIG).write_text(CONFIG_TEXT, encoding="utf-8")
    for lab, notebook, found in marked:
        path = folder / "source" / lab.name / lab.path.name
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
        try:
            grading.release(folder, lab.name)
        except ValueError:
            shutil.rmtree(path.parent)  # or the next try would find it there already
            raise
        say(f"{lab.name}  {_counted(found)}")
    say(f"\nGive out {folder / 'release'}; put what comes back into {folder / 'submitted'} as "
        f"<student>/<lab>/<lab>.ipynb; then idl-lab grade {folder}")


def _counted(found: Sequence[Asked]) -> str:
    worth = sum(points(exercise.name) for exercise in found)
    return f"{len(found)} exercise{'s' * (len(found) != 1)}, {worth} points"


def _marked(folder: Path, labs: Sequence[Lab], mark: Callable[[NotebookNode, str], list[Asked]],
            new: Sequence[Path], ours: str) -> list[tuple[Lab, NotebookNode, list[Asked]]]:
    """Each lab's notebook, marked, and its exercises; the folder is made when all are right."""
    make = _room(folder, new, ours)
    found = [(lab, notebook := nbformat.read(lab.path, as_version=4), mark(notebook, lab.name))
             for lab in labs]
    make()
    return found


def _room(folder: Path, new: Sequence[Path], ours: str) -> Callable[[], None]:
    """Whether there is room for these; what is called then makes the folder."""
    def make() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder} cannot be made ({error.strerror}): name a folder that you "
                             f"may write to.") from None

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder is wanted.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ours).exists():
        raise ValueError(f"{folder} holds something else than a course of these labs: name a new "
                         f"folder.")
    for path in new:
        if (folder / path).exists():
            raise ValueError(f"{folder / path} is there already: remove it first, or name another "
                             f"folder.")
    return make


def otter_master(notebook: NotebookNode, where: str) -> list[Asked]:
    """Turn an instructor's notebook into what ``otter assign`` reads.

    Parameters
    ----------
    notebook : NotebookNode
        It is changed.
    where : str
        What an error calls it.
    """
    found = exercises(notebook, where)
    raw = nbformat.v4.new_raw_cell
    for exercise in reversed(found):  # so that the places of those before stay
        cells, name = notebook.cells, exercise.name.partition(".")[2]
        answer = cells[exercise.answered]
        answer.source = answer.source.replace(BEGIN, BEGIN[2:]).replace(END, END[2:])
        tests, before = [], 0.0
        # Otter loads them as one module: of two with the same name only the last would count.
        for part, earned in enumerate(steps(exercise.name), start=1):
            tests.append(_code(OTTER_TEST.format(
                part=part, points=earned - before, earned=earned, exercise=name, name=exercise.name,
                answer=exercise.answer)))
            before = earned
        first = exercise.answered
        if first and cells[first - 1].cell_type == "markdown":
            first -= 1
        cells[first:exercise.asked + 1] = [
            # Without its own check cell, which would call an answer that no hidden test saw right.
            raw(f"# BEGIN QUESTION\nname: {name}\npoints: {points(exercise.name)}\n"
                f"check_cell: false"),
            *cells[first:exercise.answered], raw("# BEGIN SOLUTION"), answer, raw("# END SOLUTION"),
            *cells[exercise.answered + 1:exercise.asked + 1],
            raw("# BEGIN TESTS"), *tests, raw("# END TESTS"), raw("# END QUESTION")]
    notebook.cells.insert(0, raw(
        f"# ASSIGNMENT CONFIG\nname: {where}\nexport_cell:\n  pdf: false\n  run_tests: false\n"
        f"tests:\n  ok_format: false"))
    return found


def otter(folder: Path, labs: Sequence[Lab], say: Callable[[str], None] = print) -> None:
    """Make an assignment for otter-grader of each lab: its master, autograder/ and student/.

    Parameters
    ----------
    folder : Path
    labs : sequence of Lab
    say : callable
        Told of each lab when it is there.

    Raises
    ------
    ValueError
        If the folder holds something else, or one of the labs.
    """
    from otter.assign import main as assign

    marked = _marked(folder, labs, otter_master, [Path("master", lab.path.name) for lab in labs],
                     "master")
    (folder / "master").mkdir(exist_ok=True)
    for lab, notebook, found in marked:
        master = folder / "master" / lab.path.name
        nbformat.write(notebook, master)
        assign(str(master), str(folder / lab.name), no_run_tests=True)
        say(f"{lab.name}  {_counted(found)}")
    say(f"\nGive out {folder}/<lab>/student; the zip file in {folder}/<lab>/autograder grades.")
