"""``make gpu-check``: the device tests, every lab and a training step on a machine with a GPU.

Needs no make: ``python3 -m benchmarks.gpu_check`` in a checkout, with what the labs and the tests
need installed or on ``PYTHONPATH``. The tests and the first round of labs run at the same time; the
training steps are timed when they are done, alone.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["tests/models/test_on_a_device.py", "tests/models/test_on_a_gpu.py"]
PARTS = ("tests", "labs", "steps")


@dataclass(frozen=True)
class Row:
    """A line of the table: what was run, how it ended, the seconds, and what there is to say."""

    what: str
    status: str
    seconds: float
    said: str = ""

    def __str__(self) -> str:
        return f"{self.what:40} {self.status:8} {self.seconds:6.1f}  {self.said}"


def call(arguments: list[str], limit: float) -> tuple[int | None, str, float]:
    """Run Python with a limit: the exit status (None: stopped), the output and the seconds.

    Parameters
    ----------
    arguments : list of str
    limit : float
        In seconds; then the process and those that it started are ended.
    """
    start, paths = time.perf_counter(), [str(ROOT), os.environ.get("PYTHONPATH")]
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)),
                          "OMP_NUM_THREADS": "1"})
    try:
        said, _ = process.communicate(timeout=max(limit, 0.1))
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        status = None
    return status, said, time.perf_counter() - start


# ---- the parts ------------------------------------------------------------------------------


def device_tests(limit: float) -> list[Row]:
    """The suite's device tests: a row for the whole, one for each that failed.

    Parameters
    ----------
    limit : float
        In seconds.
    """
    # pytest-benchmark, where somebody has it, does not go with pytest-xdist.
    several = ["-n", "4", "-p", "no:benchmark"] if importlib.util.find_spec("xdist") else []
    status, said, seconds = call(["-m", "pytest", "-q", "-rfEP", "--tb=line", "--color=no",
                                  "-p", "no:cacheprovider", *several, *TESTS], limit)
    lines = said.splitlines()
    failed = [Row("", "failed", 0.0, line[:300]) for line in lines
              if line.startswith(("FAILED", "ERROR"))]
    captured = [Row("", "", 0.0, line) for line in lines if ": captured " in line]
    tail = next((line for line in reversed(lines) if line.strip()), "")
    ended = "stopped" if status is None else "ok" if status == 0 else "failed"
    return [Row("device tests", ended, seconds, tail[:160]), *failed, *captured]


def lab(number: str, device: str, limit: float) -> Row:
    """One lab, headless, as a user runs it.

    Parameters
    ----------
    number : str
    device : str
    limit : float
        In seconds.
    """
    what = f"lab {number}, device {device}"
    if limit < 10:
        return Row(what, "not run", 0.0, "the time was up")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        status, said, seconds = call(["-m", "idl_lab", "run", number, "-p", "device", device,
                                      "--out", str(out)], limit)
        if status is None:
            return Row(what, "stopped", seconds, f"took longer than {limit:.0f} s")
        if (out / "results.csv").exists():
            with (out / "results.csv").open(newline="") as file:
                said = next(csv.DictReader(file))["error"]
    return Row(what, "failed" if status else "ok", seconds,
               " ".join(said.split())[:300] if status else "")


def training_steps(limit: float) -> tuple[Row, str]:
    """How they went, and their table: ``python3 -m benchmarks.gpu_steps`` alone.

    Parameters
    ----------
    limit : float
        In seconds.
    """
    status, said, seconds = call(["-m", "benchmarks.gpu_steps", "--seconds",
                                  f"{max(limit - 20, 5):g}"], limit)
    lines = said.splitlines()
    table = [line for line in lines if line.startswith("| ")]
    ended = "stopped" if status is None else "failed" if status or not table else "ok"
    return Row("training steps", ended, seconds,
               "" if ended == "ok" or not lines else lines[-1][:300]), "\n".join(table)


# ---- all of it ------------------------------------------------------------------------------


def main() -> int:
    """Run all parts and print one table; 0 if everything is well, 1 if not, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=510, help="for all; 510 by default")
    parser.add_argument("--devices", nargs="*", default=["cuda", "cuda:0", "auto"],
                        help="the labs' parameter; the first round comes before the timing")
    parser.add_argument("--labs", nargs="*", help="numbers of some; without: all")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2),
                        help="labs at a time")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="without: all")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("make gpu-check needs a CUDA GPU, and torch sees none here: nothing was checked.",
              file=sys.stderr)
        return 2
    end = time.perf_counter() + options.seconds
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {os.cpu_count()} cores, "
          f"TF32 {torch.backends.cuda.matmul.allow_tf32} in products and "
          f"{torch.backends.cudnn.allow_tf32} in convolutions as torch comes\n", flush=True)
    numbers = options.labs or [path.name[:2] for path in sorted(
        (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    done: list[Row] = []

    def left(most: float) -> float:
        return min(most, end - time.perf_counter())

    def show(rows: list[Row]) -> None:
        done.extend(rows)
        print(*rows, sep="\n", flush=True)

    def labs(pool: ThreadPoolExecutor, device: str) -> list[Future]:
        # The limit is looked at when a lab's turn comes.
        return [pool.submit(lambda number=number: lab(number, device, left(300)))
                for number in numbers] if "labs" in options.parts else []

    with ThreadPoolExecutor(options.jobs + 1) as pool:
        tests = pool.submit(device_tests, left(240)) if "tests" in options.parts else None
        for row in labs(pool, options.devices[0]):
            show([row.result()])
        if tests is not None:
            show(tests.result())
        if "steps" in options.parts:
            row, table = training_steps(left(120))
            show([row])
            print(f"\n{table}\n", flush=True)
        for device in options.devices[1:]:
            for row in labs(pool, device):
                show([row.result()])
    count = Counter(row.status for row in done if row.status)
    print("\n" + ", ".join(f"{n} {status}" for status, n in count.items()))
    return int(bool(set(count) - {"ok"}))


if __name__ == "__main__":
    sys.exit(main())
