"""Grading with nbgrader: a time limit a notebook, answers judged outside it, a table of points.

What is not proof against cheating stands in `idl_lab.labs.judge`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters.exporter import ResourcesDict
from nbformat import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps import NbGraderAPI
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import Execute, NbGraderPreprocessor, OverwriteCells
from nbgrader.utils import is_grade
from traitlets import Integer
from traitlets.config import Config, PyFileConfigLoader

from idl_lab.labs import judge
from idl_lab.runs import editions
from idl_lab.runs.progress import Progress

SECONDS = 600
GRADED = ".idl_lab_graded.json"  # what was graded: "<student>/<lab>" → SHA-256
TABLE = "grades.csv"
ENDED = "TimeLimit"


class Judged(Execute):
    """nbgrader's `Execute` until a limit for the whole notebook; then the answers are judged.

    A kernel in which a student's code ran cannot give points: its cells show the answer, which is
    taken from there, and the number is written by this process.
    """

    seconds = Integer(SECONDS, help="limit of a notebook, in seconds").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: ResourcesDict, km: Any = None
                   ) -> tuple[NotebookNode, ResourcesDict]:
        """Run the notebook, then write the points into the cells that give them.

        Parameters
        ----------
        nb : NotebookNode
        resources : ResourcesDict
        km : object
            A kernel manager, as for `Execute`.
        """
        self._end = time.monotonic() + self.seconds
        # A cell that never ends leaves half of the time to those behind it.
        self.timeout_func = lambda cell: max(1, int(min(
            self.timeout or self.seconds, (self._end - time.monotonic()) / 2)))
        os.environ[judge.OUTSIDE] = "1"
        try:
            nb, resources = super().preprocess(nb, resources, km)
        finally:
            del os.environ[judge.OUTSIDE]
        with judge.Judge() as points:
            for cell in nb.cells:
                if is_grade(cell) and cell.cell_type == "code":
                    _settle(cell, points)
        return nb, resources

    def preprocess_cell(self, cell: NotebookNode, resources: ResourcesDict, index: int
                        ) -> tuple[NotebookNode, ResourcesDict]:
        """Run a cell while there is time.

        Parameters
        ----------
        cell : NotebookNode
        resources : ResourcesDict
        index : int
        """
        if cell.cell_type == "code" and time.monotonic() >= self._end:
            cell.outputs = [nbformat.v4.new_output(
                "error", ename=ENDED, evalue="the notebook's time was up before this cell",
                traceback=[f"{ENDED}: the {self.seconds} seconds of the notebook were up"])]
            return cell, resources
        return super().preprocess_cell(cell, resources, index)


class Completed(NbGraderPreprocessor):
    """Gives a submission the cells that give points, where it has them without marks or not at all.

    The copies that ``idl-lab lab`` makes have no marks, and a student may have removed a cell. A
    missing one is put at the end, where the answers are known; `OverwriteCells` writes its source.
    """

    def preprocess(self, nb: NotebookNode, resources: ResourcesDict
                   ) -> tuple[NotebookNode, ResourcesDict]:
        """Complete a notebook.

        Parameters
        ----------
        nb : NotebookNode
        resources : ResourcesDict
            Names the notebook, the assignment, and nbgrader's database.
        """
        where = resources["nbgrader"]
        with Gradebook(where["db_url"]) as book:
            known = book.find_notebook(where["notebook"], where["assignment"])
            worth = {cell.name: cell.max_score for cell in known.grade_cells}
            sources = {cell.name: cell.source for cell in known.source_cells}
        for cell in nb.cells:
            worth.pop(cell.metadata.get("nbgrader", {}).get("grade_id"), None)
        for name, points in worth.items():
            asks = _asked(sources[name])
            cell = next((cell for cell in nb.cells if cell.cell_type == "code" and asks
                         and "nbgrader" not in cell.metadata
                         and editions.question(cell) == asks), None)
            if cell is None:
                cell = nbformat.v4.new_code_cell()
                if nb.nbformat_minor < 5:  # cells have no ids there
                    del cell["id"]
                nb.cells.append(cell)
            cell.metadata["nbgrader"] = {
                "schema_version": 3, "grade": True, "solution": False, "locked": True,
                "task": False, "grade_id": name, "points": points, "cell_type": "code"}
        return nb, resources


def _asked(source: str) -> tuple[str, str] | None:
    """The exercise and the answer of a cell that may have hidden tests."""
    return editions.question(nbformat.v4.new_code_cell(source.partition("\n### BEGIN")[0]))


def _settle(cell: NotebookNode, points: judge.Judge) -> None:
    """Put the points where nbgrader reads them, whatever the kernel put there."""
    asks = _asked(cell.source)
    sent = [output.data[judge.MIME] for output in cell.outputs
            if judge.MIME in output.get("data", {})]
    said = [output for output in cell.outputs if output.output_type == "error"]
    earned = 0.0
    if sent and asks:
        earned, text = points(asks[0], base64.b64decode(sent[-1]))
        said = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    cell.outputs = [*said, nbformat.v4.new_output(
        "execute_result", {"text/plain": f"{earned:g}"}, execution_count=cell.execution_count)]


def configure(config: Config) -> None:
    """What a course of these labs sets of nbgrader; its configuration file calls this.

    Parameters
    ----------
    config : Config
    """
    config.ClearSolutions.code_stub = {"python": editions.STUB}
    config.Autograde.sanitize_preprocessors = [
        new for step in Autograde.sanitize_preprocessors.default_args[0]
        for new in ([Completed, step] if step is OverwriteCells else [step])]
    config.Autograde.autograde_preprocessors = [
        Judged if step is Execute else step
        for step in Autograde.autograde_preprocessors.default_args[0]]
    config.Execute.timeout = 150  # of a cell, for `nbgrader validate` too
    config.KernelManager.transport_encryption = "auto"  # or each kernel warns that it has none


def _nbgrader(folder: Path, seconds: int = SECONDS) -> NbGraderAPI:
    here, paths = str(Path(sys.executable).parent), os.environ.get("PATH", "").split(os.pathsep)
    if here not in paths:  # nbgrader calls alembic by name, from an environment not activated too
        os.environ["PATH"] = os.pathsep.join([here, *paths])
    config = PyFileConfigLoader(editions.CONFIG, str(folder)).load_config()
    config.Judged.seconds = seconds
    course = CourseDirectory(config=config)
    course.root = str(folder.resolve())
    return NbGraderAPI(course, config=config)


def _done(result: dict[str, Any]) -> str:
    """What nbgrader says went wrong, in a line; "" if nothing did."""
    if result["success"]:
        return ""
    said = [line for line in result.get("log", result.get("error", "")).splitlines()
            if line.startswith("[ERROR]") or "Error: " in line]
    return next((line for line in said if "Error: " in line),
                said[-1] if said else "unknown").strip()


def release(folder: Path, lab: str) -> None:
    """Let nbgrader make the students' copy of a lab, and write it into the gradebook.

    Parameters
    ----------
    folder : Path
        Of the course.
    lab : str

    Raises
    ------
    ValueError
        If nbgrader refuses.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = _done(_nbgrader(folder).generate_assignment(lab))
    if "submissions associated" in wrong:
        raise ValueError(f"{lab}: submissions were graded, so its exercises must stay as they are. "
                         f"Make a new course in another folder, or this lab as it was.")
    if wrong:
        raise ValueError(f"{lab}: nbgrader refuses it: {wrong}")


