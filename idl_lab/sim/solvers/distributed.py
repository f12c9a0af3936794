"""ADMM on several devices or machines: samples are added up, rows are shared out."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from idl_lab import extras, validation
from idl_lab.bar import progress_bar
from idl_lab.sim.hooks import Batches
from idl_lab.sim.problem import Problem
from idl_lab.sim.sharding import Ranks, all_reduce, in_group
from idl_lab.sim.solvers.admm import ADMMSolver
from idl_lab.sim.solvers.base import BaseSolver, require_float64
from idl_lab.sim.solvers.incumbent import Incumbent
from idl_lab.sim.solvers.result import SolveResult, SolveStatus
from idl_lab.sim.states import GramStatistics

if TYPE_CHECKING:
    import pandas as pd

OWN = ("device", "progress", "workers", "timeout")  # settings in which ranks may differ

@dataclass(frozen=True, kw_only=True)
class ADMMMultiGPUSolver(ADMMSolver):
    """`ADMMSolver` on several processes: with N of them each solves every N-th row.

    Rows share nothing but Q, and each has its own certificate, so a process needs no other until
    the rows are put together. Each of them factors Q (d, d) for itself.

    Under torchrun, or in a process group of your own, every rank calls `SIM.train` or `solve`
    and gets the whole result; a loader then holds the rank's own shard of the data, and the
    statistics are added up. Anywhere else, as in a notebook, the rows go to workers of joblib,
    which stay for the next solve.

    Parameters
    ----------
    tol, max_steps, check_every, seconds, progress, relaxation, splitting_steps
        As for `ADMMSolver`, in each process for its own rows.
    device : str
        "auto" and "cuda" give the i-th process of a machine the GPU i; they share the GPUs where
        there are fewer. "cpu" computes there. One GPU by its number, as "cuda:1", is used by
        every rank; without ranks it needs no workers.
    workers : int, optional
        Of joblib, where there is no process group; fewer where there are fewer rows or GPUs. None
        is one a GPU, and two on the CPU. Where one is left, it is this process.
    timeout : float
        Seconds that a rank waits for the others; 1800 as torch's own. It must be longer than one
        of them takes for its rows more than another.

    Raises
    ------
    TypeError, ValueError
        As `ADMMSolver`.
    RuntimeError
        From `solve`: if a worker died; if another rank failed, died, or did not come in time.

    Notes
    -----
    KeyboardInterrupt ends the rows of the process that gets it, with the best feasible points so
    far, and the result is CANCELLED; a notebook keeps what its workers have handed back by then,
    and zeros in the other rows.

    Examples
    --------
    ``torchrun --nproc-per-node=2 script.py``, on each machine of several with its ``--nnodes``
    and ``--rdzv-endpoint``, where script.py is::

        import torch.distributed as dist
        dist.init_process_group("gloo")
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
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        super().__post_init__()
        validation.real("timeout", self.timeout, above=0.0)
        if self.workers is not None:
            validation.integer("workers", self.workers)

    def gathered(self, summed: Callable[[Batches], GramStatistics], teacher: nn.Module,
                 loader: Batches) -> GramStatistics:
        """The statistics of all ranks' data; of this process's where there is no process group.

        Parameters
        ----------
        summed, teacher, loader
            As for `idl_lab.sim.sharding.all_reduce`.

        Raises
        ------
        ValueError, RuntimeError
            As `idl_lab.sim.sharding.all_reduce`.
        """
        if not in_group():
            return summed(loader)
        return all_reduce(summed, teacher, loader, timeout=self.timeout)

    def everywhere(self, value: Any) -> list[Any]:
        """The values of all ranks, in order; of this process alone where there is no group.

        Parameters
        ----------
        value : object
            This rank's, which is pickled.
        """
        if not in_group():
            return [value]
        with Ranks(self.timeout) as ranks:
            return ranks.each(lambda: value)

    @torch.no_grad()
    def solve(self, problem: Problem,
              watch: Callable[[dict[str, float]], bool | None] | None = None,
              start: Tensor | None = None) -> SolveResult:
        """Solve on all ranks, or on workers of joblib; the same result on every rank.

        Parameters
        ----------
        problem : Problem
            In float64, and the same on every rank.
        watch : callable, optional
            Called with each new row of a rank's own history, as a dict; where it returns true that
            rank's rows end there. Of workers it is told when they have finished.
        start : Tensor, shape (k, d), optional
            As for `ADMMSolver`.

        Returns
        -------
        SolveResult
            Its history adds up the processes' as if their steps were taken together.

        Raises
        ------
        RuntimeError
            If a worker or another rank died, failed, or did not come.
        ValueError
            If the ranks' problems or settings differ.
        """
        require_float64(problem)
        began, host = time.perf_counter(), problem.to("cpu")
        found: dict[int, SolveResult | None] = {}
        if in_group():
            with Ranks(self.timeout) as ranks:
                rank, count = ranks.rank, ranks.size
                ranks.agree(lambda: _figures(host) | _figures(self, OWN),
                            "all ranks must solve the same problem by the same rules.")
                found.update(ranks.each(lambda: self._rows(
                    rank, count, host, start, int(os.environ.get("LOCAL_RANK", rank)),
                    self.progress and rank == 0, watch)))
            return self._together(problem, found, count, began, "ranks")
        count = self.count(len(problem.cross))
        if count == 1:
            return super().solve(problem, watch, start)
        # max_nbytes=None: joblib would write large arrays to memory-mapped files, which an
        # interrupt leaves behind.
        parts = extras.need("joblib", "sim").Parallel(
            count, return_as="generator_unordered", max_nbytes=None)(
            (ADMMMultiGPUSolver._rows, (self, i, count, host, start, i), {})
            for i in range(count))
        with contextlib.suppress(KeyboardInterrupt):
            for i, part in progress_bar(parts, total=count, desc=self.name, unit="worker",
                                        progress=self.progress):
                found[i] = part
        result = self._together(problem, found, count, began, "workers")
        for row in result.history.to_dict("records") if watch else ():
            watch(row)
        return result

    def count(self, rows: int) -> int:
        """How many workers so many rows get where there is no process group; 1 is this process.

        Parameters
        ----------
        rows : int
        """
        if self._device.index is not None:
            return 1
        gpus = len(self._places()) if self._device.type == "cuda" else None
        return min(self.workers or gpus or 2, gpus or rows, rows)

    def _places(self) -> list[str]:
        """The devices of this machine, which its processes take in turn."""
        if self._device.type != "cuda" or self._device.index is not None:
            return [str(self._device)]
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cuda"]

    def _rows(self, i: int, count: int, problem: Problem, start: Tensor | None, local: int,
              progress: bool = False, watch: Callable | None = None
              ) -> tuple[int, SolveResult | None]:
        """Every count-th row from the i-th, on the device of this machine's local-th process."""
        if i >= len(problem.cross):
            return i, None
        at, places = slice(i, None, count), self._places()
        mine = replace(self, device=places[local % len(places)], progress=progress)
        return i, super(ADMMMultiGPUSolver, mine).solve(
            problem.rows(at), watch, None if start is None else start[at].cpu())

    def _together(self, problem: Problem, found: dict[int, SolveResult | None], count: int,
                  began: float, who: str) -> SolveResult:
        """One result for all rows; those of a share that did not come stay zero."""
        best, parts = Incumbent(problem, self.honours_kappa), {i: p for i, p in found.items() if p}
        for i, part in parts.items():
            at, device = slice(i, None, count), problem.gram.device
            best.W[at], best.objective[at] = part.W.to(device), part.stats.objective.to(device)
            best.lower[at] = best.objective[at] - part.stats.gap.to(device)
        best.seen, best.history = bool(parts), _added([p.history for p in parts.values()])
        ends = {p.status for p in parts.values()}
        if len(found) < count:
            ends.add(SolveStatus.CANCELLED)
        status = max(ends, key=list(SolveStatus).index)  # which lists the good ones first
        if best.relative_gap <= self.tol and status is not SolveStatus.CANCELLED:
            status = SolveStatus.SOLVED
        steps = max((p.stats.steps for p in parts.values()), default=0)
        return best.result(status, steps, began, f"{self.name} ({count} {who})",
                           problem.gram.device)


def _figures(owner: Problem | BaseSolver, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """What ranks must agree in; of a tensor the shape, and a sum that feels where a number is."""
    figures: dict[str, Any] = {"kind": type(owner).__name__}
    for name in (f.name for f in fields(owner) if f.name not in without):
        value = figures[name] = getattr(owner, name)
        if isinstance(value, Tensor):
            value = value.double()  # of a mask too
            place = torch.linspace(1, 2, value.numel(), dtype=value.dtype, device=value.device)
            figures[f"shape of {name}"] = tuple(value.shape)
            figures[name] = float(value.abs().flatten() @ place)
    return figures


def _added(histories: list[pd.DataFrame]) -> list[dict[str, float]]:
    """Sums at every step at which a process was tested; one that has ended stays as it is."""
    if not histories:
        return []
    pd = extras.need("pandas", "sim")
    parts = [h.drop_duplicates("step", keep="last").set_index("step") for h in histories]
    steps = pd.concat(parts, axis=1, keys=range(len(parts))).sort_index().ffill().bfill()
    by_name = steps.T.groupby(level=1)
    table = by_name.sum().T.assign(seconds=by_name.max().T["seconds"])
    return table[["seconds", "objective", "gap"]].reset_index().to_dict("records")
