"""A training step on a GPU: torchidl's, ours, and ours from a CUDA graph, by `fit`."""

from __future__ import annotations

import argparse
import importlib.util
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.steps import Work, batches
from idl_lab import ImplicitModel
from idl_lab.training import fit

# Size of the state, of the batch, and whether the inputs are the digits or from N(0, I).
SIZES = ((100, 64, True), (1000, 64, True), (1000, 1024, False), (4000, 256, False))
EPOCHS, BATCHES = 6, 20


def _torchidl(n: int) -> nn.Module:
    import torchidl

    return torchidl.ImplicitModel(input_dim=64, output_dim=10, hidden_dim=n)


# How a model is built, and whether its steps are captured.
KINDS: dict[str, tuple[Callable[[int], nn.Module], str | None]] = {
    "torchidl": (_torchidl, None),
    "idl_lab": (lambda n: ImplicitModel(64, 10, n), None),
    "idl_lab, captured": (lambda n: ImplicitModel(64, 10, n), "auto"),
    "explicit network": (lambda n: nn.Sequential(
        nn.Linear(64, n), nn.ReLU(), nn.Linear(n, 10)), None),
}


def measure(build: Callable[[], nn.Module], given: list[tuple[Tensor, Tensor]],
            capture: str | None) -> dict[str, float]:
    """One contestant at one size; the first epoch, in which it warms up, is left out.

    Parameters
    ----------
    build : callable
        Gives the model, on the GPU.
    given : list of (Tensor, Tensor)
        Batches on the GPU.
    capture : {"auto", None}

    Returns
    -------
    dict
        Milliseconds of a step (median and smallest over epochs), kernels and graphs launched and
        waits of the host in a step, the share of captured steps, the loss at the end.
    """
    options = {"capture": capture, "progress": False}
    torch.manual_seed(0)
    history = fit(build(), given, epochs=EPOCHS, **options)
    milliseconds = 1e3 * history["seconds"].iloc[1:] / len(given)
    counts = []
    for epochs in (1, 3):  # what the two have in common is no step's
        torch.manual_seed(0)
        model = build()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            fit(model, given, epochs=epochs, **options)
        counts.append(Counter({event.key: event.count for event in seen.key_averages()}))

    def a_step(word: str) -> float:
        few, many = (sum(n for name, n in count.items() if re.match(rf"cu\w*{word}", name))
                     for count in counts)
        return (many - few) / (2 * len(given))

    return {"ms": milliseconds.median(), "fastest": milliseconds.min(),
            "launches": a_step("Launch"), "waits": a_step("Synchronize"),
            "captured": history.attrs["captured"] / (EPOCHS * len(given)),
            "loss": float(history["train_loss"].iloc[-1])}


def main() -> None:
    """Print the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100,
                        help="no contestant is begun after them")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    warnings.simplefilter("ignore")
    print("| n | batch | step | ms (fastest) | launches | waits | captured | loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for n, size, digits in SIZES:
        work = Work("", n, batch=size, digits=digits)
        given = [(U.cuda(), labels.cuda()) for U, labels in batches(work, BATCHES)]
        for kind, (build, capture) in KINDS.items():
            if kind == "torchidl" and not importlib.util.find_spec("torchidl"):
                continue
            if time.perf_counter() > end:
                print(f"| {n} | {size} | {kind} | not measured: the time was up |", flush=True)
                continue
            try:
                r = measure(lambda n=n, build=build: build(n).cuda(), given, capture)
                print(f"| {n} | {size} | {kind} | {r['ms']:.2f} ({r['fastest']:.2f}) | "
                      f"{r['launches']:.0f} | {r['waits']:.1f} | {r['captured']:.0%} | "
                      f"{r['loss']:.3f} |", flush=True)
            except Exception as error:  # one that fails says so, the others are measured
                print(f"| {n} | {size} | {kind} | {type(error).__name__}: {error} |", flush=True)


if __name__ == "__main__":
    main()
