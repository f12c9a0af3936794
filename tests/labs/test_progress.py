"""What is kept of the tries: beside the notebooks, through whatever happens to the file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from idl_lab.labs.kit import progress


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "FILE", ".idl_lab_progress.json")
    return tmp_path / ".idl_lab_progress.json"


def test_changes_add_up_and_stand_in_the_folder_of_the_notebook(file):
    progress.note("a.x", tries=1)
    progress.note("a.x", share=0.5)
    progress.note("b.y", hints=2)
    assert progress.read() == {"a.x": {"tries": 1, "share": 0.5}, "b.y": {"hints": 2}}
    assert json.loads(file.read_text()) == progress.read()
    assert {p.name for p in file.parent.iterdir()} <= {file.name, f"{file.name}.lock"}


def test_another_folder_knows_nothing_of_it(file, tmp_path, monkeypatch):
    progress.note("a.x", tries=1)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert progress.read() == {}


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"a"', "\udcff"])
def test_a_broken_file_counts_as_none_and_is_mended(file, text):
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert progress.read() == {}
    progress.note("a.x", tries=1)
    assert json.loads(file.read_text()) == {"a.x": {"tries": 1}}


@pytest.mark.parametrize("text", ['{"a.x": 3}', '{"a.x": null}', '{"a.x": ["tries"]}'])
def test_an_entry_that_is_none_counts_as_untried(file, text):
    file.write_text(text)
    assert progress.read().get("a.x", {}) == {}
    progress.note("a.x", tries=1)
    assert progress.read() == {"a.x": {"tries": 1}}


def test_where_no_file_can_be_made_the_kernel_remembers(file, monkeypatch):
    file.parent.joinpath("no folder").write_text("")
    monkeypatch.setattr(progress, "FILE", "no folder/progress.json")
    progress.note("a.x", tries=1)
    progress.note("a.x", share=0.5)
    assert progress.read() == {"a.x": {"tries": 1, "share": 0.5}}


def test_two_kernels_lose_nothing_of_each_other(file):
    """Two labs are open at once in one folder."""
    program = (f"import sys, importlib.util as u; "
               f"s = u.spec_from_file_location('p', {progress.__file__!r}); "
               f"p = u.module_from_spec(s); s.loader.exec_module(p); "
               f"[p.note(f'{{sys.argv[1]}}.{{k}}', tries=k) for k in range(40)]")
    kernels = [subprocess.Popen([sys.executable, "-c", program, lab]) for lab in "ab"]
    assert [kernel.wait() for kernel in kernels] == [0, 0]
    assert progress.read() == {f"{lab}.{k}": {"tries": k} for lab in "ab" for k in range(40)}
