"""What goes wrong in a run is told by name, the rest is done, and nothing is left in halves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty

import nbformat
import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session
from tiny_notebooks import RECORD, write

from idl_lab.__main__ import main
from idl_lab.runs import kernel, results, runner, series
from idl_lab.runs.kernel import LookingAgain

ROOT = Path(__file__).resolve().parents[2]
PANEL = ("import ipywidgets\ndef draw(kappa):\n    1 / kappa\n"
         "ipywidgets.interact(draw, kappa=ipywidgets.IntSlider(0));")
CHECK = ("def check(value, tol):\n    for k in range(2):\n"
         "        assert value < tol, (\n    'no\\ngood')")
# Cells, the status, the error. The last cell of each never runs, or runs in spite of it all.
FAULTS = {
    "01_fine": (["x = 1", RECORD + "record(steps=3)"], "ok", ""),
    "02_error": ([CHECK, "gap, b = 0.25, list(range(99))\nif gap:\n    check(gap + len(b[:0]), "
                  "tol=0.1)", "print('never')"], "failed",
                 "cell 2: AssertionError: no good (cell 1, line 3: assert value < tol, ( "
                 "'no\\ngood'), where value = 0.25, tol = 0.1)"),
    "03_library": (["import json\ntext = 'x' * 99\ny = [\n    json.loads(text),\n]",
                    "print('never')"],
                   "failed", "cell 1: JSONDecodeError: Expecting value: line 1 column 1 (char 0) "
                   f"(line 4: y = [ json.loads(text), ], where text = '{'x' * 27}...{'x' * 28}')"),
    "04_magic": (["%notmagic", "print('never')"], "failed",
                 "cell 1: UsageError: Line magic function `%notmagic` not found. "
                 "(line 1: %notmagic)"),
    "05_syntax": (["x = 1", "x = 1\nx = = 2", "print('never')"], "failed",
                  "cell 2: SyntaxError: invalid syntax (line 2: x = = 2)"),
    "06_exit": (["raise SystemExit(0)", "print('never')"], "failed",
                "cell 1: SystemExit: 0 (line 1: raise SystemExit(0))"),
    "07_allowed": ([("1 / 0", "raises-exception"), RECORD + "record(x=1)"], "ok", ""),
    "08_panel": (["print('fine')", PANEL, "print('after')"], "failed",
                 "cell 2: ZeroDivisionError: division by zero (in a widget's callback)"),
    "09_killed": (["import faulthandler\nfaulthandler.enable()", "import os\nos.abort()",
                   "print('never')"], "failed",
                  "cell 2: DeadKernelError: the kernel died (SIGABRT)"),
    "10_slow": (["import time\ntime.sleep(99)", "print('never')"], "timed out",
                "cell 1: timed out after 3 s"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """All faults in one run."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "notebooks").mkdir()
    for name, (cells, _, _) in FAULTS.items():
        write(folder / "notebooks", name, *cells)
    slow = "10_slow"  # alone has little time: where much else runs, a kernel takes long to start
    with contextlib.chdir(folder):
        done = runner.run_notebooks([name for name in FAULTS if name != slow], out="here")
        done += runner.run_notebooks([slow], out="here", timeout=3, resume=True)
    return folder / "here", {result.notebook: result for result in done}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_by_cell_line_and_values(faulty, name):
    folder, done = faulty
    _, status, error = FAULTS[name]
    assert (done[name].status, done[name].error) == (status, error)
    saved = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    assert saved.metadata["idl_lab"] == done[name].record
    assert ("never" in str([c.get("outputs") for c in saved.cells])) is False
    on_top = saved.cells[0].source
    assert on_top == (f"**{status}**\n```text\n{error}\n```" if error else f"# On {name}")


def test_a_kernel_that_dies_leaves_its_last_words_and_nothing_else_is_left(faulty):
    folder, _ = faulty
    logs = sorted(path.name for path in folder.iterdir() if path.suffix != ".ipynb")
    assert logs == ["09_killed.log"]
    assert "Fatal Python error: Aborted" in (folder / logs[0]).read_text(encoding="utf-8")


def test_faults_stand_in_the_table(faulty):
    folder, _ = faulty
    table = results.results(folder)
    assert list(table.notebook) == list(FAULTS) and list(table.status) == [
        status for _, status, _ in FAULTS.values()]
    assert table.steps[0] == 3 and table.x[6] == 1 and table.steps[1:].isna().all()
    assert (table.peak_memory_mb.dropna() > 10).all()


def test_nbval_agrees(faulty):
    folder, done = faulty
    notebooks = [f"{name}.ipynb" for name in ("04_magic", "07_allowed")]
    tested = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider",
                             "-p", "conftest", "--nbval-lax", "--nbval-current-env", *notebooks],
                            cwd=folder.parent / "notebooks", capture_output=True, text=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT)})
    failed = set(re.findall(r"^FAILED (\w+)", tested.stdout, re.MULTILINE))
    passed = set(re.findall(r"^PASSED (\w+)", tested.stdout, re.MULTILINE))
    assert (failed, passed - failed) == ({"04_magic"}, {"07_allowed"})
    assert (done["04_magic"].status, done["07_allowed"].status) == ("failed", "ok")


