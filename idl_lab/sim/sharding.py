"""What the processes of a group do together, through torch.distributed: add up, collect, agree.

Data too large for one process is given to several, each a shard; `all_reduce` makes of the
statistics of the shards those of all data.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from idl_lab.sim.states import GramStatistics

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Lost(RuntimeError):
    """The other ranks did not answer: one of them died, or takes longer than the timeout."""


def in_group() -> bool:
    """Whether this process is a rank among others; joins them if torchrun started it."""
    if not dist.is_available():
        return False
    if not dist.is_initialized():
        if not all(name in os.environ for name in TORCHRUN):
            return False
        gpu = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        atexit.register(_leave)
    return True


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class Ranks:
    """The ranks of the process group, for one computation; used in a ``with``.

    Parameters
    ----------
    device : torch.device
        Where the tensors are: cuda exchanges them by nccl, the CPU by gloo.
    timeout : float
        Seconds that a rank waits for the others before it raises `Lost`.

    Raises
    ------
    Lost
        From any of the exchanges, on the ranks that are left.
    """

    def __init__(self, device: torch.device, timeout: float) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.backend = "nccl" if device.type == "cuda" else "gloo"
        self.timeout = timeout
        self.exchanged = 0  # bytes that went between ranks, over all of them
        # The default group waits many minutes for a rank that died, and may have been made for
        # another device; a group of our own has its own timeout and backend.
        self.group = self._with_others(
            dist.new_group, backend=self.backend, timeout=timedelta(seconds=timeout))

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        # After an error it could wait for ranks that are gone, and hide that error.
        if error is None:
            dist.destroy_process_group(self.group)

    def _with_others(self, call: Callable, *args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except RuntimeError as error:
            raise Lost(f"rank {self.rank} of {self.size} lost the others: one of them failed, or "
                       f"did not come to the same step within {self.timeout:g} s (torch says: "
                       f"{str(error).splitlines()[0]}).") from error

    def sum(self, T: Tensor) -> Tensor:
        """The sum of all ranks' T; the same on each.

        Parameters
        ----------
        T : Tensor
            Of one shape on all ranks.
        """
        total = T.to(self.device, copy=True).contiguous()
        self._with_others(dist.all_reduce, total, group=self.group)
        self.exchanged += 2 * (self.size - 1) * total.nbytes
        return total.to(T.device)

    def gather(self, T: Tensor) -> Tensor:
        """All ranks' T, stacked; their shapes must be equal.

        Parameters
        ----------
        T : Tensor
            Of one shape on all ranks.
        """
        own = T.to(self.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._with_others(dist.all_gather, parts, own, group=self.group)
        self.exchanged += self.size * (self.size - 1) * own.nbytes
        return torch.stack(parts).to(T.device)

    def texts(self, text: str) -> list[str]:
        """All ranks' texts.

        Parameters
        ----------
        text : str
            Of any length.
        """
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        lengths = self.gather(torch.tensor([len(data)], device="cpu"))[:, 0].tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8, device="cpu")
        padded[:len(data)] = data
        return [bytes(row[:length].tolist()).decode()
                for row, length in zip(self.gather(padded), lengths, strict=True)]


def all_reduce(grams: GramStatistics, *, timeout: float = 300.0) -> GramStatistics:
    """The statistics of all ranks' data, from those of each rank's shard.

    Parameters
    ----------
    grams : GramStatistics
        Of this rank's shard, from the same teacher as on the other ranks.
    timeout : float
        Seconds to wait for the other ranks.

    Returns
    -------
    GramStatistics
        The same on every rank: products and samples added up.

    Raises
    ------
    ValueError
        If the ranks' blocks of states, sizes or units differ.
    RuntimeError
        Without a process group; `Lost` if a rank does not answer.

    Notes
    -----
    Shards must not overlap. ``DistributedSampler`` repeats samples until all shards are of one
    size, and these then count twice; ``Subset(data, range(rank, len(data), world))`` does not.
    """
    if not in_group():
        raise RuntimeError("all_reduce needs a process group: start this script with "
                           "`torchrun --nproc-per-node=N script.py`.")
    with Ranks(torch.device("cpu"), timeout) as ranks:
        plan = {"blocks": [[b.name, b.size, b.activation.name] for b in grams.blocks],
                "p": grams.p, "q": grams.q, "ones": grams.ones,
                "input_shape": list(grams.input_shape), "units": grams.units.tolist()}
        for rank, text in enumerate(ranks.texts(json.dumps(plan))):
            other = json.loads(text)
            if odd := [name for name in plan if plan[name] != other[name]]:
                raise ValueError(
                    f"every rank must give the statistics of the same teacher, but rank "
                    f"{ranks.rank} has {odd[0]} = {plan[odd[0]]} and rank {rank} has "
                    f"{other[odd[0]]}.")
        names = ("gram", "cross_Z", "cross_Y", "norms_Z", "norms_Y")
        samples = ranks.sum(torch.tensor([grams.samples], device="cpu"))
        return replace(grams, samples=int(samples),
                       **{name: ranks.sum(getattr(grams, name)) for name in names})