@dataclass
class Row:
    """A student's submission of a lab.

    Parameters
    ----------
    student, lab : str
    status : str
        "ok", "timed out" or "failed".
    why : str
        Why it failed.
    points : dict of str to float
        Of each exercise.
    of : dict of str to float
        What could be earned.
    """

    student: str
    lab: str
    status: str = "ok"
    why: str = ""
    points: dict[str, float] = field(default_factory=dict)
    of: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The points of all exercises."""
        return round(sum(self.points.values()), 2)


def grade(folder: Path, seconds: int = SECONDS, progress: Progress | None = None) -> list[Row]:
    """Autograde what was submitted, write feedback/ and the table ``grades.csv``.

    What was graded before, and has not changed since, is not run again.

    Parameters
    ----------
    folder : Path
        Of the course, as `editions.course` made it.
    seconds : int
        Limit of a notebook.
    progress : Progress, optional
        Told of each.

    Raises
    ------
    ValueError
        If it is no course, or nothing was submitted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sqlalchemy's, of nbgrader's own queries
        return _grade(folder.resolve(), seconds, progress or Progress())


def _grade(folder: Path, seconds: int, progress: Progress) -> list[Row]:
    if not (folder / editions.CONFIG).exists():
        raise ValueError(f"{folder} is no course: it has no {editions.CONFIG}; idl-lab student "
                         f"DIR makes one.")
    submitted = sorted(path for path in folder.glob("submitted/*/*") if path.is_dir())
    stray = sorted(path for path in (folder / "submitted").rglob("*.ipynb")
                   if len(path.relative_to(folder / "submitted").parts) < 3)
    if not submitted and not stray:
        raise ValueError(f"nothing was submitted: put the notebooks into {folder}/submitted/"
                         f"<student>/<lab>/<lab>.ipynb.")
    nbgrader, manifest, rows = _nbgrader(folder, seconds), folder / GRADED, []
    graded = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    for path in submitted:
        row = Row(path.parent.name, path.name)
        key, now = f"{row.student}/{row.lab}", _hash(path, folder / "source" / row.lab)
        autograded = folder / "autograded" / row.student / row.lab
        if graded.get(key) == now and autograded.is_dir():
            progress.keep(key)
        else:
            progress.start(key)
            try:
                _run(nbgrader, folder, row)
            finally:
                progress.end(row.status, row.why)
        if row.status != "failed":
            _read(nbgrader, folder, row)
        graded[key] = now if row.status == "ok" else ""
        manifest.write_text(json.dumps(graded, indent=1), encoding="utf-8")
        rows.append(row)
    for path in stray:  # or nobody would learn that it was not graded
        student = path.parent.name if path.parent.name != "submitted" else "?"
        rows.append(Row(student, path.stem, "failed", f"{path.relative_to(folder)} is not in "
                        f"submitted/<student>/{path.stem}/"))
    _write(folder / TABLE, rows)
    return rows


