"""What README and docs say runs: their Python, their commands, their links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from idl_lab.__main__ import main
from idl_lab.labs.kit import digits_teacher

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
    A, B, C, D = (torch.randn(shape) / 10 for shape in ((6, 6), (6, 4), (3, 6), (3, 4)))
    net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(98, 10))
    return {"A": A, "B": B, "C": C, "D": D, "net": net, "x": torch.randn(2, 5, 1),
            "teacher": teacher, "train_loader": train, "test_loader": test,
            "first": ImplicitModel(4, 3, 5), "second": ImplicitModel(3, 2, 5)}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "sim.md",
                                  ROOT / "docs" / "from_torchidl.md"], ids=lambda p: p.name)
def test_the_snippets_run(page, given, capsys):
    assert snippets(page)
    for source in snippets(page):
        exec(compile(source, page.name, "exec"), given)  # one after the other, as they are read
    assert "exactly one equilibrium" in capsys.readouterr().out


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
