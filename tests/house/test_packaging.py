"""pyproject.toml, the pins and environment.yml hold together; the Makefile fails in a sentence."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import idl_lab

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PIN_LINES = [line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]
PINS = {canonicalize_name(name): version
        for name, version in (line.split("==") for line in PIN_LINES)}
EXTRAS = PROJECT["project"]["optional-dependencies"]
WANTED = [Requirement(text) for text in [
    *PROJECT["project"]["dependencies"],
    *(text for extra in EXTRAS.values() for text in extra),
    *PROJECT["build-system"]["requires"],
]]
DIRECT = [wanted for wanted in WANTED if wanted.name != "idl_lab"]
# Pinned by torch's own metadata; only the wheel of the package index wants them.
CUDA = ("nvidia-", "cuda-", "triton")


@pytest.mark.parametrize("wanted", DIRECT, ids=str)
def test_every_direct_dependency_is_pinned_within_its_bound(wanted):
    assert canonicalize_name(wanted.name) in PINS
    assert wanted.specifier.contains(PINS[canonicalize_name(wanted.name)])


def test_each_extra_holds_the_one_before_and_the_last_is_what_ci_installs():
    steps, others = ["train", "sim", "labs"], ["verify", "class", "docs"]
    assert list(EXTRAS) == [*steps, *others, "test"]
    for before, extra in itertools.pairwise(steps):
        assert f"idl_lab[{before}]" in EXTRAS[extra]
    assert {f"idl_lab[{extra}]" for extra in ["labs", *others]} <= set(EXTRAS["test"])


# What the models need, and nothing else: seconds saved, and extras that may be missing.
IMPORTS = """
import sys
for name in {absent!r}:
    sys.modules[name] = None
import idl_lab, torch
from idl_lab import sim
model = idl_lab.ImplicitModel(4, 2, 6)
model(torch.randn(8, 4)).sum().backward()
print(*{{name.partition(".")[0] for name in sys.modules}})
"""
OPTIONAL = ["IPython", "cvxpy", "ipywidgets", "joblib", "jupyterlab", "matplotlib", "nbformat",
            "onnx", "pandas", "papermill", "sklearn", "tqdm"]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_models_need_torch_numpy_and_scipy_alone():
    python(IMPORTS.format(absent=OPTIONAL))


def test_import_idl_lab_loads_nothing_that_it_does_not_use():
    shown = python("import sys, torch\nbefore = set(sys.modules)\nfrom idl_lab import *\n"
                   "print(*(set(sys.modules) - before))").split()
    assert "idl_lab.model" in shown
    # torch's compiler and scipy's sparse matrices each take as long as half of `import torch`.
    slow = {"torch._dynamo", "scipy.sparse", "scipy.sparse.linalg", *OPTIONAL}
    assert not slow & set(shown)


def test_the_command_line_needs_no_torch_and_the_models_are_there_when_asked_for():
    shown = python("import sys\nimport idl_lab.__main__, idl_lab.runs.runner\n"
                   "print('torch' in sys.modules, idl_lab.ImplicitModel.__name__,\n"
                   "      'torch' in sys.modules, 'ImplicitRNN' in dir(idl_lab))")
    assert shown.split() == ["False", "ImplicitModel", "True", "True"]
    with pytest.raises(ImportError, match="cannot import name 'ImplicitModle'"):
        from idl_lab import ImplicitModle  # noqa: F401


@pytest.mark.parametrize(("absent", "call", "extra"), [
    ("pandas", "idl_lab.training.fit(idl_lab.ImplicitModel(4, 2, 6), [])", "train"),
    ("sklearn", "idl_lab.data.load('digits')", "train"),
    ("cvxpy", "idl_lab.sim.solvers.CVXSolver()", "sim"),
    ("onnx", "idl_lab.robustness.to_onnx(idl_lab.ImplicitModel(4, 2, 6), 'x.onnx')", "verify"),
])
def test_what_is_missing_is_named_with_the_extra_that_has_it(absent, call, extra):
    shown = python(f"import sys\nsys.modules[{absent!r}] = None\n"
                   "import idl_lab, idl_lab.data, idl_lab.robustness, idl_lab.sim.solvers\n"
                   "import idl_lab.training\n"
                   f"try: {call}\nexcept ModuleNotFoundError as error: print(error)")
    assert shown.startswith(f"this needs {absent}") and f"pip install 'idl_lab[{extra}]'" in shown


@pytest.mark.parametrize("name", PINS)
def test_the_pins_are_closed_under_requirement(name):
    try:
        needed = [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        pytest.fail(f"{name} is pinned but not installed here: this is not the pinned environment")
    for other in needed:
        if other.marker and not other.marker.evaluate({"extra": ""}):
            continue
        if not other.name.startswith(CUDA):
            assert canonicalize_name(other.name) in PINS, f"{name} needs {other}"


@pytest.mark.parametrize("name", PINS)
def test_every_pin_takes_each_python_that_is_promised(name):
    """A pin may refuse the first releases of a Python: Debian 12 has 3.11.2."""
    taken = SpecifierSet(metadata(name).get("Requires-Python", ""))
    assert all(taken.contains(f"3.{minor}.0") for minor in range(11, 15))


def test_pins_are_exact_sorted_and_without_local_versions():
    assert PIN_LINES == sorted(PIN_LINES, key=lambda line: line.split("==")[0].lower())
    assert len(PINS) == len(PIN_LINES)
    assert all(Version(version).local is None for version in PINS.values())
    assert PINS["torch"] == "2.13.0"
    assert not [name for name in PINS if name.startswith((*CUDA, "torchvision"))]


def test_conda_takes_python_and_pip_and_leaves_the_rest_to_the_pins():
    assert CONDA["name"] == PROJECT["project"]["name"] == "idl_lab"
    assert CONDA["channels"] == ["conda-forge", "nodefaults"]
    *packages, through_pip = CONDA["dependencies"]
    python, pip = packages
    assert pip == "pip"
    assert through_pip == {"pip": ["-r requirements.txt", "-e ."]}
    bounds = SpecifierSet(python.removeprefix("python"))
    assert PROJECT["project"]["requires-python"] in [str(bound) for bound in bounds]


CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"  # elsewhere torch brings CUDA


def test_binder_and_the_container_take_the_labs_at_the_pins_and_torch_for_the_cpu():
    binder = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text(encoding="utf-8"))
    python, pip, through_pip = binder["dependencies"]
    assert (binder["name"], binder["channels"], pip) == (CONDA["name"], CONDA["channels"], "pip")
    assert through_pip == {"pip": [CPU, "-c ../requirements.txt", "-e ..[labs]"]}
    container = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    assert " ".join(f"RUN pip install --no-cache-dir {CPU} -c requirements.txt '.[labs]'".split()
                    ) in " ".join(container.split())
    [base] = re.findall(r"^FROM python:(\S+)-slim$", container, re.MULTILINE)
    promised = SpecifierSet(PROJECT["project"]["requires-python"])
    assert base in promised and python.removeprefix("python=") in promised
    for line in re.findall(r"^COPY (.*) \S+$", container, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())
    assert f"pip wheel --wheel-dir wheelhouse {CPU} -c requirements.txt" in (
        ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")


def test_one_version():
    assert idl_lab.__version__ == PROJECT["project"]["version"]


# The Makefile, run for real in a copy of what it needs.


@pytest.fixture
def make(tmp_path):
    """Run make in a copy; PATH holds only what the test puts into bin/, and grep and id."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for tool in ["grep", "id", "rm"]:
        (binaries / tool).symlink_to(shutil.which(tool))
    for file in ["Makefile", "pyproject.toml", "requirements.txt"]:
        shutil.copy(ROOT / file, tmp_path)
    program = shutil.which("make")

    def run(target: str, **environment: str) -> tuple[int, list[str]]:
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith(("PIP_", "MAKE", "MFLAGS", "PYTHON"))}
        done = subprocess.run([program, target], cwd=tmp_path, capture_output=True, text=True,
                              env=clean | {"PATH": str(binaries)} | environment)
        said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        return done.returncode, done.stdout.splitlines() + said

    return run


