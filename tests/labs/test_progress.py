"""What is kept of the tries: beside the notebooks, through whatever happens to the file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

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


def test_labs_that_are_open_at_once_lose_nothing_of_each_other(file):
    """Each call opens the lock's file anew, so threads exclude each other as kernels do."""
    def solve(lab):
        for k in range(10):
            progress.note(f"{lab}.{k}", tries=k)

    with ThreadPoolExecutor(3) as pool:
        [*pool.map(solve, "abc")]
    assert json.loads(file.read_text()) == {f"{lab}.{k}": {"tries": k}
                                            for lab in "abc" for k in range(10)}
