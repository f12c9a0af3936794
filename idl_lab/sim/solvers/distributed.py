"""ADMM on several devices or machines: the rows are shared out, the test of the gap is common."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from idl_lab import validation
from idl_lab.sim.problem import Problem
from idl_lab.sim.sharding import Ranks, all_reduce, in_group
from idl_lab.sim.solvers.admm import ADMMSolver
from idl_lab.sim.solvers.base import require_float64
from idl_lab.sim.solvers.incumbent import Incumbent, gap_bar, update_bar
from idl_lab.sim.solvers.launch import Workers
from idl_lab.sim.solvers.result import SolveResult, SolveStatus
from idl_lab.sim.states import GramStatistics

if TYPE_CHECKING:
    from tqdm import tqdm

ALIKE = 1e-9  # relative: figures of two ranks' problems that differ by less differ by rounding


@dataclass(frozen=True, kw_only=True)
class ADMMMultiGPUSolver(ADMMSolver):
    """`ADMMSolver` over the ranks of torch.distributed, with N of them each solves every N-th row.

    A rank makes ADMMSolver's own iterates on its rows. At each test the ranks tell each other
    their gaps and stop together, so that every row gets the steps, and so the answer, that
    ADMMSolver gives it. What travels is a few numbers a test, and W at the end; what every
    rank does for itself is the factorisation of Q (d, d).

    Under torchrun, or in a process group of your own, every rank calls `SIM.train` or `solve`
    and gets the whole result; a loader then holds the rank's own shard of the data, and the
    statistics are added up. Anywhere else, as in a notebook, each solve starts local workers
    and ends them.

    Parameters
    ----------
    tol, max_steps, check_every, progress
        As for `ADMMSolver`.
    relaxation, splitting_steps
        As for `ADMMSolver`.
    seconds : float
        As for `ADMMSolver`; the start of workers is not counted, though it is in the result.
    device : str
        "auto", "cuda" or "cpu": rank i of a machine computes on cuda:i, by nccl, or on the CPU,
        by gloo.
    workers : int, optional
        How many to start, no more than there are rows, where there is no process group. None is
        one a GPU; two on the CPU, which share this process's threads. One is this process.
    timeout : float
        Seconds without a step of any rank after which workers are given up; their start may
        take a minute. It must be longer than a factorisation of Q takes.

    Raises
    ------
    TypeError, ValueError
        As `ADMMSolver`; for more workers than GPUs, and for one device for all ranks.
    RuntimeError
        From `solve`, when a worker died or hung: it says which, and what the worker wrote last.

    Notes
    -----
    `SolveStats.exchanged` counts what ranks send each other, and with workers also the problem that
    each of them reads and the result.

    KeyboardInterrupt ends the solve on all ranks at the next test, with the best feasible point
    so far; a second one ends the program.

    Examples
    --------
    ``torchrun --nproc-per-node=2 script.py``, on each machine of several with its ``--nnodes``
    and ``--rdzv-endpoint``, where script.py is::

        import torch.distributed as dist
        dist.init_process_group()
        rank, world = dist.get_rank(), dist.get_world_size()
        teacher = ...                                    # the same on every rank
        shard = Subset(data, range(rank, len(data), world))
        sim = SIM(lambda_z=1e-2, progress=rank == 0).train(
            solver=ADMMMultiGPUSolver(), model=teacher,
            dataloader=DataLoader(shard, batch_size=256))
        if rank == 0:
            sim.save("model.pt")

    ``DistributedSampler`` in place of the ``Subset`` repeats samples until all shards have one
    size, and those would count twice.
    """

    workers: int | None = None
    timeout: float = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.real("timeout", self.timeout, above=0.0)
        if self.workers is not None:
            validation.integer("workers", self.workers)
        if self.device not in ("auto", "cuda", "cpu"):
            raise ValueError(f"device must be 'auto', 'cuda' or 'cpu', as each rank has its own, "
                             f"got {self.device!r}.")
        gpus = torch.cuda.device_count()
        if self._device.type == "cuda" and (self.workers or 1) > gpus:
            raise ValueError(f"workers={self.workers} need a GPU each, but torch sees {gpus}: give "
                             f"fewer, or device='cpu'.")

    def gathered(self, grams: GramStatistics) -> GramStatistics:
        """The statistics of all ranks' data; those given where there is no process group.

        Parameters
        ----------
        grams : GramStatistics
            Of this rank's shard.

        Raises
        ------
        ValueError
            If the ranks' teachers differ.
        """
        return all_reduce(grams, timeout=self.timeout) if in_group() else grams

    @torch.no_grad()
    def solve(self, problem: Problem,
              watch: Callable[[dict[str, float]], bool | None] | None = None) -> SolveResult:
        """Solve on all ranks, or on workers started for it; the same result on every rank.

        Parameters
        ----------
        problem : Problem
            In float64, and the same on every rank.
        watch : callable, optional
            Called with each new row of `SolveResult.history`, as a dict, on each rank that has one.
            Where it returns true, all ranks stop at the next test of the gap.

        Returns
        -------
        SolveResult
            With `SolveStats.exchanged`: bytes that went between the processes.

        Raises
        ------
        RuntimeError
            If a worker or another rank died or hung.
        ValueError
            If the ranks' problems or settings differ.
        """
        require_float64(problem)
        start = time.perf_counter()
        if in_group():
            return self._as_rank(problem, watch, start)
        gpu = self._device.type == "cuda"
        count = self.workers or (torch.cuda.device_count() if gpu else 2)
        count = min(count, len(problem.cross))
        if count < 2:
            return super().solve(problem, watch)
        if type(self) is not ADMMMultiGPUSolver:
            raise TypeError(f"workers know ADMMMultiGPUSolver, not {type(self).__name__}: run it "
                            f"under torchrun.")
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        with (gap_bar(self.name, self.tol, self.progress) as bar,
              Workers(problem, options, count, self.timeout) as workers):
            found = workers.result(_reporter(bar, watch))
        return self._result(problem, found, start, f"{count} workers, {'nccl' if gpu else 'gloo'}")

    def _as_rank(self, problem: Problem, watch: Callable | None, start: float) -> SolveResult:
        device = self._device
        if device.type == "cuda":
            count = torch.cuda.device_count()
            local = int(os.environ.get("LOCAL_RANK", dist.get_rank() % count))
            if local >= count:
                raise ValueError(f"rank {dist.get_rank()} is number {local} on its machine, where "
                                 f"torch sees {count} GPUs: start fewer, or give device='cpu'.")
            device = torch.device("cuda", local)
        with (Ranks(device, self.timeout) as ranks, _interrupts() as interrupted,
              gap_bar(self.name, self.tol, self.progress and ranks.rank == 0) as bar):
            found = self.share(problem, ranks, interrupted, _reporter(bar, watch))
            return self._result(problem, found, start, f"{ranks.size} ranks, {ranks.backend}")

    def share(self, problem: Problem, ranks: Ranks, stopped: Callable[[], bool],
              report: Callable[[dict[str, float], float], object]) -> dict[str, Any]:
        """This rank's part of a solve, and what all ranks have found together.

        Parameters
        ----------
        problem : Problem
            The whole one.
        ranks : Ranks
            All that solve with this one.
        stopped : callable
            Asked at every step whether to cancel.
        report : callable
            Told the history's new row and the relative gap at every test; true cancels.

        Returns
        -------
        dict
            What `SolveResult` is made of, in tensors, numbers and words.

        Raises
        ------
        ValueError
            If the ranks' problems or settings differ.
        Lost
            If another rank does not answer.
        """
        self._agree(problem, ranks)
        k, d = problem.shape
        mine = problem.to(ranks.device).rows(slice(ranks.rank, k, ranks.size))
        best = Incumbent(mine, self.honours_kappa) if len(mine.cross) else None
        draws = self.iterates(mine) if best else iter(())
        status, step, start, quiet = None, 0, time.perf_counter(), gap_bar("", self.tol, False)
        history: list[dict[str, float]] = []
        ended = False
        while status is None:
            late, stop = False, ended
            asked, before = min(self.check_every, self.max_steps - step), step
            for point in itertools.islice(draws, asked):
                W, step = point, step + 1
                late, stop = time.perf_counter() - start > self.seconds, ended or stopped()
                if late or stop:
                    break
            if step > before:
                best.see(W, step, start, quiet)
            more = step - before == asked and step < self.max_steps
            sums = ([best.gap.sum(), best.objective.sum(),
                     torch.maximum(best.objective, mine.scale).sum()] if best else [0, 0, 0])
            table = ranks.gather(torch.tensor(
                [*map(float, sums), step, step > before, more, late, stop],
                dtype=torch.float64, device="cpu"))
            gap, objective, size = table[:, :3].sum(dim=0).tolist()
            steps, news, more, late, stop = table[:, 3:].amax(dim=0).tolist()
            relative = gap / size if size > 0 else 0.0
            if news:
                history.append({"step": int(steps), "seconds": time.perf_counter() - start,
                                "objective": objective, "gap": gap})
                ended = bool(report(history[-1], relative))
            if stop:
                status = SolveStatus.CANCELLED
            elif relative <= self.tol:
                status = SolveStatus.SOLVED
            elif late:
                status = SolveStatus.SECONDS
            elif not more:
                out = steps == self.max_steps
                status = SolveStatus.MAX_STEPS if out else SolveStatus.ENDED
        return _together(best, k, d, ranks) | {
            "status": status.name, "steps": int(steps), "history": history,
            "exchanged": ranks.exchanged}

    def _agree(self, problem: Problem, ranks: Ranks) -> None:
        """Refuse ranks that would solve different problems, or by different rules."""
        rules = ("tol", "max_steps", "check_every", "relaxation", "splitting_steps")
        figures = {f"size of {f.name}": value.numel() for f in fields(problem)
                   if isinstance(value := getattr(problem, f.name), Tensor)}
        for owner, names in ((problem, [f.name for f in fields(problem)]), (self, rules)):
            for name in names:
                value = getattr(owner, name)
                value = value.double().abs().sum() if isinstance(value, Tensor) else value
                figures[name] = math.nan if value is None else float(value)
        names = ranks.texts("|".join(figures))
        own = torch.tensor(list(figures.values()), dtype=torch.float64, device="cpu")
        table = ranks.gather(own) if len(set(names)) == 1 else own[None]
        # Unlike machines add up the same data in another order, and are not to be refused for that.
        same = torch.isclose(table, own, rtol=ALIKE, atol=0, equal_nan=True).all(dim=0).tolist()
        odd = [name for name, fine in zip(figures, same, strict=True) if not fine]
        if odd or len(set(names)) > 1:
            raise ValueError(f"every rank must solve the same problem by the same rules, but the "
                             f"ranks differ in {', '.join(odd) or 'what is given'}. "
                             f"Is the teacher the same on each?")

    def _result(self, problem: Problem, found: dict[str, Any] | None, start: float, how: str
                ) -> SolveResult:
        best = Incumbent(problem, self.honours_kappa)
        found = found or {"status": "CANCELLED", "steps": 0, "exchanged": 0}
        if "W" in found:
            best.W, best.objective, best.lower = (
                found[name].to(problem.gram.device) for name in ("W", "objective", "lower"))
            best.history, best.seen = found["history"], True
        result = best.result(SolveStatus[found["status"]], found["steps"], start,
                             f"{self.name} ({how})", problem.gram.device)
        return replace(result, stats=replace(result.stats, exchanged=found["exchanged"]))


def _together(best: Incumbent | None, k: int, d: int, ranks: Ranks) -> dict[str, Tensor]:
    """The best points of all k rows, on the CPU, from those of each rank."""
    own = torch.zeros(-(-k // ranks.size), d + 2, dtype=torch.float64, device=ranks.device)
    if best:
        own[:len(best.W)] = torch.cat(
            [best.W, best.objective[:, None], best.lower[:, None]], dim=1)
    # Rank r had the rows r, r + size, r + 2·size, …: its i-th is row i·size + r of all.
    whole = ranks.gather(own).transpose(0, 1).reshape(-1, d + 2)[:k].cpu()
    return {"W": whole[:, :d].clone(), "objective": whole[:, d].clone(),
            "lower": whole[:, d + 1].clone()}


def _reporter(bar: tqdm, watch: Callable | None) -> Callable[[dict[str, float], float], object]:
    def report(row: dict[str, float], relative_gap: float) -> object:
        update_bar(bar, row["objective"], relative_gap)
        return watch is not None and watch(dict(row))

    return report


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C as a question: a rank that left in the middle would leave the others waiting."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
