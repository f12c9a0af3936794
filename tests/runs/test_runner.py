"""Headless runs, on tiny notebooks written here."""

from __future__ import annotations

import asyncio
import csv
import inspect
import io
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty

import nbformat
import papermill
import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from idl_lab.__main__ import main
from idl_lab.labs.kit import record
from idl_lab.runs import progress, results, runner, series

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = "seed = 0\nkappa = 0.9\nname = 'relu'\nrank = None\nsizes = [\n    1,\n    2,\n]"
# The file itself, not the package: a kernel that imports torch takes three seconds more to start.
RECORD = f"import runpy\nrecord = runpy.run_path({inspect.getfile(record)!r})['record']\n"


def write(folder: Path, name: str, *cells: str, parameters: str = "") -> Path:
    """Write a notebook without any kernel metadata: a text cell, parameters, code cells."""
    first = [nbformat.v4.new_markdown_cell(f"# On {name}")]
    if parameters:
        first.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    path = folder / f"{name}.ipynb"
    code = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=first + code), path)
    return path


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder with an empty series, and the current folder."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    return lambda name, *cells, **more: write(tmp_path / "notebooks", name, *cells, **more)


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_notebooks_summary_and_pictures_and_nothing_else(lab, tmp_path, capsys):
    lab("02_second", "open('here.txt', 'w').write('x')",
        "from idl_lab.labs.kit import record\nrecord(gap=float('inf'))")
    lab("01_first", "import matplotlib.pyplot as plt\nplt.plot([0, seed]);",
        RECORD + "record(seed=seed, name=name)\nplt.plot([1, 0]);", parameters=PARAMETERS)
    before = sorted(tmp_path.rglob("*"))
    assert main(["run"]) == 0
    [folder] = (tmp_path / "runs").iterdir()
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "01_first.ipynb", "02_second.ipynb", "here.txt", "pictures/01_first-01.png",
        "pictures/01_first-02.png", "summary.csv"]
    assert [p for p in sorted(tmp_path.rglob("*")) if "runs" not in p.parts] == before
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in folder.glob("pictures/*"))
    first, second = summary(folder)
    assert list(first) == ["notebook", "status", "seconds", "error", "seed", "name", "gap"]
    assert (first["notebook"], first["status"], first["error"]) == ("01_first", "ok", "")
    assert (first["seed"], first["name"], first["gap"]) == ("0", "relu", "")
    assert (second["notebook"], second["gap"]) == ("02_second", "inf")
    assert float(first["seconds"]) > 0
    shown = capsys.readouterr().out
    assert "01_first  started" in shown and "seed = 0, name = relu" in shown
    assert str(folder) in shown