def test_a_kernel_that_dies_before_its_first_cell_gets_one_more_try(lab, monkeypatch):
    lab("01_fine", RECORD + "record(x=1)")
    tries, execute = [], kernel._NotebookClient.execute

    def clash(client, **options):
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return execute(client, **options)

    monkeypatch.setattr(kernel._NotebookClient, "execute", clash)
    [result] = runner.run_notebooks()
    assert result.status == "ok" and result.numbers == {"x": 1} and len(tries) == 2


def test_a_run_needs_no_main_thread(lab, tmp_path):
    path = lab("01_fine", RECORD + "record(x=1)")
    done = []
    thread = threading.Thread(target=lambda: done.append(
        runner.run_one(series.read_lab(path), {}, tmp_path / "there.ipynb")))
    thread.start()
    thread.join(60)
    assert done[0].status == "ok" and results.read(tmp_path / "there.ipynb") == done[0]


@pytest.fixture
def full(tmp_path):
    """A disk of 64 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a disk can only be mounted by root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_the_others_are_tried_and_no_half_file_is_left(lab, full, capsys):
    lab("01_small", RECORD + "record(x=1)")
    lab("02_large", "print('x' * 100_000)")
    lab("03_small", RECORD + "record(x=3)")
    assert main(["run", "--out", str(full)]) == 1
    shown, said = capsys.readouterr()
    assert "02_large  failed" in shown and "x = 3" in shown
    assert " ".join(shown.split()).count(
        "02_large.ipynb cannot be written: No space left on device") == 2
    assert sorted(path.name for path in full.iterdir()) == [
        "01_small.ipynb", "03_small.ipynb", "results.csv", "results.parquet"] and said == ""
    assert list(results.results(full).x) == [1, 3]


def test_where_nothing_can_be_written_the_table_is_told_and_the_exit_status_is_1(
        lab, tmp_path, monkeypatch, capsys):
    lab("01_fine", RECORD + "record(x=1)", "import matplotlib.pyplot as plt\nplt.plot([0, 1]);")
    whole = results.save

    def no_space(path, content):
        if path.suffix == ".ipynb":
            return whole(path, content)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results, "save", no_space)
    assert main(["run", "--out", "here"]) == 1
    shown, said = capsys.readouterr()
    assert ("01_fine-01.png cannot be written: No space left on device; x = 1"
            in " ".join(shown.split()))
    assert said == "idl_lab: the tables cannot be written: No space left on device\n"
    assert [path.name for path in Path("here").rglob("*") if path.is_file()] == ["01_fine.ipynb"]


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    results.save(tmp_path / "a", b"old")

    def full(file):
        raise OSError("full")

    monkeypatch.setattr(os, "fsync", full)
    for name in "ab":
        with pytest.raises(OSError, match="full"):
            results.save(tmp_path / name, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "error", "status"), [
    (signal.SIGINT, "cell 2: interrupted", 130),
    (signal.SIGTERM, "cell 2: told to end (SIGTERM)", 143)])
def test_a_run_that_is_told_to_end_leaves_the_table_and_no_process(lab, capsys, caplog, number,
                                                                   error, status):
    lab("01_quick", RECORD + "record(x=1)")
    lab("02_slow", "import os, pathlib, subprocess\nchild = subprocess.Popen(['sleep', '60'])\n"
        "pathlib.Path('pids').write_text(f'{os.getpid()} {child.pid} ')",
        "import time\npathlib.Path('reached').touch()\ntime.sleep(60)")
    lab("03_never", "print(1)")
    main_thread = threading.get_ident()

    def tell() -> None:
        while not Path("here/reached").exists():
            time.sleep(0.05)
        signal.pthread_kill(main_thread, number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # not so in the background
    try:
        threading.Thread(target=tell, daemon=True).start()
        assert main(["run", "--out", "here"]) == status
    finally:
        signal.signal(signal.SIGINT, before)
    table = results.results("here")
    assert list(zip(table.notebook, table.status, table.error, strict=True)) == [
        ("01_quick", "ok", ""), ("02_slow", "interrupted", error)]
    assert table.x[0] == 1 and Path("here/results.csv").exists()
    gc.collect()  # asyncio tells of a task's error, which nobody asked for, when the task goes
    assert "x = 1" in capsys.readouterr().out and not caplog.records
    assert not [pid for pid in Path("here/pids").read_text().split() if alive(int(pid))]


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        os.kill(pid, 0)
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ProcessLookupError):
        return False


def test_a_reply_that_comes_while_an_output_widget_is_answered_is_not_missed():
    async def reply():
        with zmq.Context() as theirs, zmq.asyncio.Context() as ours, \
                theirs.socket(zmq.ROUTER) as kernel, ours.socket(zmq.DEALER) as socket:
            socket.connect(f"tcp://127.0.0.1:{kernel.bind_to_random_port('tcp://127.0.0.1')}")
            session = Session(key=b"key")
            channel = LookingAgain(socket, session)
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
