"""The check of a reader's set-up: each lack is a line that says what is wanted and what to type."""

from __future__ import annotations

import builtins
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from idl_lab.labs import setup

ROOT = Path(__file__).resolve().parents[2]
REQUIRES = {
    "idl_lab": ["torch<3,>=2.6", "bokeh>=3.4; extra == 'labs'", "ipywidgets>=8.1; extra == 'labs'",
                "sphinx>=8.1; extra == 'docs'"],
    "ipywidgets": ["comm>=0.1.3", "jupyterlab_widgets~=3.0.15"],
}
FINE = {"torch": "2.13.0+cpu", "bokeh": "3.9.2", "ipywidgets": "8.1.9",
        "jupyterlab_widgets": "3.0.17"}


@pytest.fixture
def found(monkeypatch, tmp_path):
    """What is said with these versions installed; None stands for one that is not."""
    def look(python: str = ">=3.11", **changed: str | None) -> setup.Setup:
        versions = FINE | changed

        def version(name: str) -> str:
            if versions.get(name) is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(setup.metadata, "requires", REQUIRES.get)
        monkeypatch.setattr(setup.metadata, "version", version)
        monkeypatch.setattr(setup.metadata, "metadata", lambda name: {"Requires-Python": python})
        return setup.check_setup(tmp_path)
    return look


def faults(checked: setup.Setup) -> list[setup.Line]:
    return [line for line in checked.lines if line.do]


def test_nothing_is_missing(found, tmp_path):
    checked = found()
    assert checked.ok and repr(checked).endswith("All that the labs need is here.")
    assert "3 packages within their bounds" in repr(checked) and "1797 images" in repr(checked)
    # It is saved with lab 00, and read on other machines.
    assert str(tmp_path) not in repr(checked) and sys.executable not in repr(checked)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("changed", "says", "type_"), [
    ({"bokeh": None}, "bokeh is not installed, >=3.4 is wanted", '"bokeh>=3.4"'),
    ({"bokeh": "3.3.4"}, "bokeh 3.3.4, >=3.4 is wanted", '"bokeh>=3.4"'),
    ({"torch": "3.0.1"}, "torch 3.0.1, <3,>=2.6 is wanted", '"torch<3,>=2.6"'),
    ({"jupyterlab_widgets": None}, "jupyterlab_widgets is not installed, ~=3.0.15 is", "Type: "),
    ({"jupyterlab_widgets": "1.1.11"}, "jupyterlab_widgets 1.1.11, ~=3.0.15 is wanted",
     '"jupyterlab_widgets~=3.0.15" and start JupyterLab again'),
    ({"python": ">=4.2"}, ">=4.2 is wanted", "newer Python"),
])
def test_a_lack_is_one_line_that_says_what_to_type(found, changed, says, type_):
    checked = found(**changed)
    [line] = faults(checked)
    assert says in line.found and type_ in line.do and not checked.ok
    assert f"{line.found}\n       {line.do}\n" in repr(checked) and sys.executable in repr(checked)


def test_a_development_version_within_the_bounds_is_taken(found):
    assert found(torch="2.14.0.dev20261101", bokeh="3.10.0rc1").ok


def test_several_lacks_are_all_named(found):
    assert len(faults(found(bokeh=None, torch="2.1.0", jupyterlab_widgets=None))) == 3


def no(module: str):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(name, *rest, **options)
    return without


def broken(*given, **options):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(("where", "name", "becomes", "says", "do"), [
    (tempfile, "TemporaryFile", broken, "(Permission denied)", "idl-lab lab my_labs"),
    (builtins, "__import__", no("packaging"), "No module named 'packaging'", '".[labs]"'),
    (torch.linalg, "inv", lambda A: A, "comes out wrong", "--force-reinstall"),
    (torch, "eye", lambda *n, **o: 1 / 0, "torch: ZeroDivisionError", "Visual C++"),
])
def test_what_fails_otherwise_is_a_line_too(found, monkeypatch, where, name, becomes, says, do):
    found()  # what it imports is loaded
    monkeypatch.setattr(where, name, becomes)
    checked = found()
    assert any(says in line.found and do in line.do for line in faults(checked))


@pytest.mark.parametrize("folder", ["no/such/folder", "a file"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, folder):
    (tmp_path / "a file").touch()
    said = repr(setup.check_setup(tmp_path / folder))
    assert f"nothing can be saved in {tmp_path / folder}" in said


def test_digits_that_do_not_load_are_a_line(found, monkeypatch):
    monkeypatch.setattr("idl_lab.data.load", broken)
    [line] = faults(found())
    assert line.found.startswith("the digits: PermissionError") and "scikit-learn" in line.do


def test_a_copy_that_was_never_installed_is_one_line(monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for ask in ("requires", "version", "metadata"):
        monkeypatch.setattr(setup.metadata, ask, none)
    ours, widgets = faults(setup.check_setup())
    assert ours.found == "idl_lab is not installed in this Python" and '".[labs]"' in ours.do
    assert widgets.found == "ipywidgets is not installed in this Python"


# A Python in which nothing of all that is installed: the module itself must still be read.
BARE = """
import sys
for name in ("torch", "numpy", "scipy", "sklearn", "ipywidgets", "matplotlib", "packaging"):
    sys.modules[name] = None
sys.path.insert(0, {root!r})
from idl_lab.labs.setup import check_setup
print(check_setup())
"""


def test_it_speaks_in_a_python_that_has_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-S", "-c", BARE.format(root=str(ROOT))], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TO DO") >= 4 and "can be saved" in done.stdout
    assert f'Type: "{sys.executable}" -m pip install ".[labs]"' in done.stdout
