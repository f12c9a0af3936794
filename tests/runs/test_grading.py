"""What nbgrader and otter give for submissions: untouched, half, right, and those that cheat."""

from __future__ import annotations

import base64
import csv
import subprocess
import sys
import warnings
from pathlib import Path

import class_notebooks
import cloudpickle
import nbformat
import pytest
from class_notebooks import CHECKS, DAMPING, LAB, STEP
from nbformat import v4
from nbgrader.utils import determine_grade, is_grade
from nbgrader.validator import Validator
from traitlets.config import Config

from idl_lab.__main__ import main
from idl_lab.labs import judge
from idl_lab.runs import editions, grading, series
from idl_lab.runs.progress import Silent

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of the small lab; `hand_in` puts a submission there."""
    folder = tmp_path_factory.mktemp("class")
    labs = class_notebooks.write(folder / "labs", class_notebooks.instructors())
    assert main(["student", str(folder / "course"), "--notebooks", str(labs)]) == 0
    return folder / "course"


def hand_in(course: Path, student: str, files: dict[str, str] | None = None, **answers: str
            ) -> Path:
    notebook = nbformat.read(course / "release" / LAB / f"{LAB}.ipynb", as_version=4)
    folder = course / "submitted" / student / LAB
    class_notebooks.write(folder, class_notebooks.answered(notebook, **answers))
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / f"{LAB}.ipynb"


def rows(course: Path) -> dict[str, dict[str, str]]:
    with (course / grading.TABLE).open(encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def failed(path: Path) -> list[str]:
    """The cells that `nbgrader validate` says have not all points."""
    config = Config()
    grading.configure(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [cell["source"] for cell in Validator(config=config).validate(str(path)).get(
            "failed", [])]


def test_a_submission_is_graded_once_and_validate_says_the_same(course, capsys):
    # Its warning, which goes to stderr, must cost nothing.
    path = hand_in(course, "half", step=STEP.replace("return", "import warnings; warnings.warn('x')"
                                                     "\n    return"))
    assert main(["grade", str(course)]) == 0
    said = capsys.readouterr().out
    assert "half/00_start_here  started" in said
    assert "half     00_start_here  1 of 3  picard_step 1/1  fastest_damping 0/2" in said
    assert rows(course)["half"] == {"student": "half", "lab": LAB, "status": "ok", "points": "1",
                                    "of": "3", "picard_step": "1", "fastest_damping": "0"}
    [feedback] = (course / "feedback" / "half" / LAB).glob("*.html")
    text = feedback.read_text(encoding="utf-8")
    assert "Picard's iteration. (1 of 1 points)" in text and "Not attempted yet." in text
    assert failed(path) == [class_notebooks.CHECKS[1]]
    capsys.readouterr()
    assert main(["grade", str(course)]) == 0
    assert "half/00_start_here  ok, kept from before" in capsys.readouterr().out
    assert rows(course)["half"]["points"] == "1"


def test_a_submission_that_is_not_where_it_should_be_is_named(course, tmp_path, capsys):
    (course / "submitted" / "lost" / "99_none").mkdir(parents=True)
    (course / "submitted" / "lost" / LAB).mkdir(parents=True)
    stray = [course / "submitted" / name for name in ("mail.ipynb", "lost/loose.ipynb",
                                                      f"lost/{LAB}/{LAB} (1).ipynb")]
    for path in stray:
        path.write_text("")
    try:
        found = {row.lab: row for row in grading.grade(course, progress=Silent())
                 if row.student in ("lost", "?")}
    finally:
        for path in stray:
            path.unlink()
        for name in ("99_none", LAB):
            (course / "submitted" / "lost" / name).rmdir()
        (course / "submitted" / "lost").rmdir()
    assert found["99_none"].status == found[LAB].status == "failed"
    assert found["99_none"].why == f"the course has no lab 99_none; it has {LAB}"
    assert found[LAB].why == (f"there is no {LAB}.ipynb in its folder; rename "
                              f"{LAB} (1).ipynb")
    assert found["mail"].student == "?" and found["loose"].student == "lost"
    assert "lost/loose.ipynb is not in submitted/<student>/loose/" in found["loose"].why


@pytest.mark.parametrize("left", [2, 1, 0])
def test_a_submission_without_marks_or_without_a_cell_gets_what_gives_points(course, left):
    notebook = editions.student(class_notebooks.instructors())  # as `idl-lab lab` copies it
    notebook.cells = [cell for cell in notebook.cells if cell.source not in CHECKS[left:]]
    where = {"notebook": LAB, "assignment": LAB, "db_url": f"sqlite:///{course}/gradebook.db"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in grading.Completed(), grading.OverwriteCells():
            notebook, _ = step.preprocess(notebook, {"nbgrader": where})
    given = {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if is_grade(cell)}
    assert [cell.source.split("\n")[0] for cell in given.values()] == [*CHECKS]
    assert [cell.metadata.nbgrader.points for cell in given.values()] == [1, 2]
    assert all("BEGIN HIDDEN TESTS" in cell.source for cell in given.values())


def test_a_lab_is_not_written_over_and_another_may_join(course, tmp_path, capsys):
    source = (course / "source" / LAB / f"{LAB}.ipynb").read_bytes()
    labs = class_notebooks.write(tmp_path, class_notebooks.instructors())
    assert main(["student", str(course), "--notebooks", str(labs)]) == 2
    assert "is there already: remove it first" in capsys.readouterr().err
    assert (course / "source" / LAB / f"{LAB}.ipynb").read_bytes() == source


def test_a_folder_that_is_no_course_or_has_nothing_submitted_is_refused(tmp_path, capsys):
    assert main(["grade", str(tmp_path)]) == 2
    assert "is no course: it has no nbgrader_config.py" in capsys.readouterr().err
    (tmp_path / editions.CONFIG).write_text(editions.CONFIG_TEXT)
    assert main(["grade", str(tmp_path)]) == 2
    assert "nothing was submitted: put the notebooks into" in capsys.readouterr().err


# ---- what the kernel says is not believed --------------------------------------------------------

RESULT = v4.new_output("execute_result", {"text/plain": "2.0"})
ERROR = v4.new_output("error", ename="NameError", evalue="", traceback=[])
RED = v4.new_output("stream", name="stderr", text="UserWarning")


def sent(answer: object) -> nbformat.NotebookNode:
    return v4.new_output("display_data",
                         {judge.MIME: base64.b64encode(cloudpickle.dumps(answer)).decode()})


class Said:
    """In the place of a `Judge`: half of the points for "half"."""

    def __call__(self, name: str, pickled: bytes) -> tuple[float, str]:
        assert name == "start_here.picard_step"
        return {"half": 1.0, "right": 2.0}.get(cloudpickle.loads(pickled), 0.0), "why"


@pytest.mark.parametrize(("outputs", "earned"), [
    ([], 0.0), ([RESULT], 0.0), ([RESULT, RESULT], 0.0), ([ERROR], 0.0), ([RED, RESULT], 0.0),
    ([RESULT, sent("wrong"), RESULT], 0.0), ([sent("half"), RESULT], 1.0),
    ([RED, sent("right")], 2.0), ([sent("right"), sent("wrong")], 0.0),
])
def test_a_cell_has_the_points_of_the_answer_that_it_sent(outputs, earned):
    cell = v4.new_code_cell("check.start_here.picard_step(my_step)" + editions.HIDDEN.format(
        name="start_here.picard_step", answer="my_step"), outputs=outputs)
    cell.metadata["nbgrader"] = {"grade": True, "solution": False, "points": 2}
    grading._settle(cell, Said())
    assert determine_grade(nbformat.from_dict(cell)) == (earned, 2.0)


def test_cells_behind_the_end_of_the_time_are_not_run():
    runs = grading.Judged(seconds=5)
    runs._end = 0.0
    cell, _ = runs.preprocess_cell(v4.new_code_cell("1 / 0"), {}, 0)
    assert [output.ename for output in cell.outputs] == [grading.ENDED]
    assert "5 seconds" in cell.outputs[0].traceback[0]


def test_the_table_names_what_failed():
    shown = grading.table([
        grading.Row("ada", LAB, points={"a": 1.5, "b": 0.0}, of={"a": 2.0, "b": 1.0}),
        grading.Row("bo", LAB, "failed", "why"),
        grading.Row("cy", LAB, "timed out", points={"a": 0.0}, of={"a": 2.0})])
    assert shown.splitlines() == [
        "student  lab            points",
        "ada      00_start_here  1.5 of 3  a 1.5/2  b 0/1",
        "bo       00_start_here  failed    why",
        "cy       00_start_here  0 of 2    a 0/2  (timed out)"]


# ---- whole rounds, minutes -----------------------------------------------------------------------

PLANTED = "def points(*arguments):\n    return 2.0\n"
ANY = ("class Any:\n    def __getattr__(self, name): return self\n"
       "    def __call__(self, *arguments, **options): return 2.0\n")
CHEATS = {
    "hard_coded": {"step": "def my_step(A, B, X, U):\n    return torch.zeros(4, 4)"},
    "borrowed": {"step": "my_step = check.start_here.exercises['picard_step'].exercise.right"},
    "check": {"first": f"{ANY}check = Any()"},
    "verdict": {"first": "from idl_lab.labs.kit import exercise\n"
                         "exercise.Verdict.points = 2.0\nexercise.Verdict.__repr__ = lambda s: '2'"
                         "\nexercise.Exercise.__call__ = lambda *a, **k: exercise.Verdict("
                         "exercise.Outcome.RIGHT, '', 1.0)"},
    "allclose": {"step": "def my_step(A, B, X, U):\n    return A",
                 "first": "torch.allclose = lambda *a, **k: True"},
    "points": {"first": "import importlib\nfrom idl_lab.labs import judge\n"
                        "judge.points = lambda *a: 2.0\nimportlib.reload = lambda module: module"},
    "formatter": {"first": "get_ipython().display_formatter.formatters['text/plain'].for_type("
                           "float, lambda value, printer, cycle: printer.text('2.0'))"},
    "modules": {"first": f"{ANY}import sys\nsys.modules['idl_lab.labs.judge'] = Any()\n"
                         "sys.modules['cloudpickle'] = Any()"},
    "subprocess": {"first": "import subprocess\nclass Done: stdout = '{\"points\": 2, \"said\": "
                            "\"\"}'\nsubprocess.run = lambda *a, **k: Done()"},
    "environment": {"first": f"import os\ndel os.environ[{judge.OUTSIDE!r}]"},
    "planted": {"files": {"torch.py": "def __getattr__(name): return 2.0",
                          "idl_lab/__init__.py": "", "idl_lab/labs/__init__.py": f"{ANY}check=Any()"
                          "\n", "idl_lab/labs/judge.py": PLANTED}},
    "unpickled": {"step": "class my_step:\n    def __reduce__(self):\n        return exec, ("
                          "'import os; os.write(1, b\"{}\"); os._exit(0)',)\nmy_step = my_step()"},
}
FULL = {"untouched": ({}, "0"), "half": ({"step": STEP}, "1"),
        "right": ({"step": STEP, "damping": DAMPING}, "3")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_submissions_and_what_validate_says_of_them(course):
    for student, (answers, _) in FULL.items():
        hand_in(course, student, **answers)
    assert main(["grade", str(course)]) == 0
    for student, (_, earned) in FULL.items():
        row = rows(course)[student]
        assert (row["status"], row["points"]) == ("ok", earned)
        assert list((course / "feedback" / student / LAB).glob("*.html"))
        lacking = [check for check, name, full in zip(
            class_notebooks.CHECKS, ("picard_step", "fastest_damping"), "12", strict=True)
            if row[name] != full]
        assert failed(course / "submitted" / student / LAB / f"{LAB}.ipynb") == lacking
    assert failed(course / "source" / LAB / f"{LAB}.ipynb") == []
    assert failed(course / "release" / LAB / f"{LAB}.ipynb") == [*class_notebooks.CHECKS]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cheats_earn_nothing(course):
    for cheat, answers in CHEATS.items():
        hand_in(course, cheat, **answers)
    grading.grade(course, progress=Silent())
    assert {name: rows(course)[name]["points"] for name in CHEATS} == dict.fromkeys(CHEATS, "0")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_notebook_that_does_not_end_or_that_dies_is_named_and_the_others_graded(course, capsys):
    hand_in(course, "endless", step="def my_step(A, B, X, U):\n    while True: pass",
            damping=DAMPING)
    hand_in(course, "dead", first="import os; os._exit(1)")
    try:
        assert main(["grade", str(course), "--timeout", "120"]) == 1
    finally:
        for student in ("endless", "dead"):
            (course / "submitted" / student / LAB / f"{LAB}.ipynb").unlink()
            (course / "submitted" / student / LAB).rmdir()
    found = rows(course)
    assert (found["endless"]["status"], found["endless"]["points"]) == ("timed out", "2")
    assert (found["dead"]["status"], found["dead"]["points"]) == ("failed", "")
    assert "dead/00_start_here  failed" in capsys.readouterr().out


GRADED = """
import sys
from otter.api import grade_submission
found = grade_submission(*sys.argv[1:], quiet=True)
print(found.total, found.possible)
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_round_with_otter(tmp_path):
    labs = class_notebooks.write(tmp_path / "labs", class_notebooks.instructors())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own packages warn when they are imported
        assert main(["student", "--otter", str(tmp_path / "o"), "--notebooks", str(labs)]) == 0
    [autograder] = (tmp_path / "o" / LAB / "autograder").glob("*.zip")
    copy = tmp_path / "o" / LAB / "student" / f"{LAB}.ipynb"
    assert "1 / (1 - slope)" not in copy.read_text() and "points(" not in copy.read_text()
    for student, (answers, earned) in FULL.items():
        folder = class_notebooks.write(tmp_path / student, class_notebooks.answered(
            nbformat.read(copy, as_version=4), **answers))
        # In a process of its own: it leaves sockets open, which warn at the end of this one.
        done = subprocess.run([sys.executable, "-c", GRADED, folder / f"{LAB}.ipynb", autograder],
                              capture_output=True, text=True)
        assert [*map(float, done.stdout.split()[-2:])] == [float(earned), 3.0], done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_lab_of_the_series_untouched_and_solved(tmp_path):
    course = tmp_path / "course"
    labs = series.find()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        editions.course(course, labs, str)
    for lab in labs:
        for student, kind in (("untouched", "release"), ("right", "source")):
            notebook = nbformat.read(course / kind / lab.name / f"{lab.name}.ipynb", as_version=4)
            class_notebooks.write(course / "submitted" / student / lab.name, notebook, lab.name)
    for row in grading.grade(course, progress=Silent()):
        assert row.status == "ok", (row.student, row.lab, row.why)
        wanted = row.of if row.student == "right" else dict.fromkeys(row.of, 0.0)
        assert row.points == wanted, (row.student, row.lab)
