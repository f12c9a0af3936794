"""SIM over several processes against SIM in one: workers, torchrun, death, interrupts."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from helpers import rejects
from sim_ranks import CASES, QUIET, ROWS, TRAIN, images, made, summary, teacher, trained

from idl_lab.sim.solvers import ADMMMultiGPUSolver, ADMMSolver, SolveStatus

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


def close(found, wanted, rel=1e-6):
    torch.testing.assert_close(found, wanted, rtol=0, atol=rel * float(wanted.abs().max()))


# ---- workers of joblib ----------------------------------------------------------------------


def test_two_workers_give_what_one_process_gives():
    p, seen = made(), []
    one = ADMMSolver(**QUIET).solve(p)
    two = ADMMMultiGPUSolver(workers=2, **QUIET).solve(p, watch=seen.append)
    assert two.status is SolveStatus.SOLVED and "2 workers" in two.stats.solver
    close(two.W, one.W)
    torch.testing.assert_close(two.stats.objective, p.objective(two.W))
    assert (two.stats.objective - two.stats.gap <= one.stats.objective + 1e-12).all()
    assert two.stats.relative_gap <= 1e-6 and two.stats.inf_norm <= 0.9
    assert two.stats.nonzeros == one.stats.nonzeros
    assert seen == two.history.to_dict("records")


@dataclass(frozen=True, kw_only=True)
class Uneven(ADMMMultiGPUSolver):
    """Takes two steps for each of its rows, of little use, and is tested after three or four."""

    def iterates(self, problem):
        for step in range(2 * len(problem.cross)):
            yield problem.zeros().index_fill(1, torch.tensor([0], device="cpu"), 1e-3 * step)


def test_the_histories_of_the_workers_add_up():
    p = made()
    two = Uneven(workers=2, check_every=3, **QUIET).solve(p)
    long, short = (Uneven(workers=1, check_every=3, **QUIET).solve(
        p.rows(slice(i, None, 2))).history.to_dict("records") for i in range(2))
    assert [row["step"] for row in long] == [3, 6, 8] and [r["step"] for r in short] == [3, 6]
    wanted = zip(long, [*short, short[-1]], two.history.to_dict("records"), strict=True)
    for one, other, both in wanted:  # the shorter one waits for the longer
        assert both["step"] == one["step"]
        for name in ("objective", "gap"):
            assert both[name] == pytest.approx(one[name] + other[name], rel=1e-12)
    assert two.status is SolveStatus.ENDED and two.stats.steps == 8
    assert two.history["seconds"].is_monotonic_increasing


def test_one_row_one_worker_or_one_numbered_device_needs_no_process():
    for solver, p in ((ADMMMultiGPUSolver(**QUIET), made(k=1)),
                      (ADMMMultiGPUSolver(workers=1, **QUIET), made()),
                      (ADMMMultiGPUSolver(workers=4, progress=False, device="cpu:0"), made())):
        found = solver.solve(p)
        close(found.W, ADMMSolver(**QUIET).solve(p).W, 1e-12)
        assert found.stats.solver == "ADMMMultiGPUSolver"


@pytest.mark.parametrize(("gpus", "device", "workers", "wanted"), [
    (0, "cpu", None, 2), (0, "cpu", 3, 3), (1, "cuda", 2, 1), (1, "cuda", None, 1),
    (4, "cuda", None, 4), (4, "cuda", 2, 2), (4, "cuda", 9, 4), (4, "cuda:1", 2, 1),
    (0, "auto", 2, 2)])
def test_there_are_no_more_workers_than_gpus(monkeypatch, gpus, device, workers, wanted):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    solver = ADMMMultiGPUSolver(device=device, workers=workers, progress=False)
    assert solver.count(20) == wanted and solver.count(1) == 1


@dataclass(frozen=True, kw_only=True)
class Ending(ADMMMultiGPUSolver):
    """Its workers come to an end of some kind."""

    by: str | Path = "kill"

    def iterates(self, problem):
        if self.by == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.by == "raise":
            raise FloatingPointError("no such number")
        if len(problem.cross) == 3:  # the second worker's rows, which never come
            time.sleep(100)
        try:
            yield from super().iterates(problem)
        finally:
            self.by.touch()


def test_an_error_in_a_worker_is_raised_here():
    rejects(lambda: Ending(workers=2, by="raise", **QUIET).solve(made()), FloatingPointError,
            "no such number")


def test_a_worker_that_dies_is_an_error_at_once():
    rejects(lambda: Ending(workers=2, **QUIET).solve(made()), RuntimeError, "terminated", "SIGKILL")


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
                    reason="Ctrl-C is ignored here, as in a shell's background")
def test_an_interrupt_keeps_the_rows_that_have_come(tmp_path):
    p, mark, before = made(), tmp_path / "done", set(psutil.Process().children())

    def press():
        end = time.monotonic() + 100
        while not mark.exists() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(2)  # on its way here
        # To the thread that waits: another's signal would not wake it.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    found = Ending(workers=2, by=mark, **QUIET).solve(p)
    assert found.status is SolveStatus.CANCELLED and not found.W[1::2].any()
    close(found.W[::2], ADMMSolver(**QUIET).solve(p).W[::2])
    torch.testing.assert_close(found.stats.objective, p.objective(found.W))
    assert (p.violation(found.W) == 0).all() and found.stats.relative_gap > 0.1
    asleep = [child for child in psutil.Process().children()
              if child not in before and child.status() != psutil.STATUS_ZOMBIE]
    assert not psutil.wait_procs(asleep, timeout=20)[1]


# ---- torchrun -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    script = out / "script.py"
    script.write_text(f"from sim_ranks import as_rank\nas_rank({json.dumps(str(out))})")
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert run.returncode == 0, run.stderr
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(("name", "k"), [(n, k) for n in CASES for k in ROWS.get(n, (7,))])
def test_ranks_give_what_one_process_gives(ranks, name, k):
    one = ADMMSolver(**QUIET).solve(made(name, k))
    for rank in ranks:
        W, objective, status = rank[f"{name}, k = {k}"]
        assert status == "SOLVED"
        torch.testing.assert_close(objective, one.stats.objective, rtol=2e-6, atol=1e-6)
        if name != "kappa = 0":
            close(W, one.W, 1e-4)


@pytest.mark.parametrize("shards", ["", ", 0 empty", ", 1 empty"])
@pytest.mark.parametrize("name", TRAIN)
def test_training_on_shards_is_training_on_all_data(ranks, name, shards):
    one = summary(trained(ADMMSolver(**QUIET), teacher(), [images()], **TRAIN[name]))
    for rank in ranks:
        found = rank[name + shards]
        assert found["samples"] == one["samples"] == 301
        assert found["fit"] == pytest.approx(one["fit"], abs=1e-6)
        for matrix in "ABCD":
            close(found[matrix], one[matrix], 1e-4)
        if not shards:  # an empty shard's rank has another's first batch in the sample too
            assert found["fidelity"] == pytest.approx(one["fidelity"], abs=1e-5)
    assert ranks[0][name + shards]["fidelity"] == ranks[1][name + shards]["fidelity"]
    for matrix in "ABCD":
        assert torch.equal(*(rank[name + shards][matrix] for rank in ranks))


def test_what_differs_between_ranks_is_refused_on_all(ranks):
    hashes = "weights of the teacher", "same teacher"
    wanted = (hashes, hashes, hashes, ("gave no batch on any rank",), ("NaN", "batch 0"),
              ("kappa", "ball"), ("norms", "cross"), ("tol = 1e-06", "2e-06"))
    for rank in ranks:
        for message, words in zip(rank["refused"], wanted, strict=True):
            assert any(word in message for word in words), message
    assert "RuntimeError: rank 1 of 2 failed with ValueError" in ranks[0]["refused"][4]


def test_a_rank_that_stops_leaves_the_others_their_rows(ranks):
    assert [rank["cancelled"] for rank in ranks] == [("CANCELLED", 50, [10, 20, 30, 40, 50])] * 2


def test_a_rank_that_does_not_come_is_an_error_within_the_timeout(ranks):
    assert "rank 0 of 2 lost the others" in ranks[0]["lost"]
    assert "within 1 s" in ranks[0]["lost"]


def test_a_rank_that_dies_is_an_error_and_no_hang():
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    runs = [subprocess.Popen([sys.executable, "-c", "from sim_ranks import *; as_mortal()"],
                             env=environment | {"RANK": str(rank)}, stderr=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL if rank else subprocess.PIPE, text=True)
            for rank in range(2)]
    try:
        told = runs[0].communicate(timeout=100)[0]
        assert runs[1].wait(timeout=20) == -signal.SIGKILL and runs[0].returncode == 3
        assert "rank 0 of 2 lost the others: one of them died" in told
    finally:
        for run in runs:
            run.kill()
            run.wait()
