"""What every saved lab obeys, so that nothing but its content needs a reader's eye."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from idl_lab.labs import check
from idl_lab.runs.series import read_lab

ROOT = Path(__file__).parents[2]
LABS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(r"/(?:home|root|tmp|Users|work|opt)/\w|0x[0-9a-f]{8,}|127\.0\.0\.1")


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=LABS, ids=lambda p: p.stem)
def lab(request):
    return request.param, nbformat.read(request.param, as_version=4)


def test_the_series_is_numbered():
    numbers = [int(re.match(r"(\d\d)_", p.name)[1]) for p in LABS]
    assert numbers == sorted(set(numbers)) and numbers[:10] == list(range(10))


def test_saved_from_one_clean_run(lab):
    path, notebook = lab
    nbformat.validate(notebook)
    cells = code(notebook)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    assert not [o for c in cells for o in c.outputs if o.output_type == "error"]
    assert not [o.text for c in cells for o in c.outputs if o.get("name") == "stderr"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < 400_000


def test_shape(lab):
    path, notebook = lab
    cells = code(notebook)
    lengths = [len(c.source.splitlines()) for c in cells]
    assert statistics.median(lengths) <= 12 and max(lengths) <= 30
    tags = [tag for c in cells for tag in c.metadata.get("tags", [])]
    assert tags.count("parameters") == 1
    assert "raises-exception" not in tags  # nbval and `idl-lab run` allow it, papermill does not
    assert {"seed", "device"} <= set(read_lab(path).parameters)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for part in ("At the end you can", "Exercise", "## Takeaways", "**References.**"):
        assert part in text
    assert sum("assert" in c.source for c in cells) >= 5


def test_the_panel_has_a_static_twin(lab):
    _, notebook = lab
    twins = 0
    for cell in code(notebook):
        shown = [o.get("data", {}) for o in cell.outputs]
        for k, data in enumerate(shown):
            if data.get("text/plain", "").startswith("Panel("):
                assert "application/vnd.jupyter.widget-view+json" in data
                assert "idl-lab-state" in shown[k - 2]["text/html"]
                assert "image/png" in shown[k - 1] and shown[k - 1]["text/plain"]
                twins += 1
    assert twins


def test_each_exercise_has_an_answer_with_its_marks_and_a_cell_that_asks(lab):
    """In the order answer, question: what an edition for students is made of."""
    path, notebook = lab
    asked, answered = [], False
    for cell in code(notebook):
        marks = re.findall(r"### (?:BEGIN|END) SOLUTION$", cell.source, re.MULTILINE)
        assert marks in ([], ["### BEGIN SOLUTION", "### END SOLUTION"])
        question = re.fullmatch(r"check\.(\w+)\.(\w+)\(.*\)", cell.source, re.DOTALL)
        assert question or not re.search(r"^check\.(?!summary)\w+\.(?!summary)", cell.source,
                                         re.MULTILINE)
        if question and question[2] in getattr(check, question[1]).exercises:
            assert answered and question[1] == path.stem.partition("_")[2]
            assert "<b>Right.</b>" in json.dumps(cell.outputs)
            asked.append(question[2])
        answered = bool(marks) or answered and not question
    assert asked == [*getattr(check, path.stem.partition("_")[2]).exercises]


def test_what_is_for_maintainers_is_folded(lab):
    _, notebook = lab
    for cell in code(notebook):
        tags = cell.metadata.get("tags", [])
        theirs = re.search(r"^\s*assert |^record\(|NBVAL_", cell.source, re.MULTILINE)
        assert not theirs or "maintainer" in tags, cell.source
        assert "maintainer" not in tags or cell.metadata["jupyter"]["source_hidden"]


def test_nothing_of_the_machine_is_saved(lab):
    _, notebook = lab
    for cell in notebook.cells:
        shown = cell.source + json.dumps([
            {k: v for k, v in o.get("data", {"text": o.get("text")}).items() if k != "image/png"}
            for o in cell.get("outputs", [])])
        assert not MACHINE.search(shown), MACHINE.search(shown)


def test_readme_names_every_lab_and_only_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    linked = set(re.findall(r"\]\(((?:notebooks|figures)/[^)]+)\)", readme))
    assert {f"notebooks/{p.name}" for p in LABS} <= linked
    assert all((ROOT / name).exists() for name in linked)


def test_the_readmes_minutes_are_the_labs(lab):
    path, notebook = lab
    minutes = re.search(r"About (\d+) minutes to read; runs in under a minute on a laptop",
                        notebook.cells[0].source)[1]
    assert re.search(rf"{path.name}\) \| {minutes} \|", (ROOT / "README.md").read_text())
