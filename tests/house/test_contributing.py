"""CONTRIBUTING.md's snippets are whole changes: each is made in a copy of the tree and tried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ANSWER = re.search(r"```text\n(def my_twice.*?)```", TEXT, re.DOTALL)[1]
SNIPPETS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The tree with every snippet in its place and a notebook for the new lab."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("idl_lab", "notebooks", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, source in SNIPPETS.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_text(encoding="utf-8") + "\n\n" if path.exists() else ""
        path.write_text(before + source, encoding="utf-8")
    cells = [nbformat.v4.new_markdown_cell("# 99 · Echo"),
             nbformat.v4.new_code_cell("seed: int = 0  # of every random draw, in [0, ∞)\n"
                                       "device: str = 'cpu'  # where: auto, cpu, cuda or mps",
                                       metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("from idl_lab.labs import check\n" + ANSWER),
             nbformat.v4.new_code_cell("check.echo.twice(my_twice)"),
             nbformat.v4.new_code_cell("assert check.echo.summary().points == 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / "99_echo.ipynb")
    return root


def run(copy: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=copy, capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(copy)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_section_has_its_snippet():
    assert set(SNIPPETS) == {
        "idl_lab/fixed_point/mann.py", "idl_lab/constraints.py",
        "idl_lab/sim/solvers/proximal_gradient.py", "idl_lab/labs/echo/__init__.py",
        "idl_lab/labs/echo/exercises.py"}


def test_a_model_solves_with_a_new_solver_and_finds_the_same_state(copy):
    run(copy, "-c", """
import torch
from idl_lab import ImplicitModel
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.mann import Mann
model = ImplicitModel(4, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
U = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
model.solver = Picard(rtol=1e-12)
wanted = model.equilibrium(U).value
model.solver = Mann(rtol=1e-12)
found = model.equilibrium(U)
assert found.status.name == "CONVERGED"
torch.testing.assert_close(found.value, wanted, rtol=0, atol=1e-9)
""")


def test_a_model_trains_and_travels_under_a_new_constraint(copy):
    run(copy, "-c", """
import torch
from idl_lab import ImplicitModel
options = dict(dtype=torch.float64, constraint="spectral", kappa=0.5)
model = ImplicitModel(4, 2, 6, **options, generator=torch.Generator().manual_seed(0))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
for _ in range(5):
    model(torch.ones(3, 4, dtype=torch.float64)).pow(2).sum().neg().backward()
    optimizer.step()
assert abs(float(torch.linalg.matrix_norm(model.A, 2)) - 0.5) < 1e-9
other = ImplicitModel(4, 2, 6, **options)
other.load_state_dict(model.state_dict())
torch.testing.assert_close(other.A, model.A)
""")


def test_a_new_sim_solver_reaches_the_certified_optimum(copy):
    run(copy, "-c", """
import torch
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.sim.solvers.proximal_gradient import ProximalGradientSolver
draws = torch.Generator().manual_seed(0)
F, T = (torch.randn(50, k, generator=draws, dtype=torch.float64) for k in (8, 3))
problem = Problem(F.T @ F, T.T @ F, T.square().sum(0), lam=1.0, kappa=0.5, ball=4)
options = dict(tol=1e-8, device="cpu", progress=False)
mine, best = (solver(**options).solve(problem) for solver in (ProximalGradientSolver, ADMMSolver))
assert mine.status.name == "SOLVED" and (problem.violation(mine.W) <= 0).all()
torch.testing.assert_close(mine.stats.objective, best.stats.objective, rtol=1e-7, atol=0)
""")


def test_a_lab_is_one_notebook_and_one_folder(copy):
    listed = run(copy, "-m", "idl_lab", "list", "99")
    assert "99_echo  99 · Echo\n    seed    int  0" in listed and "in [0, ∞)" in listed
    assert run(copy, "-m", "idl_lab", "run", "99").count("ok") >= 1
    passed = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "echo",
                 "tests/labs/test_exercises.py", "tests/house/test_layering.py")
    # Both files of the lab in the house; untouched, right, stub, hard-coded, slip, odd answers.
    assert int(re.search(r"(\d+) passed", passed)[1]) >= 8, passed
    run(copy, "-c", "from idl_lab.runs.gallery import gallery\nassert len(gallery()) > 30")