def stub(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("target", ["run", "test", "lab", "venv"])
def test_no_python_is_one_sentence(make, tmp_path, target):
    status, said = make(target)
    assert status != 0 and not (tmp_path / ".venv").exists()
    [sentence] = said
    assert sentence.startswith("idl_lab needs Python >= 3.11 and found only no python3 python3.14")


def test_an_old_python_is_one_sentence_that_names_it(make, tmp_path):
    stub(tmp_path, "python3", 'case "$2" in *print*) echo 3.9;; *) exit 1;; esac')
    stub(tmp_path, "python3.12", "exit 127")  # as a version manager's shim does
    status, said = make("run")
    assert status != 0 and not (tmp_path / ".venv").exists()
    assert said == ["idl_lab needs Python >= 3.11 and found only python3 (3.9): install one or "
                    "name it, make run PYTHON=/path/to/python3.11"]


def test_a_python_without_venv_is_one_sentence(make, tmp_path):
    stub(tmp_path, "python3", f'case "$2" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; '
                              'esac')
    status, said = make("run")
    assert status != 0 and not (tmp_path / ".venv").exists()
    [sentence] = said
    assert sentence.startswith("python3 (3.") and "has no venv or ensurepip module" in sentence


def test_no_network_is_one_sentence(make, tmp_path):
    status, said = make("run", PYTHON=sys.executable, PIP_CONFIG_FILE=os.devnull,
                        PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert status != 0
    [sentence] = said
    assert sentence.startswith("The packages cannot be downloaded: pip reaches no package index")


def test_a_complete_environment_needs_no_network(make, tmp_path):
    stub_environment = tmp_path / ".venv" / "bin"
    stub_environment.mkdir(parents=True)
    (stub_environment / "python").write_text('#!/bin/sh\necho "python $@"\n')
    (stub_environment / "python").chmod(0o755)
    (tmp_path / ".venv" / ".complete").touch()
    assert make("run", ARGS="02 -p kappa 0.5") == (0, ["python -m idl_lab run 02 -p kappa 0.5"])