def _hash(*folders: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.is_file()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def _run(nbgrader: NbGraderAPI, folder: Path, row: Row) -> None:
    """Autograde a submission and write its feedback."""
    row.status = "failed"
    if not (folder / "source" / row.lab).is_dir():
        labs = ", ".join(sorted(path.name for path in (folder / "source").iterdir()))
        row.why = f"the course has no lab {row.lab}; it has {labs}"
        return
    here = folder / "submitted" / row.student / row.lab
    if not (here / f"{row.lab}.ipynb").is_file():
        others = " and ".join(sorted(path.name for path in here.glob("*.ipynb")))
        row.why = f"there is no {row.lab}.ipynb in its folder" + (
            f"; rename {others}" if others else "")
        return
    row.why = _done(nbgrader.autograde(row.lab, row.student))
    if "CellTimeoutError" in row.why:  # not even an interrupt ended the cell
        row.why = ("a cell did not end in time and could not be stopped: a larger --timeout, or a "
                   "look at its loop")
    if row.why:
        return
    notebook = nbformat.read(folder / "autograded" / row.student / row.lab / f"{row.lab}.ipynb",
                             as_version=4)
    names = {output.ename for cell in notebook.cells for output in cell.get("outputs", ())
             if output.output_type == "error"}
    row.status = "timed out" if names & {ENDED, "CellTimeoutError"} else "ok"
    row.why = _done(nbgrader.generate_feedback(row.lab, row.student))


def _read(nbgrader: NbGraderAPI, folder: Path, row: Row) -> None:
    """The points in the gradebook: a teacher's own, where one gave them by hand."""
    notebook = nbformat.read(folder / "source" / row.lab / f"{row.lab}.ipynb", as_version=4)
    for cell in notebook.cells:
        if is_grade(cell):
            name = cell.metadata.nbgrader.grade_id
            exercise = name.partition("-")[2]
            row.of[exercise], row.points[exercise] = float(cell.metadata.nbgrader.points), 0.0
            try:
                with Gradebook(nbgrader.coursedir.db_url) as book:
                    row.points[exercise] = book.find_grade(name, row.lab, row.lab,
                                                           row.student).score
            except MissingEntry:  # the student removed the cell
                pass


def _write(path: Path, rows: Sequence[Row]) -> None:
    exercises = list(dict.fromkeys(name for row in rows for name in row.of))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["student", "lab", "status", "points", "of", *exercises])
        for row in rows:
            table.writerow([row.student, row.lab, row.status,
                            *((f"{row.total:g}", f"{sum(row.of.values()):g}") if row.of
                              else ("", "")),
                            *(f"{row.points[name]:g}" if name in row.points else ""
                              for name in exercises)])


def table(rows: Sequence[Row]) -> str:
    """The points as text, a line for each student and lab.

    Parameters
    ----------
    rows : sequence of Row
    """
    lines = [("student", "lab", "points", "")]
    for row in rows:
        earned = "  ".join(f"{name} {row.points[name]:g}/{row.of[name]:g}" for name in row.of)
        lines.append((row.student, row.lab, f"{row.total:g} of {sum(row.of.values()):g}"
                      if row.of else row.status, row.why if not row.of else earned
                      if row.status == "ok" else f"{earned}  ({row.status})"))
    wide = [max(len(line[k]) for line in lines) for k in range(3)]
    return "\n".join("  ".join([*(text.ljust(n) for text, n in zip(line, wide, strict=False)),
                                line[3]]).rstrip() for line in lines)
