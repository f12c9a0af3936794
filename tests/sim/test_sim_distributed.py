"""SIM over several processes against SIM in one: workers, torchrun, death, hang, cancel."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers import rejects
from sim_ranks import CASES, QUIET, ROWS, SUMS, TRAIN, endless, images, made, summary, teacher

from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMMultiGPUSolver, ADMMSolver, SolveStatus
from idl_lab.sim.states import gram_statistics

ROOT = Path(__file__).resolve().parents[2]


def close(found, wanted, rel=1e-8):
    torch.testing.assert_close(found, wanted, rtol=0, atol=rel * float(wanted.abs().max()))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where workers have their folder; empty again afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.glob("idl_lab-*"))
    assert not workers()


def workers(of=None):
    """The workers of a process, by rank."""
    found = {}
    for child in psutil.Process(of).children():
        line = child.cmdline() if child.status() != psutil.STATUS_ZOMBIE else []
        if "idl_lab.sim.solvers.worker" in line:
            found[int(line[-3])] = child
    return found


def when(there, act, patience=60):
    """Act in another thread as soon as something is there."""
    def wait():
        end = time.monotonic() + patience
        while not (found := there()) and time.monotonic() < end:
            time.sleep(0.02)
        act(found)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def stepping(folder):
    """Whether the workers in a folder have made a test of the gap."""
    return lambda: list(folder.glob("idl_lab-*/progress"))


# ---- workers of its own ---------------------------------------------------------------------


def test_two_workers_give_what_one_process_gives(temporary):
    p = made()
    one, seen = ADMMSolver(**QUIET).solve(p), []
    two = ADMMMultiGPUSolver(workers=2, **QUIET).solve(p, watch=seen.append)
    assert two.status is SolveStatus.SOLVED
    close(two.W, one.W)
    close(two.stats.objective, one.stats.objective)
    assert two.stats.relative_gap <= 1e-6 and two.stats.inf_norm <= 0.9
    # Where a gap is at tol but for rounding, one of them may stop a test of the gap later.
    assert abs(two.stats.steps - one.stats.steps) <= ADMMSolver().check_every
    assert two.stats.nonzeros == one.stats.nonzeros
    # The problem goes to both, W comes back and goes from rank to rank, with two figures a row.
    assert two.stats.exchanged > 8 * (2 * 20 * (20 + 7) + 7 * 20 + 2 * 4 * 22)
    assert "2 workers" in two.stats.solver and one.stats.exchanged == 0
    tests = min(len(one.history), len(two.history))
    np.testing.assert_allclose(two.history[["step", "objective"]][:tests],
                               one.history[["step", "objective"]][:tests], rtol=1e-7)
    assert seen == two.history.to_dict("records")
    assert two.stats.seconds > two.history["seconds"].iloc[-1]


def test_one_row_or_one_worker_needs_no_process(temporary):
    for solver, p in ((ADMMMultiGPUSolver(**QUIET), made(k=1)),
                      (ADMMMultiGPUSolver(workers=1, **QUIET), made())):
        found = solver.solve(p)
        close(found.W, ADMMSolver(**QUIET).solve(p).W)
        assert found.stats.exchanged == 0


def test_an_interrupt_keeps_the_best_feasible_point(temporary):
    p, seen = made(), []

    def watch(row):
        seen.append(row)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return len(seen) > 3  # which changes nothing any more

    found = ADMMMultiGPUSolver(workers=2, **endless()).solve(p, watch=watch)
    assert found.status is SolveStatus.CANCELLED and found.stats.steps >= 30
    assert (p.violation(found.W) == 0).all()
    assert (p.objective(found.W) < p.objective(p.zeros())).all()
    assert seen == found.history.to_dict("records")


def test_a_worker_that_dies_is_an_error_at_once(temporary):
    thread = when(lambda: workers().get(1), lambda worker: worker.kill())
    rejects(lambda: ADMMMultiGPUSolver(workers=2, **QUIET).solve(made()), RuntimeError,
            "worker 1 of 2", "SIGKILL")  # not "no sign of life", which is the timeout's word
    thread.join()


def test_an_error_in_a_worker_is_shown(temporary, monkeypatch):
    (temporary / "torch.py").write_text("raise ImportError('this torch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(temporary))
    rejects(lambda: ADMMMultiGPUSolver(workers=2, **QUIET).solve(made()), RuntimeError,
            "of 2 ended with status 1", "ImportError: this torch is broken")


def test_a_worker_that_hangs_is_an_error_within_the_timeout(temporary):
    solver = ADMMMultiGPUSolver(workers=2, timeout=3, **endless())
    thread = when(stepping(temporary), lambda _: workers()[1].suspend())
    rejects(lambda: solver.solve(made()), RuntimeError, "worker 1 of 2", "no sign of life for 3 s")
    thread.join()


@pytest.mark.skipif(os.name != "posix", reason="only there a process learns of its parent's end")
def test_workers_of_python_c_do_not_outlive_it(tmp_path):
    script = ("import sys; sys.path.insert(0, 'tests'); from sim_ranks import *; "
              "ADMMMultiGPUSolver(workers=2, **endless()).solve(made())")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment) as parent:
        try:
            when(stepping(tmp_path), lambda _: None).join()
            left = list(workers(parent.pid).values())
        finally:
            parent.kill()
    assert len(left) == 2
    _, alive = psutil.wait_procs(left, timeout=20)
    assert not alive and not list(tmp_path.glob("idl_lab-*"))


# ---- torchrun -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    script = out / "script.py"
    script.write_text(textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {json.dumps(str(ROOT / "tests"))})
        from sim_ranks import as_rank
        as_rank({json.dumps(str(out))})"""))
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, run.stderr
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(("name", "k"), [(n, k) for n in CASES for k in ROWS.get(n, (7,))])
def test_ranks_give_what_one_process_gives(ranks, name, k):
    one = ADMMSolver(**QUIET).solve(made(name, k))
    for rank in ranks:
        W, objective, exchanged = rank[f"{name}, k = {k}"]
        close(W, one.W)
        close(objective, one.stats.objective)
        assert exchanged >= 2 * 8 * (-(-k // 2)) * 22


@pytest.mark.parametrize("name", TRAIN)
def test_training_on_shards_is_training_on_all_data(ranks, name):
    one = summary(SIM(progress=False, device="cpu", **TRAIN[name]).train(
        ADMMSolver(**QUIET), teacher(), [images()]))
    for rank in ranks:
        assert rank[name]["samples"] == one["samples"] == 301
        assert rank[name]["fit"] == pytest.approx(one["fit"], abs=1e-7)
        for matrix in "ABCD":
            # States are solved again by float32 matrices, in which a last digit may round away.
            close(rank[name][matrix], one[matrix], 1e-5 if name == "regenerated" else 1e-8)


def test_statistics_of_shards_add_up_to_those_of_all(ranks):
    grams = gram_statistics(teacher(), [images()], progress=False)
    for rank in ranks:
        *sums, samples = rank["statistics"]
        assert samples == 301
        for found, name in zip(sums, SUMS, strict=True):
            torch.testing.assert_close(found, getattr(grams, name), rtol=1e-12, atol=1e-9)


def test_ranks_that_disagree_are_told_so(ranks):
    wanted = (("blocks", "12", "13"), ("kappa", "ball"), ("size of cross",), ("tol",))
    for rank in ranks:
        for message, words in zip(rank["refused"], wanted, strict=True):
            assert all(word in message for word in words), message


def test_one_rank_ends_the_solve_on_all(ranks):
    assert [rank["cancelled"] for rank in ranks] == [("CANCELLED", 20)] * 2


def test_a_rank_that_does_not_come_is_an_error_within_the_timeout(ranks):
    assert "rank 0 of 2 lost the others" in ranks[0]["lost"]
    assert "within 1 s" in ranks[0]["lost"]
