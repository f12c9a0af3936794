"""Headless runs of tiny notebooks: what is asked for, and what comes out."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from tiny_notebooks import PARAMETERS, RECORD, write

from idl_lab.__main__ import main
from idl_lab.runs import progress, results, runner, series
from idl_lab.runs.kernel import Execution

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_leaves_notebooks_tables_and_pictures_and_nothing_else(lab, tmp_path, capsys):
    lab("02_second", "open('here.txt', 'w').write('x')",
        RECORD + "record(gap=float('inf'))")
    lab("01_first", "import matplotlib.pyplot as plt\nplt.plot([0, seed]);",
        RECORD + "record(steps=seed, activation=name)\nplt.plot([1, 0]);", parameters=PARAMETERS)
    before = sorted(tmp_path.rglob("*"))
    assert main(["run"]) == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "01_first.ipynb", "02_second.ipynb", "here.txt", "pictures/01_first-01.png",
        "pictures/01_first-02.png", "results.csv", "results.parquet"]
    assert [p for p in sorted(tmp_path.rglob("*")) if "runs" not in p.parts] == before
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in folder.glob("pictures/*"))
    first, second = results.results(folder).to_dict("records")
    assert (first["notebook"], first["status"], first["error"]) == ("01_first", "ok", "")
    assert (first["steps"], first["activation"], first["kappa"]) == (0, "relu", 0.9)
    assert (second["notebook"], second["gap"]) == ("02_second", math.inf)
    assert first["seconds"] > 0 and first["python"] == platform.python_version()
    shown = capsys.readouterr().out
    assert "01_first  started" in shown and "steps = 0, activation = relu" in shown
    assert str(folder) in shown


def test_the_record_says_what_was_run(lab):
    path = lab("01_first", RECORD + "record(x=1)", parameters=PARAMETERS)
    [result] = runner.run_notebooks(parameters={"kappa": -1e-3}, out="here")
    saved = nbformat.read("here/01_first.ipynb", as_version=4).metadata["idl_lab"]
    assert saved == result.record
    assert saved["parameters"] == {"seed": 0, "kappa": -1e-3, "name": "relu", "rank": None,
                                   "sizes": [1, 2]}
    assert (saved["notebook"], saved["version"], saved["device"]) == ("01_first", "0.1.0", "cpu")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|", saved["commit"]) and saved["host"]
    assert datetime.fromisoformat(saved["started"]).tzinfo
    cells = [[c.cell_type, c.source] for c in nbformat.read(path, as_version=4).cells]
    assert saved["source"] == hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def test_the_device_is_the_one_in_use(lab):
    lab("01_first", "device = 'cuda:1'", parameters="device = 'cpu'")
    [result] = runner.run_notebooks()
    assert result.record["device"] == "cuda:1" and result.record["parameters"]["device"] == "cpu"


def test_resume_runs_what_is_missing_failed_or_changed(lab, capsys):
    lab("01_same", RECORD + "record(x=kappa)", parameters="kappa = 0.9")
    lab("02_fails", "import pathlib\nif not pathlib.Path('mended').exists(): 1 / 0")
    lab("03_changes", "x = 1")
    assert main(["run", "--out", "here", "-p", "kappa", "-1e-3"]) == 1
    lab("03_changes", "x = 2")
    lab("04_new", "x = 1")
    Path("here/mended").touch()
    first = results.read(Path("here/01_same.ipynb"))
    capsys.readouterr()
    assert main(["run", "--out", "here", "-p", "kappa", "-1e-3", "--resume"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^(\S+)  started$", shown, re.MULTILINE) == ["02_fails", "03_changes",
                                                                    "04_new"]
    assert "01_same  ok, kept from before" in shown and "x = -0.001" in shown
    assert results.read(Path("here/01_same.ipynb")) == first
    again = runner.run_notebooks(["01"], {"kappa": 0.5}, "here", resume=True)
    assert again[0].numbers == {"x": 0.5}


def test_the_folder_of_the_notebooks_is_the_runs_unless_one_is_named(lab, tmp_path):
    lab("01_first", "open('here.txt', 'w').write('x')")
    (tmp_path / "work").mkdir()
    assert main(["run", "--out", "there", "--cwd", "work"]) == 0
    assert (tmp_path / "work" / "here.txt").exists()


def test_a_second_run_is_kept_out_of_a_folder_until_the_first_ends(lab, tmp_path, capsys):
    lab("01_first")
    hold = ("import sys, pathlib; from idl_lab.runs.folders import lock\n"
            "with lock(pathlib.Path('here')):\n    print('held', flush=True); sys.stdin.read()")
    Path("here").mkdir()
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, text=True,
                              stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert main(["run", "--out", "here", "--resume"]) == 2
        assert "another run works in" in capsys.readouterr().err
        holder.kill()  # with no time to tidy up
    assert main(["run", "--out", "here", "--resume"]) == 0
    assert sorted(p.name for p in Path("here").iterdir()) == [
        "01_first.ipynb", "results.csv", "results.parquet"]


def test_a_notebook_that_no_run_wrote_is_not_replaced(lab, tmp_path, capsys):
    path = lab("01_first", "x = 1")
    before = path.read_bytes()
    assert main(["run", "--out", "notebooks", "--resume"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "was not written by a run" in said
    assert path.read_bytes() == before and len(list((tmp_path / "notebooks").iterdir())) == 1


def test_two_runs_in_one_second_have_two_folders_in_order(lab, monkeypatch):
    lab("01_first")
    monkeypatch.setattr(Execution, "run", lambda self: None)
    folders = [runner.run_notebooks()[0].path.parent for _ in range(4)]
    assert len(set(folders)) == 4 and folders == sorted(folders)


def test_a_panel_that_works_is_fine(lab):
    lab("01_panel", "import ipywidgets\nipywidgets.interact(lambda x: print(x), x=(0, 2));")
    assert [r.status for r in runner.run_notebooks()] == ["ok"]


def test_parameters_reach_the_notebook_with_their_types(lab):
    lab("01_first", RECORD + "record(seed=seed + 1, kappa=kappa, name=name, rank=rank, "
        "n=sizes[-1])", parameters=PARAMETERS)
    [result] = runner.run_notebooks(["1"], {"seed": 4, "kappa": 1, "name": "tanh", "rank": 2,
                                            "sizes": [5, 6]})
    assert result.error == ""
    assert dict(result.numbers) == {"seed": 5, "kappa": 1, "name": "tanh", "rank": 2, "n": 6}


def test_the_kernel_is_this_python_and_draws_inline(lab, tmp_path, monkeypatch):
    kernels = tmp_path / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text('{"argv": ["/nowhere/python", "{connection_file}"], '
                                         '"display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    lab("01_which", RECORD + "import sys\nrecord(program=sys.executable)",
        "import matplotlib.pyplot as plt\nplt.plot([0, 1]);")
    [result] = runner.run_notebooks()
    assert result.numbers["program"] == sys.executable
    assert [p.name for p in result.pictures] == ["01_which-01.png"]


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["01_frist"], "no notebook '01_frist'; did you mean '01_first'? the series in "),
    (["07"], "no notebook '07'"),
    (["elsewhere/09_x.ipynb"], "no notebook '09_x'"),
    (["01", "-p", "kapa", "1"], "no parameter 'kapa' in 01_first; did you mean 'kappa'?"),
    (["-p", "kapa", "0.5"], "no parameter 'kapa' in 01_first, 02_second; did you mean 'kappa'?"),
    (["02", "-p", "kappa", "0.5"], "no parameter 'kappa' in 02_second; there is none"),
    (["01", "-p", "seed", "2.5"], "'seed' of 01_first wants int like 0, got float 2.5"),
    (["01", "-p", "seed", "True"], "wants int like 0, got bool True"),
    (["01", "-p", "seed", "none"], "got str 'none' (Python spells it None)"),
    (["01", "-p", "kappa", "big"], "wants float like 0.9, got str 'big'"),
    (["01", "-p", "sizes", "3"], "wants list like [1, 2], got int 3"),
    (["01", "-p", "seed", "1", "-p", "seed", "2"], "'seed' is given twice"),
    (["01", "--out", "notebooks"], "not an empty folder"),
    (["01", "--out", "notebooks/01_first.ipynb/x"], "cannot be made (Not a directory)"),
    (["01", "--resume"], "to resume, name the folder of the run"),
    (["01", "--timeout", "0"], "timeout is in seconds above 0, got 0"),
    (["01", "--cwd", "nowhere"], "cwd='nowhere' is no folder"),
])
def test_bad_input_is_one_sentence_before_any_work(lab, tmp_path, capsys, arguments, sentence):
    lab("01_first", "print(1)", parameters=PARAMETERS)
    lab("02_second", "print(1)")
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", *arguments]) == 2
    out, said = capsys.readouterr()
    assert sentence in said and said.count("\n") == 1 and out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("given", [["-p", "device", "cuda:99"], []])
def test_a_missing_device_is_found_before_any_work(lab, tmp_path, capsys, given):
    lab("01_first", "print(1)", parameters=f"device = '{'cpu' if given else 'cuda:99'}'")
    assert main(["run", *given]) == 2
    said = capsys.readouterr().err
    assert "01_first: device='cuda:99'" in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_what_is_no_notebook_is_said_so(lab, tmp_path, capsys):
    (tmp_path / "notebooks" / "01_broken.ipynb").write_text("{")
    assert main(["run"]) == 2
    assert "01_broken.ipynb cannot be read as a notebook" in capsys.readouterr().err
    lab("01_broken", parameters="seed = = 1")
    assert main(["run"]) == 2
    assert "the parameters cell is no Python" in capsys.readouterr().err


def test_labs_are_found_by_number_name_and_path_in_numeric_order(lab, tmp_path):
    for name in ["10_ten", "02_two", "notes"]:
        lab(name)
    assert [found.name for found in series.find()] == ["02_two", "10_ten"]
    assert [found.name for found in series.find(["10", "2", "02_two"])] == ["10_ten", "02_two"]
    elsewhere = write(tmp_path, "sketch")
    assert [found.name for found in series.find([elsewhere])] == ["sketch"]
    assert series.find(["02"])[0].title == "On 02_two"
    with pytest.raises(ValueError, match="two notebooks are called 02_two"):
        series.find(["02", str(write(tmp_path, "02_two"))])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_lines_in_a_log_and_one_line_on_a_terminal(lab):
    lab("01_first", "import time\ntime.sleep(0.5)")
    log, terminal = io.StringIO(), Terminal()
    runner.run_notebooks(out="a", progress=progress.Progress(log))
    runner.run_notebooks(out="b", progress=progress.Progress(terminal))
    started, ended = log.getvalue().splitlines()
    assert started == "01_first  started" and ended.startswith("01_first  ok  ")
    shown = terminal.getvalue()
    assert "\r01_first  cell 1/1  " in shown
    assert shown.count("\n") == 1 and shown.endswith(" s\n")


def test_a_log_says_every_minute_where_a_long_run_is(lab, monkeypatch):
    lab("01_first", "import time\ntime.sleep(1)")
    log = io.StringIO()
    monkeypatch.setattr(progress.Progress, "every", 0.2)
    runner.run_notebooks(progress=progress.Progress(log))
    assert "01_first  cell 1/1  " in "".join(log.getvalue().splitlines()[1:-1])
