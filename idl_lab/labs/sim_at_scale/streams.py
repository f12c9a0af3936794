"""Samples that are drawn as they are read, and the memory that a process has needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from idl_lab import validation


@dataclass(frozen=True, eq=False)
class Stream:
    """A loader of noisy copies of some samples, which exist only while their batch is in use.

    Each pass draws the same numbers: sample by sample a row of U, picked with replacement, plus
    normal noise.

    Parameters
    ----------
    U : Tensor, shape (r, p)
        On the CPU.
    samples : int
        m, of a whole pass.
    batch : int
    noise : float
        Standard deviation.
    seed : int
    """

    U: Tensor
    samples: int
    batch: int = 4000
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        validation.tensor("U", self.U, "r p")
        validation.integer("samples", self.samples)
        validation.integer("batch", self.batch)
        validation.real("noise", self.noise, at_least=0.0)
        validation.integer("seed", self.seed, at_least=0)

    def __len__(self) -> int:
        return -(-self.samples // self.batch)

    def __iter__(self) -> Iterator[Tensor]:
        U, draws = self.U, torch.Generator("cpu").manual_seed(self.seed)
        for first in range(0, self.samples, self.batch):
            m = min(self.batch, self.samples - first)
            picked = torch.randint(len(U), (m,), generator=draws, device="cpu")
            noise = torch.randn(m, U.shape[1], generator=draws, dtype=U.dtype, device="cpu")
            yield noise.mul_(self.noise).add_(U[picked])


def peak_memory() -> int:
    """Bytes that this process has held at its fullest, torch's own included.

    Notes
    -----
    Linux keeps the figure in /proc/self/status and starts it anew with each program.
    ``getrusage`` does not: a program's ``ru_maxrss`` there is at least what the process that
    started it held, and a test of memory that trusts it tests nothing.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [text for text in status.read_text().splitlines() if text.startswith("VmHWM")]
        return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024)


_ALONE = """
import sys
import torch
from torch import nn
from idl_lab.labs.sim_at_scale.streams import Stream, peak_memory
from idl_lab.sim import states
torch.set_num_threads(1)
torch.manual_seed(0)
what, *numbers = sys.argv[1:]
samples, sizes = ([int(n) for n in text.split(",")] for text in numbers)
parts = [part for p, n in zip(sizes, sizes[1:]) for part in (nn.Linear(p, n), nn.ReLU())]
teacher = nn.Sequential(*parts[:-1])
reader = getattr(states, what)
reader(teacher, Stream(torch.randn(100, sizes[0]), 4000), progress=False)  # what any run needs
print(peak_memory())
for m in samples:
    reader(teacher, Stream(torch.randn(100, sizes[0]), m), progress=False)
    print(peak_memory())
"""


def peak_of_states(samples: Sequence[int], what: str = "gram_statistics",
                   sizes: Sequence[int] = (64, 64, 32, 16, 10)) -> tuple[int, list[int]]:
    """Peak memory of a process of its own that reads a teacher's states off a stream.

    Parameters
    ----------
    samples : sequence of int
        Numbers of samples, rising, read one after the other by the one process.
    what : {"gram_statistics", "collect"}
        The function of `idl_lab.sim.states`: sums of products, or the states themselves.
    sizes : sequence of int
        Of the teacher's layers, from its inputs to its outputs; its weights are random.

    Returns
    -------
    first : int
        Bytes at the fullest after one batch of 4,000 samples, which any run needs.
    peaks : list of int
        The same after each number of samples.
    """
    if not samples or list(samples) != sorted(samples):
        raise ValueError(f"samples must be rising numbers, at least one, got {samples!r}.")
    for m in samples:
        validation.integer("a number in samples", m)
    validation.choice("what", what, ("gram_statistics", "collect"))
    if len(sizes) < 3:
        raise ValueError(f"sizes must name inputs, at least one hidden layer, and outputs, got "
                         f"{sizes!r}.")
    for size in sizes:
        validation.integer("a size in sizes", size)
    numbers = [",".join(map(str, each)) for each in (samples, sizes)]
    done = subprocess.run([sys.executable, "-c", _ALONE, what, *numbers], capture_output=True,
                          text=True)
    if done.returncode:
        raise RuntimeError(f"the process that was to read the states failed: {done.stderr[-500:]}")
    first, *peaks = map(int, done.stdout.split())
    return first, peaks
