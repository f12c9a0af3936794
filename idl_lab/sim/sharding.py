"""What the ranks of torch.distributed do together: tell each other, agree, add up statistics."""

from __future__ import annotations

import atexit
import hashlib
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from idl_lab.sim.hooks import Batches
from idl_lab.sim.states import GramStatistics

Value = TypeVar("Value")
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SUMS = ("gram", "cross_Z", "cross_Y", "norms_Z", "norms_Y")
ALIKE = 1e-9  # relative: unlike machines add the same data up in another order


def in_group() -> bool:
    """Whether this process is a rank among others; joins them if torchrun started it."""
    if not dist.is_available():
        return False
    if not dist.is_initialized():
        if not all(name in os.environ for name in TORCHRUN):
            return False
        dist.init_process_group("gloo")
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    return True


class Ranks:
    """All ranks of the process group, for one computation; used in a ``with``.

    Parameters
    ----------
    timeout : float
        Seconds that a rank waits for the others.

    Raises
    ------
    RuntimeError
        From whatever they do together, if another rank has died or does not come.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.size, self.timeout = dist.get_rank(), dist.get_world_size(), timeout
        # The default group may know GPUs alone, and has a timeout of its own.
        self.group = self.all(dist.new_group, backend="gloo", timeout=timedelta(seconds=timeout))

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:  # else it could wait for ranks that are gone, and hide that error
            dist.destroy_process_group(self.group)

    def all(self, call: Callable[..., Value], *args: Any, **options: Any) -> Value:
        """Call a function of torch.distributed that waits for all ranks.

        Parameters
        ----------
        call : callable
        *args, **options
            Its own.

        Raises
        ------
        RuntimeError
            If it fails, as it does where another rank died or did not come.
        """
        try:
            return call(*args, **options)
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.size} lost the others: one of them died, or did not "
                f"come to the same step within {self.timeout:g} s (torch says: "
                f"{str(error).splitlines()[0]}).") from error

    def each(self, make: Callable[[], Value]) -> list[Value]:
        """What every rank makes, in their order; where one fails, all do.

        Parameters
        ----------
        make : callable
            What it returns is pickled.

        Raises
        ------
        Exception
            This rank's own; else a RuntimeError that quotes another's.
        """
        mine: tuple[Value | None, str] = (None, "")
        failure = None
        try:
            mine = make(), ""
        except Exception as error:
            failure, mine = error, (None, f"{type(error).__name__}: {error}")
        every: list[Any] = [None] * self.size
        self.all(dist.all_gather_object, every, mine, group=self.group)
        if failure:
            raise failure
        for rank, (_, wrong) in enumerate(every):
            if wrong:
                raise RuntimeError(f"rank {rank} of {self.size} failed with {wrong}")
        return [value for value, _ in every]

    def agree(self, make: Callable[[], dict[str, Any]], wanted: str) -> None:
        """Refuse ranks that differ in what must be the same; floats may, by rounding.

        Parameters
        ----------
        make : callable
            What must be the same, by name.
        wanted : str
            What the message ends with.

        Raises
        ------
        ValueError
            On every rank, naming two of them and what differs.
        """
        first, *others = self.each(make)
        for rank, other in enumerate(others, 1):
            for name, one in first.items():
                two = other.get(name)
                close = isinstance(one, float) and isinstance(two, float) and (
                    abs(one - two) <= ALIKE * abs(one))
                if not close and one != two:
                    raise ValueError(f"rank 0 has {name} = {one} and rank {rank} has {two}, but "
                                     f"{wanted}")


def all_reduce(summed: Callable[[Batches], GramStatistics], teacher: nn.Module, loader: Batches,
               *, timeout: float = 1800.0) -> GramStatistics:
    """The statistics of all ranks' data, from each rank's shard of it.

    Parameters
    ----------
    summed : callable
        The statistics of a loader's data.
    teacher : torch.nn.Module
        The same on every rank.
    loader : iterable of U or (U, target)
        This rank's shard. It may be empty, though not on every rank.
    timeout : float
        Seconds to wait for the other ranks.

    Returns
    -------
    GramStatistics
        The same on every rank: products and samples added up.

    Raises
    ------
    ValueError
        If the ranks' teachers differ, in their weights, blocks of states, sizes or units; if no
        rank has data.
    RuntimeError
        Without a process group; if another rank failed, died or did not come.

    Notes
    -----
    Shards must not overlap. ``DistributedSampler`` repeats samples until all shards are of one
    size, and these then count twice; ``Subset(data, range(rank, len(data), world))`` does not.
    """
    if not in_group():
        raise RuntimeError("all_reduce needs a process group: start this script with "
                           "`torchrun --nproc-per-node=N script.py`.")
    batches, head, found = iter(loader), [], []

    def is_empty() -> bool:
        head.extend(itertools.islice(batches, 1))
        return not head

    def plan() -> dict[str, Any]:
        found.append(grams := summed(itertools.chain(head, batches)))
        return {"blocks": [[b.name, b.size, b.activation.name] for b in grams.blocks],
                "units": grams.units.tolist(),
                **{name: getattr(grams, name) for name in ("p", "q", "ones", "input_shape")}}

    with Ranks(timeout) as ranks:
        wanted = "all ranks need the same teacher: seed it, load it or broadcast it."
        ranks.agree(lambda: {"weights of the teacher (their hash)": _hash(teacher)}, wanted)
        empty = ranks.each(is_empty)
        if all(empty):
            raise ValueError("the dataloader gave no batch on any rank: there is no data.")
        if any(empty):
            # A rank without data looks at another's first batch, to know the shapes of what is
            # added up, and counts it for nothing.
            lender = empty.index(False)
            lent = ranks.each(lambda: head if ranks.rank == lender else [])[lender]
            head = head or lent
        ranks.agree(plan, wanted)
        (grams,), weight = found, float(not empty[ranks.rank])
        sums = {name: weight * getattr(grams, name).contiguous() for name in SUMS}
        sums["samples"] = weight * torch.tensor(grams.samples, dtype=torch.float64, device="cpu")
        for total in sums.values():
            ranks.all(dist.all_reduce, total, group=ranks.group)
        return replace(grams, **{**sums, "samples": round(float(sums["samples"]))})


def _hash(network: nn.Module) -> str:
    """Of all parameters and buffers, and of their names."""
    found = hashlib.sha256()
    for name, value in itertools.chain(network.named_parameters(), network.named_buffers()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        data = value.detach().cpu().contiguous().reshape(-1)
        found.update(data.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
