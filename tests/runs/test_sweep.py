"""Sweeps, on tiny notebooks without torch; one pair of workers serves all tests here."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from distributed import Client

import idl_lab
from idl_lab.__main__ import main
from idl_lab.labs.kit import record
from idl_lab.runs import folders, grid, results, series, sweep, workers

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = "seed = 0\nkappa = 0.9\nrank = None\nmode = 'relu'\nsizes = [1, 2]\nwait = 0.0"
RECORD = f"import runpy\nrecord = runpy.run_path({inspect.getfile(record)!r})['record']\n"
NUMBERS = RECORD + ("import time\ntime.sleep(wait)\n"
                    "record(gap=(rank or 9) * kappa + seed, steps=10 ** (seed + 1),\n"
                    "       flat=kappa > 2)")
GRID = {"kappa": [0.5, 0.9], "rank": [1, None]}
MEASURED = ["seconds", "started", "peak_memory_mb", "commit"]  # of no two runs the same


@pytest.fixture(scope="module")
def cluster():
    with workers.local_cluster(2, ["3", "GPU-b"]) as cluster:
        yield cluster


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Writes the notebook 20_tiny of a series in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(*cells: str, parameters: str = PARAMETERS) -> series.Lab:
        first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[
            first, *(nbformat.v4.new_code_cell(cell) for cell in cells)])
        Path("notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, "notebooks/20_tiny.ipynb")
        return series.find(["20"])[0]

    return write


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one.drop(columns=MEASURED), other.drop(columns=MEASURED))


def gone(pid: int, within: float = 20.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_sweep_is_tabulated_and_drawn_and_resume_runs_what_is_missing(lab, cluster, tmp_path):
    lab(NUMBERS)
    out, lines = tmp_path / "out", []
    options = {"scheduler": cluster.scheduler_address, "out": out, "say": lines.append}
    table = sweep.sweep("20", GRID, repeat=2, parameters={"mode": "tanh"}, **options)
    assert sorted(p.name for p in out.iterdir() if p.suffix != ".ipynb") == [
        "pictures", "results.csv", "results.parquet"]
    assert len(list(out.glob("*.ipynb"))) == len(table) == 8
    assert (out / "20_tiny,mode=tanh,kappa=0.5,rank=none,seed=1.ipynb").exists()
    assert set(table.status) == {"ok"} and set(table["mode"]) == {"tanh"}
    for row in table.itertuples():
        rank = 9 if pd.isna(row.rank) else row.rank
        assert row.gap == rank * row.kappa + row.seed and row.steps == 10 ** (row.seed + 1)
    read = pd.read_csv(out / "results.csv")
    assert read["gap"].tolist() == table["gap"].tolist()
    assert pd.read_parquet(out / "results.parquet")["gap"].tolist() == table["gap"].tolist()
    assert sorted(p.name for p in (out / "pictures").iterdir()) == [
        f"{number}-against-{name}.png" for number in ("flat", "gap", "seconds", "steps")
        for name in ("kappa", "rank")]
    assert lines[0].startswith("dashboard: http://") and len(lines) == 10
    assert lines[1].startswith("[1/8] mode=tanh,kappa=0.") and " left)" in lines[1]
    assert lines[-1] == (f"8 ok: results.csv, results.parquet and 8 pictures are in {out}")

    kept = {p: p.stat().st_mtime_ns for p in sorted(out.glob("*.ipynb"))}
    missing, failed, other, *_ = kept
    missing.unlink()
    change(failed, status="failed", error="x")
    change(other, version="0.0.1")
    again = sweep.sweep("20", GRID, repeat=2, parameters={"mode": "tanh"}, resume=True, **options)
    same(table, again)
    assert {p for p, at in kept.items() if p.stat().st_mtime_ns != at} == {missing, failed, other}
    del lines[:]
    same(table, sweep.sweep("20", GRID, 2, {"mode": "tanh"}, resume=True, **options))
    assert lines[0] == "8 of 8 runs are there already" and len(lines) == 2  # no worker is asked
    lab(NUMBERS, "'another cell'")
    assert len(sweep._todo(*planned({"mode": "tanh"}, 2), out, True)) == 8


def planned(parameters: dict, repeat: int) -> tuple:
    [lab] = series.find(["20"])
    return lab, grid.plan(lab, GRID, repeat, parameters)


def change(path: Path, **record: object) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata[results.KEY].update(record)
    nbformat.write(notebook, path)


def test_what_fails_is_in_the_table_and_the_others_go_on(lab, cluster, tmp_path):
    lab(RECORD + "assert kappa < 0.9\nrecord(x=1)")
    table = sweep.sweep("20", {"kappa": [0.5, 0.9, 0.6]}, scheduler=cluster.scheduler_address,
                        out=tmp_path / "out")
    assert table.status.tolist() == ["ok", "ok", "failed"]
    assert "AssertionError" in table.error[2] and table.x.isna().tolist() == [False, False, True]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_worker_that_dies_once_is_forgiven_and_its_kernel_goes(lab, cluster, tmp_path):
    once = ("import os, pathlib, signal, time\nflag = pathlib.Path(mode)\n"
            "if kappa == 0.9 and not flag.exists():\n    flag.write_text(str(os.getpid()))\n"
            "    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(60)")
    lab(once, NUMBERS)
    flag = tmp_path / "flag"
    options = {"parameters": {"mode": str(flag)}, "scheduler": cluster.scheduler_address}
    disturbed = sweep.sweep("20", GRID, out=tmp_path / "a", **options)
    assert gone(int(flag.read_text()))
    undisturbed = sweep.sweep("20", GRID, out=tmp_path / "b", **options)
    assert set(disturbed.status) == {"ok"}
    same(disturbed, undisturbed)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_run_that_always_kills_its_worker_is_given_up(lab, cluster, tmp_path, monkeypatch):
    assert cluster.scheduler.allowed_failures == 2
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)  # each death takes seconds
    lab("import os, signal, time\nif kappa == 0.9:\n    os.kill(os.getppid(), signal.SIGKILL)\n"
        "    time.sleep(60)", NUMBERS)
    table = sweep.sweep("20", {"kappa": [0.9, 0.5, 0.6]}, scheduler=cluster.scheduler_address,
                        out=tmp_path / "out")
    assert table.status.tolist() == ["ok", "ok", "failed"]
    assert "the worker died each of the 1 times" in table.error[2]
    assert pd.isna(table.seconds[2]) and table.gap.notna().tolist() == [True, True, False]


def test_an_interrupted_sweep_leaves_its_tables_and_its_runs_stop(lab, cluster, tmp_path):
    lab(NUMBERS, "import os, pathlib, time\npathlib.Path(mode).write_text(str(os.getpid()))\n"
        "time.sleep(3 if kappa == 0.9 else 0)",
        "pathlib.Path(mode + 'reached').touch() if kappa == 0.9 else None")

    def interrupt(line: str) -> None:
        if line.startswith("[1/"):
            raise KeyboardInterrupt

    mode = str(tmp_path / "pid")
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep("20", {"kappa": [0.9, 0.5, 0.6, 0.7]}, parameters={"mode": mode},
                    scheduler=cluster.scheduler_address, out=tmp_path / "out", say=interrupt)
    table = pd.read_csv(tmp_path / "out" / "results.csv")
    assert 0.5 in table.kappa.tolist() and len(table) < 4 and 0.9 not in table.kappa.tolist()
    assert gone(int(Path(mode).read_text())) and not Path(mode + "reached").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("end", "repeat"), [
    (signal.SIGKILL, 2), pytest.param(signal.SIGKILL, 6, marks=pytest.mark.slow),
    pytest.param(signal.SIGTERM, 6, marks=pytest.mark.slow)])
def test_after_a_kill_in_the_middle_resume_runs_exactly_the_missing(
        lab, cluster, tmp_path, end, repeat):
    lab(NUMBERS)
    given = ["--grid", "kappa=0.5,0.9", "--grid", "rank=1,none", "--repeat", str(repeat)]
    at = ["--scheduler", cluster.scheduler_address]
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "idl_lab", "sweep", "20", *given, *at,
                                "--out", "killed"], env=os.environ | {"PYTHONPATH": str(ROOT)},
                               stdout=subprocess.DEVNULL)
    try:
        while len(list(out.glob("*.ipynb"))) < 2 * repeat:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(end)
        assert process.wait(60) == (143 if end == signal.SIGTERM else -end)
    finally:
        process.kill()
    there = {p: p.stat().st_mtime_ns for p in out.glob("*.ipynb")}
    assert 2 * repeat <= len(there) < 4 * repeat
    assert (out / "results.csv").exists() == (end == signal.SIGTERM)
    assert main(["sweep", "20", *given, *at, "--out", "killed", "--resume"]) == 0
    assert all(p.stat().st_mtime_ns == at for p, at in there.items())
    undisturbed = sweep.sweep("20", GRID, repeat, scheduler=at[1], out=tmp_path / "whole")
    assert len(undisturbed) == 4 * repeat
    same(results.results(out), undisturbed)


def test_each_worker_has_its_own_card_and_its_share_of_the_cores(cluster):
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    with Client(cluster) as client:
        seen = client.run(lambda: [os.environ[name] for name in names])
        assert set(client.nthreads().values()) == {1}
    assert sorted(card for card, _ in seen.values()) == ["3", "GPU-b"]
    assert {threads for _, threads in seen.values()} == {os.environ["OMP_NUM_THREADS"]}


@pytest.mark.parametrize(("visible", "count", "cards"), [
    (None, 2, ["0", "1"]), ("1,3", 2, ["1", "3"]), ("GPU-8f,MIG-2", 2, ["GPU-8f", "MIG-2"]),
    ("", 0, []), (None, 0, [])])
def test_cards_are_those_that_this_process_sees(monkeypatch, visible, count, cards):
    monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert workers.cards() == cards


def test_workers_of_another_version_are_refused(lab, cluster, tmp_path, monkeypatch):
    lab(NUMBERS)
    monkeypatch.setattr(idl_lab, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"has idl_lab \d\S+, and 9.9 is wanted"):
        sweep.sweep("20", GRID, scheduler=cluster.scheduler_address, out=tmp_path / "out")
    job = workers.Job("20_tiny", "", {}, None, "9.8")
    with pytest.raises(RuntimeError, match="has idl_lab 9.9, and 9.8 is wanted"):
        workers.execute(job)


@pytest.mark.parametrize(("arguments", "sentence"), [
    ([], "there is nothing to sweep"),
    (["--grid", "kappa"], "--grid 'kappa' is no grid"),
    (["--grid", "=1"], "is no grid"),
    (["--grid", "kappa="], "is no grid"),
    (["--grid", "kappa=0.5,,0.9"], "is no grid"),
    (["--grid", "kappa=0.5,"], "is no grid"),
    (["--grid", "kappa=0.5", "--grid", "kappa=0.9"], "'kappa' has two grids"),
    (["--grid", "kappa=0.5,0.50"], "kappa=0.5 stands in the grid twice"),
    (["--grid", "kappa=1,1.0"], "kappa=1.0 stands in the grid twice"),
    (["--grid", "kapa=0.5"], "did you mean 'kappa'"),
    (["--grid", "kappa=0.5,big"], "got str 'big'"),
    (["--grid", "kappa=0.5", "-p", "kappa", "0.9"], "'kappa' has a grid and a value as well"),
    (["--grid", "seed=1,2", "--repeat", "2"], "the grid has seeds of its own"),
    (["--grid", "kappa=0.5", "--repeat", "0"], "at least once, got repeat=0"),
    (["--grid", "kappa=0.5", "--workers", "0"], "workers must be at least 1, got 0"),
    (["--grid", "kappa=0.5", "--workers", "1", "--scheduler", "x"], "give workers or a scheduler"),
    (["--grid", "kappa=0.5", "--timeout", "0"], "timeout is in seconds above 0"),
    (["--grid", "kappa=0.5", "--resume"], "to resume, name the folder"),
    (["--grid", "kappa=0.5", "--out", "notebooks"], "is not an empty folder"),
    (["--grid", "kappa=0.5", "--out", "notebooks/20_tiny.ipynb/x"], "cannot be made"),
    (["--grid", "kappa=0.5", "--device", "cuda"], "device='cuda'"),
    (["--grid", "kappa=0.5", "--scheduler", "nowhere"], "no Dask scheduler answers at 'nowhere'"),
])
def test_bad_input_is_one_sentence_before_any_work(lab, tmp_path, capsys, monkeypatch, arguments,
                                                   sentence):
    monkeypatch.setattr(workers, "CONNECT", 0.5)
    lab("pass", parameters=PARAMETERS + "\ndevice = 'cpu'")
    assert main(["sweep", "20", *arguments]) == 2
    out, said = capsys.readouterr()
    assert sentence in said and said.count("\n") == 1 and out == ""
    assert not list(tmp_path.rglob("results.*"))


def test_a_scheduler_that_does_not_answer_is_one_sentence(lab, capsys, monkeypatch):
    monkeypatch.setattr(workers, "CONNECT", 0.5)
    lab("pass")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        assert main(["sweep", "20", "--grid", "kappa=0.5", "--scheduler", address]) == 2
    assert f"no Dask scheduler answers at '{address}'" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(lab, tmp_path):
    lab("pass")
    (tmp_path / "out").mkdir()
    with folders.lock(tmp_path / "out"), pytest.raises(ValueError, match="another run works in"):
        sweep.sweep("20", GRID, out=tmp_path / "out")


def test_a_notebook_of_the_users_is_not_replaced(lab, tmp_path):
    lab("pass")
    mine = tmp_path / "out" / "20_tiny,kappa=0.5,seed=0.ipynb"
    mine.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(), mine)
    with pytest.raises(ValueError, match="was not written by a run"):
        sweep.sweep("20", {"kappa": [0.5]}, out=mine.parent, resume=True)


def test_a_notebook_without_seed_is_not_repeated(lab):
    tiny = lab("pass", parameters="kappa = 0.9")
    assert list(grid.plan(tiny, {"kappa": [0.5]})) == ["20_tiny,kappa=0.5"]
    with pytest.raises(ValueError, match="20_tiny has no parameter 'seed'"):
        grid.plan(tiny, {"kappa": [0.5]}, repeat=2)


def test_the_grid_is_read_as_one_writes_it():
    given = ["kappa=-0.5,1e-3", "rank=1,none,None", "mode=relu,'a,b'", "sizes=[1,2],[3]"]
    read = grid.read_grid(given)
    assert read == {"kappa": [-0.5, 1e-3], "rank": [1, None, None], "mode": ["relu", "a,b"],
                    "sizes": [[1, 2], [3]]}


def test_every_combination_is_run_once_with_each_seed(lab):
    tiny = lab("pass")
    runs = grid.plan(tiny, {"kappa": [0.5, -1.0], "rank": [None, 5]}, 3, {"seed": 7})
    assert len(runs) == 12 and len({tuple(run.items()) for run in runs.values()}) == 12
    assert list(runs)[:2] == ["20_tiny,seed=7,kappa=0.5,rank=none",
                              "20_tiny,seed=8,kappa=0.5,rank=none"]
    assert {run["seed"] for run in runs.values()} == {7, 8, 9}


def test_names_of_files_are_safe_and_no_two_the_same(lab):
    values = ["relu", "Relu", "none", None, "1", 1, "a/b", "a:b", "..", "x" * 300, True, "true",
              "π", " a", "a,b", [1, 2]]
    names = [grid.stem("20_tiny", {"mode": value}) for value in values]
    assert names[0] == "20_tiny,mode=relu" and names[3] == "20_tiny,mode=none"
    assert names[5] == "20_tiny,mode=1" and names[10] == "20_tiny,mode=true"
    assert len({name.lower() for name in names}) == len(values)
    assert max(map(len, names)) < 200 and not any(set(name) & set('/\\:*?"<>| ') for name in names)
