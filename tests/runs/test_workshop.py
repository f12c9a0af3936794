"""The command line of an installed package: a folder of one's own, extras that are missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

import idl_lab
from idl_lab.__main__ import main
from idl_lab.runs import series, workshop

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "idl_lab"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A series of two notebooks, as the package ships it."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (folder / name).write_text(f"{name}, version 1")
    (folder / "notes.ipynb").write_text("no lab")
    monkeypatch.setattr(series, "shipped", lambda: folder)
    monkeypatch.setattr(workshop, "_copy", Path.read_bytes)  # they are no notebooks
    return folder


def texts(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted(folder.glob("*.ipynb"))}


def test_labs_are_copied_and_an_unchanged_copy_follows_a_new_version(shipped, tmp_path):
    mine = tmp_path / "some" / "where"
    assert workshop.refresh(mine) == []
    assert texts(mine) == {"00_a.ipynb": "00_a.ipynb, version 1",
                           "01_b.ipynb": "01_b.ipynb, version 1"}
    (shipped / "00_a.ipynb").write_text("version 2")
    (shipped / "02_c.ipynb").write_text("a new lab")
    assert workshop.refresh(mine) == []
    assert texts(mine) == {"00_a.ipynb": "version 2", "01_b.ipynb": "01_b.ipynb, version 1",
                           "02_c.ipynb": "a new lab"}


def test_a_changed_file_is_kept_and_named_through_every_version(shipped, tmp_path):
    workshop.refresh(tmp_path / "mine")
    changed = tmp_path / "mine" / "00_a.ipynb"
    changed.write_text("my answers")
    for version in ("version 2", "version 3"):
        (shipped / "00_a.ipynb").write_text(version)
        assert workshop.refresh(tmp_path / "mine") == [changed]
        assert changed.read_text() == "my answers"
    changed.unlink()
    assert workshop.refresh(tmp_path / "mine") == [] and changed.read_text() == "version 3"


def test_a_file_that_was_run_and_saved_is_named_only_when_another_version_is_shipped(shipped,
                                                                                     tmp_path):
    saved = tmp_path / "00_a.ipynb"
    workshop.refresh(tmp_path)
    saved.write_text("version 1, run and saved")
    for _ in range(2):
        assert workshop.refresh(tmp_path) == []
    (shipped / "00_a.ipynb").write_text("version 2")
    assert workshop.refresh(tmp_path) == [saved] and "run and saved" in saved.read_text()


@pytest.mark.parametrize("broken", [b"", b"{", b"[1]", b"\xff"])
def test_a_broken_list_of_what_was_copied_is_made_anew_and_replaces_nothing(shipped, tmp_path,
                                                                          broken):
    workshop.refresh(tmp_path)
    (tmp_path / workshop.MANIFEST).write_bytes(broken)
    (tmp_path / "00_a.ipynb").write_text("my answers")
    assert workshop.refresh(tmp_path) == [tmp_path / "00_a.ipynb"]
    assert (tmp_path / "00_a.ipynb").read_text() == "my answers"
    assert list(json.loads((tmp_path / workshop.MANIFEST).read_text())) == ["01_b.ipynb"]


def test_a_file_that_was_there_before_is_never_ours_to_replace(shipped, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "00_a.ipynb").write_text("somebody's")
    (mine / "01_b.ipynb").write_text("01_b.ipynb, version 1")
    assert workshop.refresh(mine) == [mine / "00_a.ipynb"]
    assert texts(mine)["00_a.ipynb"] == "somebody's"
    assert list(json.loads((mine / workshop.MANIFEST).read_text())) == ["01_b.ipynb"]


def test_the_source_itself_is_served_as_it_is(shipped):
    before = sorted(shipped.iterdir())
    assert workshop.refresh(shipped) == [] and sorted(shipped.iterdir()) == before


def test_a_folder_that_cannot_be_made_is_one_sentence(shipped, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["lab", str(tmp_path / "file")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cannot be copied to" in said and "File exists" in said


def test_the_shipped_series_is_the_checkouts():
    assert series.shipped() == ROOT / "notebooks"
    assert [lab.path for lab in series.find()] == series.of(ROOT / "notebooks")


def test_the_copies_are_the_students(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbgrader", None)  # which a student need not have
    workshop.refresh(tmp_path)
    for path in series.of(ROOT / "notebooks"):
        copy = nbformat.read(tmp_path / path.name, as_version=4)
        nbformat.validate(copy)
        text = nbformat.writes(copy)
        assert "SOLUTION" not in text and "<b>Right.</b>" not in text
        assert "nbgrader" not in copy.metadata and "image/png" in text
    assert workshop.refresh(tmp_path) == []


def test_lab_serves_a_copy_without_a_browser_and_without_news(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "lab", "mine", "--no-browser", "--port", "0"], cwd=tmp_path, text=True,
        stderr=subprocess.PIPE, env=ENVIRONMENT | {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
                                                   "JUPYTER_DATA_DIR": str(tmp_path / "data")})
    try:
        address = _address(process)
        page = _read(address)
        listing = _read(address.replace("/lab?", "/api/contents?"))
    finally:
        process.terminate()
        process.communicate(timeout=60)
    names = {entry["name"] for entry in json.loads(listing)["content"]}
    assert {p.name for p in series.of(ROOT / "notebooks")} == names
    assert '"news": {"disabled": true}' in page
    assert (tmp_path / "mine" / workshop.MANIFEST).exists()


def _address(process: subprocess.Popen) -> str:
    end = time.monotonic() + 120
    for line in process.stderr:
        found = re.search(r"(http://127\.0\.0\.1:\d+/lab)\S*(\?token=\w+)", line)
        if found:
            return found[1] + found[2]
        assert time.monotonic() < end
    raise AssertionError("JupyterLab ended without telling its address")


def _read(address: str) -> str:
    for _ in range(60):
        try:
            return urllib.request.urlopen(address, timeout=60).read().decode()
        except urllib.error.URLError:  # the address is told a moment before it is served
            time.sleep(0.5)
    raise AssertionError(f"nothing is served at {address}")


WITHOUT = """
import sys
sys.modules[{module!r}] = None
from idl_lab.__main__ import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize(("module", "arguments", "extra"), [
    ("nbformat", ["list"], "labs"), ("jupyterlab", ["lab"], "labs"), ("papermill", ["run"], "labs"),
    ("nbgrader", ["student", "x"], "class"), ("nbgrader", ["grade", "x"], "class"),
    ("otter", ["student", "--otter", "x"], "class")])
def test_a_missing_extra_is_one_sentence_that_names_it(tmp_path, module, arguments, extra):
    code = WITHOUT.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, env=ENVIRONMENT)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    assert done.stderr == (f"idl_lab: this needs {module}, which is not installed: "
                           f"pip install 'idl_lab[{extra}]' brings it.\n")


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"idl_lab {idl_lab.__version__}\n"


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, "list"], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE,
                          text=True, env=ENVIRONMENT)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
