"""SIM's solver on features of real size: before and after, beside lasso packages, and its growth.

Every solve has a process of its own, one thread and a limit of processor seconds; what it found is
judged here by `Instance.relative_gap`.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks import features
from benchmarks.features import KAPPA, PROBLEMS, Instance

ROOT = Path(__file__).parents[1]
TOL = 1e-6
LIMIT = 40.0
PEERS = {"celer": "celer", "skglm": "skglm", "scikit-learn": "sklearn.linear_model"}


def solved(instance: Instance, limit: float = LIMIT, solver: str = "ours", package: Path = ROOT,
           threads: int = 1, device: str = "cpu", tol: float = TOL, newton: bool = True
           ) -> dict[str, float]:
    """What came of one solve: its seconds, whether the limit cut it, its gap as told and as found.

    Parameters
    ----------
    instance : Instance
    limit : float
        Seconds of the processor, of all threads together.
    solver : str
        "ours", or the module that has a ``Lasso``.
    package : path
        The checkout whose solver it is.
    threads : int
    device : str
    tol : float
        Of the relative gap.
    newton : bool
        As for `Instance.relative_gap`.
    """
    job = job_of(instance) | {"solver": solver, "tol": tol, "limit": limit, "device": device,
                              "threads": threads}
    if solver == "ours":
        del job["features"], job["targets"]
    with tempfile.TemporaryDirectory() as folder:
        given, answer = (str(Path(folder, name)) for name in ("job", "answer"))
        torch.save(job, given)
        path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
        ended = subprocess.run(
            [sys.executable, "-P", str(ROOT / "benchmarks" / "solve.py"), given, answer],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads),
                              "OPENBLAS_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"},
            capture_output=True, text=True)
        if not Path(answer).exists():
            if ended.returncode < 0:  # killed, at the hard limit
                return {"seconds": limit, "cut": True, "gap": 1.0}
            raise RuntimeError(f"the solve by {solver} of {package} failed:\n{ended.stderr}")
        found = torch.load(answer)
    return {"gap": instance.relative_gap(found["W"], newton)} | {
        name: found[name] for name in ("seconds", "wall", "cut", "reported", "own tol")
        if name in found}


def job_of(instance: Instance) -> dict:
    """A problem as `solve.run` takes it.

    Parameters
    ----------
    instance : Instance
    """
    return {"features": instance.features, "targets": instance.targets, "lam": instance.lam,
            "ball": instance.ball, "kappa": KAPPA if instance.ball else None, **instance.products}


def together(tasks: Iterable[Callable[[], dict]], at_once: int) -> list[dict]:
    """The results of some solves, so many at once.

    Parameters
    ----------
    tasks : iterable of callable
    at_once : int
    """
    with ThreadPoolExecutor(at_once) as pool:
        return [future.result() for future in [pool.submit(task) for task in tasks]]


def table(before: Path | None = None, limit: float = LIMIT, at_once: int = 2,
          names: Sequence[str] = tuple(PROBLEMS)) -> dict[str, dict]:
    """Every problem by name: this tree's solver as ``after``, another checkout's as ``before``.

    Parameters
    ----------
    before : path, optional
        The other checkout.
    limit : float
    at_once : int
    names : sequence of str
        Of `PROBLEMS`.
    """
    trees = {"before": before, "after": ROOT} if before else {"after": ROOT}
    wanted = [(name, when) for name in names for when in trees]
    rows = together((lambda name=name, when=when: solved(
        PROBLEMS[name].build(), limit, package=trees[when]) for name, when in wanted), at_once)
    found: dict[str, dict] = {name: {"goal": PROBLEMS[name].goal} for name in names}
    for (name, when), row in zip(wanted, rows, strict=True):
        found[name][when] = row
    return found


def lassos(limit: float = LIMIT, at_once: int = 2) -> dict[str, dict]:
    """Ours and the lasso packages without the ball, to the same gap, on 176 and on 896 columns.

    A package is given tolerances of its own from 1e-4 on until the gap is reached; its time is that
    of the last of them.

    Parameters
    ----------
    limit : float
        Of all tolerances of a package together.
    at_once : int
    """
    instances = {"176 columns": features.small_digits(1e-2), "896 columns": features.digits(1e-2)}
    instances = {name: Instance(of.features, of.targets, of.lam, 0)
                 for name, of in instances.items()}
    wanted = [(size, name) for size in instances for name in ("idl_lab", *PEERS)]
    rows = together((lambda size=size, name=name: solved(
        instances[size], limit, PEERS.get(name, "ours")) for size, name in wanted), at_once)
    found: dict[str, dict] = {size: {} for size in instances}
    for (size, name), row in zip(wanted, rows, strict=True):
        found[size][name] = row
    return found


def large(limit: float = LIMIT, samples: int = 20_000) -> dict[str, dict]:
    """2,048 rows and 2,833 columns on each device that is here: wall seconds beside the rest.

    Parameters
    ----------
    limit : float
        Processor seconds of a thread.
    samples : int
    """
    instance, found = features.large(samples=samples), {}
    for device in ["cpu", *["cuda"] * torch.cuda.is_available()]:
        threads = os.cpu_count() or 1
        name = torch.cuda.get_device_name() if device == "cuda" else f"{threads} cores"
        found[name] = solved(instance, limit * threads, threads=threads, device=device,
                             newton=False)
    return found


SIZES = {"columns d": [("d", d) for d in (250, 500, 1000, 2000)],
         "rows": [("rows", rows) for rows in (25, 50, 100, 200)],
         "samples m": [("m", m) for m in (125, 250, 500, 1000)]}
_MIDDLE = {"d": 500, "rows": 50, "m": 250}


def growth(limit: float = LIMIT, at_once: int = 2) -> dict[str, dict]:
    """Seconds against d, rows and m on correlated data at λ = 1e-3, with the fitted exponents.

    Sizes that the limit cut stand apart: their seconds say nothing.

    Parameters
    ----------
    limit : float
    at_once : int
    """
    wanted = [(of, point) for of, points in SIZES.items() for point in points]
    rows = together((lambda point=point: solved(features.correlated(
        **(_MIDDLE | dict([point])), lam=1e-3, noise=0.1), limit) for _, point in wanted), at_once)
    found: dict[str, dict] = {of: {"sizes": [], "seconds": [], "gaps": [], "cut": []}
                              for of in SIZES}
    for (of, (_, size)), row in zip(wanted, rows, strict=True):
        if row["cut"]:
            found[of]["cut"].append(size)
            continue
        for name, value in (("sizes", size), ("seconds", row["seconds"]), ("gaps", row["gap"])):
            found[of][name].append(value)
    for of in found.values():
        of["exponent"] = exponent(of["sizes"], of["seconds"]) if len(of["sizes"]) > 1 else math.nan
    return found


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the least-squares fit of log seconds = a + b log size.

    Parameters
    ----------
    sizes, seconds : sequence of float
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
