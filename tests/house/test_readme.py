"""What README and docs say runs: their Python, their commands, their links."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

import idl_lab.compose
from idl_lab.__main__ import main
from idl_lab.labs.kit import digits_teacher
from idl_lab.records import MIME
from idl_lab.runs.results import KEY
from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
         *sorted((ROOT / "docs").glob("*.md"))]


def snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def given(tmp_path, monkeypatch) -> dict:
    """What a reader of the snippets brings: matrices, a network, a teacher, data."""
    from idl_lab import ImplicitModel

    monkeypatch.chdir(tmp_path)
    teacher, train, test = digits_teacher(0, epochs=2)
    U, labels = (part[:4] for part in next(iter(test)))
    # A run for "Reading the table": what idl-lab writes into a notebook's metadata.
    run = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[
        nbformat.v4.new_output("display_data", {MIME: {"numbers": [["test_accuracy", 0.5]]}})])])
    run.metadata[KEY] = {"notebook": "05_training", "status": "ok", "versions": {},
                         "parameters": {"kappa": 0.5, "n": 20}}
    (tmp_path / "kappas").mkdir()
    nbformat.write(run, tmp_path / "kappas" / "run.ipynb")
    A, B, C, D = (torch.randn(shape) / 10 for shape in ((6, 6), (6, 4), (3, 6), (3, 4)))
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(98, 10))
    return {"A": A, "B": B, "C": C, "D": D, "net": net, "x": torch.randn(2, 5, 1),
            "teacher": teacher, "train_loader": train, "val_loader": test, "test_loader": test,
            "model": ImplicitModel.from_network(teacher), "U": U, "labels": labels,
            "SIM": SIM, "ADMMSolver": ADMMSolver, "idl_lab": idl_lab,
            "first": ImplicitModel(4, 3, 5), "second": ImplicitModel(3, 2, 5)}


@pytest.mark.parametrize("page", [
    # A path along nine λ takes as long as all other pages together.
    pytest.param(page, id=page.name, marks=[pytest.mark.slow] * (page.stem == "sparsity"))
    for page in PAGES if page.stem != "CONTRIBUTING" and snippets(page)])
def test_the_snippets_run(page, given, capsys):
    for source in snippets(page):
        if not re.search(r"^from dask_", source, re.MULTILINE):  # "Neither deployer was tried"
            exec(compile(source, page.name, "exec"), given)  # one after the other, as they are read
    said = capsys.readouterr().out
    assert "exactly one equilibrium" in said or ".certificate()" not in "".join(snippets(page))


def test_the_pages_that_show_how_have_snippets():
    named = {page.stem for page in PAGES if snippets(page)}
    assert {"README", "constraints", "solvers", "adjoints", "training", "networks", "sim",
            "robustness", "sweeps", "from_torchidl", "from_deq"} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_into_the_project_leads_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [name for name in links if not (page.parent / name).exists()] == []


def test_the_commands_of_the_makefile_are_there(capsys):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for command in set(re.findall(r"(?:^|`|/)idl-lab ([a-z]+)", text, re.MULTILINE)):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
