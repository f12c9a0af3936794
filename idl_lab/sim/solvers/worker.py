"""One local worker: ``python -m idl_lab.sim.solvers.worker FOLDER RANK COUNT PARENT``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from idl_lab.sim.problem import Problem
from idl_lab.sim.sharding import Lost, Ranks
from idl_lab.sim.solvers.distributed import ADMMMultiGPUSolver
from idl_lab.sim.solvers.launch import LOST


def work(folder: Path, rank: int, count: int) -> None:
    """Solve with the other workers; the first of them leaves the result in the folder.

    Parameters
    ----------
    folder : Path
        Of `Workers`.
    rank, count : int
        Which worker this is, of how many.

    Raises
    ------
    Lost
        If another worker does not answer.
    """
    def beat() -> None:
        # The parent tells beats apart by their times; touch() takes a coarser clock's, by which two
        # beats could look like one.
        now = time.time_ns()
        os.utime(mark, ns=(now, now))

    (mark := folder / f"beat.{rank}").touch()
    given = torch.load(folder / "problem.pt", map_location="cpu", weights_only=True)
    solver = ADMMMultiGPUSolver(**given["options"])
    device = torch.device("cpu")
    if solver._device.type == "cuda":
        device = torch.device("cuda", rank)
    # If this rank lost patience before the parent, its error would be shown in place of the name
    # of the worker that hangs.
    patience = 2 * solver.timeout + 30
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), count), rank=rank,
                            world_size=count)

    def stopped() -> bool:
        beat()
        return (folder / "cancel").exists()

    def report(row: dict[str, float], relative_gap: float) -> None:
        if rank == 0:
            with open(folder / "progress", "a") as file:
                file.write(json.dumps([row, relative_gap]) + "\n")

    with torch.no_grad(), Ranks(device, patience) as ranks:
        found = solver.share(Problem(**given["problem"]), ranks, stopped, report)
    if rank == 0:
        torch.save(found, folder / "result.new")
        (folder / "result.new").replace(folder / "result.pt")
    dist.destroy_process_group()


def _live_with(parent: int, folder: Path, rank: int) -> None:
    """Show that this process runs; end it, and the folder, when the parent is gone."""
    while os.getppid() == parent and folder.exists():
        with contextlib.suppress(FileNotFoundError):
            (folder / f"pulse.{rank}").touch()
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    folder, rank, count, parent = Path(sys.argv[1]), *map(int, sys.argv[2:])
    threading.Thread(target=_live_with, args=(parent, folder, rank), daemon=True).start()
    try:
        work(folder, rank, count)
    except Lost:
        traceback.print_exc()
        os._exit(LOST)