def test_a_failing_notebook_is_saved_with_its_error_and_the_others_run(lab, tmp_path, capsys):
    lab("01_fails", "x = 1", "raise ValueError('no\\ngood')", "print('never')")
    lab("02_fine", RECORD + "record(steps=3)")
    assert main(["run", "--out", "here"]) == 1
    failed, fine = summary(tmp_path / "here")
    assert failed["status"] == "failed" and failed["error"] == "cell 2: ValueError: no good"
    assert fine["status"] == "ok" and fine["steps"] == "3"
    saved = nbformat.read(tmp_path / "here" / "01_fails.ipynb", as_version=4)
    [error] = [o for c in saved.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert error.ename == "ValueError"
    assert "never" not in str([c.get("outputs") for c in saved.cells])
    assert "cell 2: ValueError: no good" in capsys.readouterr().out


def test_a_callback_that_raises_in_a_panel_fails_the_notebook(lab):
    lab("01_panel", "print('fine')", "import ipywidgets\ndef draw(kappa):\n    1 / kappa\n"
        "ipywidgets.interact(draw, kappa=ipywidgets.IntSlider(0));", "print('after')")
    [result] = runner.run_notebooks()
    assert result.status == "failed"
    assert result.error == "cell 2: ZeroDivisionError: division by zero (in a widget's callback)"


def test_a_panel_that_works_is_fine(lab):
    lab("01_panel", "import ipywidgets\nipywidgets.interact(lambda x: print(x), x=(0, 2));")
    assert [r.status for r in runner.run_notebooks()] == ["ok"]


def test_a_reply_that_comes_while_an_output_widget_is_answered_is_not_missed():
    async def reply():
        with zmq.Context() as theirs, zmq.asyncio.Context() as ours, \
                theirs.socket(zmq.ROUTER) as kernel, ours.socket(zmq.DEALER) as socket:
            socket.connect(f"tcp://127.0.0.1:{kernel.bind_to_random_port('tcp://127.0.0.1')}")
            session = Session(key=b"key")
            channel = runner._LookingAgain(socket, session)
            channel.send(session.msg("execute_request"))
            sender = kernel.recv_multipart()[0]
            waiting = asyncio.ensure_future(channel.get_msg())
            await asyncio.sleep(0.1)
            session.send(kernel, "execute_reply", ident=sender)
            time.sleep(0.1)  # it is here, and nobody was woken yet
            channel.send(session.msg("comm_msg"))
            message = await asyncio.wait_for(waiting, 30)
            with pytest.raises(Empty):
                await channel.get_msg(timeout=0.01)
            return message["msg_type"]

    assert asyncio.run(reply()) == "execute_reply"


def test_a_kernel_that_dies_is_an_error_and_leaves_its_last_words(lab):
    lab("01_dies", "import faulthandler, os\nfaulthandler.enable()", "os.abort()")
    [result] = runner.run_notebooks(out="here")
    assert result.status == "failed" and result.error == "cell 2: DeadKernelError: Kernel died"
    assert "Fatal Python error: Aborted" in Path("here/01_dies.log").read_text(encoding="utf-8")


def test_a_kernel_that_dies_before_its_first_cell_gets_one_more_try(lab, monkeypatch):
    lab("01_fine", RECORD + "record(x=1)")
    tries, execute = [], papermill.execute_notebook

    def clash(*arguments, **options):
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        execute(*arguments, **options)

    monkeypatch.setattr(papermill, "execute_notebook", clash)
    [result] = runner.run_notebooks()
    assert result.status == "ok" and result.numbers == {"x": 1} and len(tries) == 2


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
    lab("01_which", RECORD + "import sys\nrecord(python=sys.executable)",
        "import matplotlib.pyplot as plt\nplt.plot([0, 1]);")
    [result] = runner.run_notebooks()
    assert result.numbers["python"] == sys.executable
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


def test_two_runs_in_one_second_have_two_folders_in_order(lab, monkeypatch):
    lab("01_first")
    monkeypatch.setattr(papermill, "execute_notebook", lambda *arguments, **options: None)
    folders = [runner.run_notebooks()[0].path.parent for _ in range(4)]
    assert len(set(folders)) == 4 and folders == sorted(folders)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_summarises_what_was_finished(lab, tmp_path):
    lab("01_quick", RECORD + "record(x=1)")
    lab("02_slow", "import pathlib\npathlib.Path('reached').touch()",
        "import time\ntime.sleep(60)")
    lab("03_never", "print(1)")
    process = subprocess.Popen([sys.executable, "-u", "-m", "idl_lab", "run", "--out", "here"],
                               stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT)},
                               # Run in a shell's background, pytest itself ignores Ctrl-C.
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        while not (tmp_path / "here" / "reached").exists():
            assert process.poll() is None
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert [(r["notebook"], r["status"], r["error"]) for r in summary(tmp_path / "here")] == [
        ("01_quick", "ok", ""), ("02_slow", "failed", "interrupted")]
    assert "x = 1" in shown and "Traceback" not in shown


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


def test_the_table_wraps_many_numbers():
    numbers = {f"number_{k}": math.pi for k in range(9)}
    done = results.RunResult("01_first", Path("x"), "ok", 1.25, "", numbers)
    lines = results.table([done], width=60).splitlines()
    assert lines[0].split() == ["notebook", "status", "seconds", "numbers"]
    assert lines[1].startswith("01_first  ok          1.2  number_0 = 3.14159")
    assert len(lines) > 3 and max(map(len, lines)) <= 60


def test_a_folder_that_cannot_be_made_is_one_sentence(lab, tmp_path, capsys):
    lab("01_first", "pass")
    (tmp_path / "file").write_text("")
    assert main(["run", "--out", str(tmp_path / "file" / "runs")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cannot be made (Not a directory)" in said
