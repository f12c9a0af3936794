"""The editions: what a student gets, what nbgrader and otter are given, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import class_notebooks
import nbformat
import pytest
from nbformat import v4
from nbgrader.nbgraderformat import MetadataValidator
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions

from idl_lab.__main__ import main
from idl_lab.labs import check
from idl_lab.runs import editions, series

ROOT = Path(__file__).resolve().parents[2]
# What otter imports makes its traits in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:Traits should be given:DeprecationWarning")
LABS = series.of(ROOT / "notebooks")


def cleared(source: str) -> str:
    """The cell as nbgrader's own code leaves it."""
    cell = v4.new_code_cell(source)
    ClearSolutions(code_stub={"python": "..."})._replace_solution_region(cell, "python")
    return cell.source


@pytest.mark.parametrize("source", [
    "x = 1",
    "x = ...\n### BEGIN SOLUTION\nx = 2\n### END SOLUTION",
    "def f(x):\n    ### BEGIN SOLUTION\n    y = x\n\n    return y\n    ### END SOLUTION",
    "class A:\n    def f(self):\n        ### BEGIN SOLUTION\n        pass\n        ### END SOLUTION"
    "\n\n    b = 1\n",
    "def f():\n    '''\n    words\n    '''\n\n    ### BEGIN SOLUTION\n    ### END SOLUTION\n\nf()",
])
def test_a_cell_is_stripped_as_nbgrader_strips_it(source):
    assert editions.stripped(source) == cleared(source)


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_every_lab_has_its_edition(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert editions.stripped(cell.source) == cleared(cell.source)
    found = editions.graded(notebook, path.stem)
    MetadataValidator().validate_nb(notebook)
    lab = path.stem.partition("_")[2]
    assert [exercise.name for exercise in found] == [
        f"{lab}.{name}" for name in getattr(check, lab).exercises]
    for exercise in found:
        cell = notebook.cells[exercise.asked]
        assert cell.metadata.nbgrader["points"] == editions.points(exercise.name)
        ClearHiddenTests()._remove_hidden_test_region(cell)
        assert cell.source.strip() == f"check.{exercise.name}({exercise.answer})"


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_students_copy_has_one_stub_an_answer(path):
    copy = editions.student(nbformat.read(path, as_version=4))
    assert not [cell.source for cell in copy.cells
                if cell.cell_type == "code" and "\n...\n" in f"\n{cell.source}\n"]


def test_a_students_copy_has_no_answer_and_keeps_the_other_pictures():
    notebook = class_notebooks.instructors(
        "print(my_step)", "x = my_damping(-1.0)", "plot(3)", "%magic my_step", "%other",
        "check.start_here.summary()")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [v4.new_output("stream", text="seen")], 1
    copy = editions.student(notebook)
    assert [cell.source for cell in copy.cells if cell.get("outputs")] == [
        "import torch\n\nfrom idl_lab.labs import check", "plot(3)", "%other"]
    assert "1 / (1 - slope)" not in nbformat.writes(copy)
    assert [c.source for c in copy.cells if c.source.startswith("def")] == [
        "def my_step(A, B, X, U):\n    ...", "def my_damping(slope):\n    ..."]
    assert all("nbgrader" not in cell.metadata for cell in copy.cells)


@pytest.mark.parametrize(("change", "words"), [
    ((3, class_notebooks.STEP), "exercise start_here.picard_step has no answer cell before it"),
    ((3, "### BEGIN SOLUTION"), "wants one line ### BEGIN SOLUTION"),
    ((3, "### END SOLUTION\n### BEGIN SOLUTION"), "wants one line ### BEGIN SOLUTION"),
    ((4, "check.start_here.picard_stop(my_step)"), "asks check.start_here.picard_stop, and there"),
    ((4, "check.start_her.picard_step(my_step)"), "and there is no such exercise"),
    ((4, "check.start_here.picard_step(my_step, 1)"), "with the answer alone"),
    ((4, "check.start_here.picard_step(*my_step)"), "with the answer alone"),
    ((4, "my_step = 1\n\ncheck.start_here.picard_step(my_step)"), "a cell that is nothing but"),
    ((7, "check.start_here.picard_step(my_damping)"), "asks check.start_here.picard_step twice"),
])
@pytest.mark.parametrize("arguments", [[], ["--otter"]], ids=["nbgrader", "otter"])
def test_what_is_no_exercise_is_refused_before_anything_is_written(tmp_path, capsys, change, words,
                                                                   arguments):
    notebook = class_notebooks.instructors()
    notebook.cells[change[0]].source = change[1]
    folder = class_notebooks.write(tmp_path / "labs", notebook)
    assert main(["student", str(tmp_path / "course"), "--notebooks", str(folder), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("idl_lab: 00_start_here") and said.count("\n") == 1
    assert not (tmp_path / "course").exists()


@pytest.mark.parametrize("arguments", [[], ["--otter"]], ids=["nbgrader", "otter"])
@pytest.mark.parametrize(("there", "words"), [
    ("course", "is a file; a folder is wanted"),
    ("course/thesis.tex", "holds something else than a course of these labs: name a new folder"),
])
def test_a_folder_that_is_not_a_course_is_left_alone(tmp_path, capsys, there, words, arguments):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    folder = class_notebooks.write(tmp_path / "labs", class_notebooks.instructors())
    assert main(["student", str(tmp_path / "course"), "--notebooks", str(folder), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert [p for p in tmp_path.rglob("*") if p.is_file() and "labs" not in p.parts] == [path]


def test_the_master_for_otter_has_a_question_for_each_exercise():
    notebook = class_notebooks.instructors()
    found = editions.otter_master(notebook, "00_start_here")
    sources = [cell.source for cell in notebook.cells]
    raw = [cell.source.splitlines()[0] for cell in notebook.cells if cell.cell_type == "raw"]
    assert raw == ["# ASSIGNMENT CONFIG"] + 2 * [
        "# BEGIN QUESTION", "# BEGIN SOLUTION", "# END SOLUTION", "# BEGIN TESTS", "# END TESTS",
        "# END QUESTION"]
    for exercise, asks in zip(found, class_notebooks.CHECKS, strict=True):
        assert sources.count(asks) == 1
        tests = [source for source in sources if f'points("{exercise.name}"' in source]
        assert len(tests) == len(editions.steps(exercise.name)) > 0
        names = [name for test in tests for name in re.findall(r"^def (\w+)", test, re.MULTILINE)]
        assert len(set(names)) == len(tests)
        assert all(f"eval({exercise.answer!r}" in test and "hidden: true" in test
                   for test in tests)
    assert not any("### BEGIN" in source for source in sources)


def test_the_steps_of_an_exercise_end_at_its_points():
    for lab in check.labs():
        for checker in getattr(check, lab).exercises.values():
            steps = editions.steps(checker.name)
            assert steps == sorted(set(steps)) and steps[0] > 0
            assert steps[-1] == editions.points(checker.name)
