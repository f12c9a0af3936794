"""Samples that are drawn as they are read, and the memory that a process has needed."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.sim import SIM, states
from idl_lab.sim.solvers import ADMMSolver


@dataclass(frozen=True, eq=False)
class Stream:
    """A loader of noisy copies of some samples, which exist only while their batch is in use.

    Each pass draws the same numbers, whatever the device: sample by sample a row of U, picked with
    replacement, plus normal noise.

    Parameters
    ----------
    U : Tensor, shape (r, p)
        Its device is that of the batches.
    samples : int
        m, of a whole pass.
    batch : int
    noise : float
        Standard deviation.
    seed : int
    """

    U: Tensor
    samples: int
    batch: int = 1000
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
            yield noise.to(U.device).mul_(self.noise).add_(U[picked.to(U.device)])


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
        Bytes at the fullest after one batch, which any run needs.
    peaks : list of int
        The same after each number of samples.

    Raises
    ------
    ValueError, RuntimeError
        If the numbers do not rise or sizes are missing; if the process failed.
    """
    validation.choice("what", what, ("gram_statistics", "collect"))
    if len(sizes) < 3:
        raise ValueError(f"sizes must name inputs, at least one hidden layer, and outputs, got "
                         f"{sizes!r}.")
    for size in sizes:
        validation.integer("a size in sizes", size)
    draws = torch.Generator("cpu").manual_seed(0)
    U, *weights = (torch.randn(*shape, generator=draws, device="cpu") for shape in (
        (100, sizes[0]), *((n, p) for p, n in itertools.pairwise(sizes))))
    with tempfile.TemporaryDirectory() as folder:
        # One batch is what any run needs.
        first, *peaks = _alone(folder, samples, {
            "what": what, "weights": weights, "U": U, "before": [Stream.batch]})
    return first, peaks


def train_alone(teacher: nn.Sequential, U: Tensor, samples: Sequence[int], *, seed: int = 0,
                device: str = "cpu", **weights: float) -> tuple[list[int], SIM]:
    """Train SIM with κ = 0.99 on streams, in a process of its own whose memory is measured.

    Parameters
    ----------
    teacher : nn.Sequential
        Linear layers without biases, ReLU between them.
    U : Tensor, shape (r, p)
        Of which the streams are noisy copies.
    samples : sequence of int
        Lengths of the streams, rising.
    seed : int
        Of the streams.
    device : str
        Of the teacher, of the batches, of the solver and of the model.
    **weights
        ``lambda_z`` and ``lambda_y`` of `SIM`.

    Returns
    -------
    peaks : list of int
        Bytes at the fullest after each.
    sim : SIM
        What was found on the longest stream.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If the teacher is another network; if the numbers do not rise; if the process failed.
    """
    if not isinstance(teacher, nn.Sequential) or not all(
            isinstance(part, nn.ReLU) or (isinstance(part, nn.Linear) and part.bias is None)
            for part in teacher):
        raise TypeError(f"teacher must be an nn.Sequential of Linear layers without biases and "
                        f"ReLU, got {teacher!r}.")
    given = {"what": "train", "weights": [W.detach().cpu() for W in teacher.parameters()],
             "U": U.cpu(), "seed": seed, "device": device, "lambdas": weights,
             # What any training needs, a solver's modules among it, is not the first one's.
             "before": [Stream.batch]}
    with tempfile.TemporaryDirectory() as folder:
        _, *peaks = _alone(folder, samples, given)
        return peaks, SIM.load(Path(folder) / "sim.pt", device=device)


def _alone(folder: str, samples: Sequence[int], given: dict[str, Any]) -> list[int]:
    """Run this file in a process of its own; the peaks that it prints."""
    if not samples or list(samples) != sorted(samples):
        raise ValueError(f"samples must be rising numbers, at least one, got {samples!r}.")
    for m in samples:
        validation.integer("a number in samples", m)
    torch.save(given | {"samples": list(samples)}, Path(folder) / "given.pt")
    # As a file: the lab's pictures and panels, which its package brings, are no part of the run.
    package = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-P", __file__, folder], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        raise RuntimeError(f"the process that was to read the states failed: {done.stderr[-500:]}")
    return list(map(int, done.stdout.split()))


def _work(folder: Path) -> None:
    torch.set_num_threads(1)
    given = torch.load(folder / "given.pt", weights_only=True)
    device = given.get("device", "cpu")
    layers = [nn.Linear(W.shape[1], W.shape[0], bias=False) for W in given["weights"]]
    for layer, W in zip(layers, given["weights"], strict=True):
        layer.weight.data.copy_(W)
    teacher = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])
    teacher, U = teacher.to(device), given["U"].to(device)
    for m in [*given.get("before", []), *given["samples"]]:
        stream = Stream(U, m, seed=given.get("seed", 0))
        if given["what"] == "train":
            where = {"device": device, "progress": False}
            sim = SIM(**given["lambdas"], **where).train(ADMMSolver(**where), teacher, stream)
            sim.save(folder / "sim.pt")
        else:
            getattr(states, given["what"])(teacher, stream, progress=False)
        print(peak_memory())


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
