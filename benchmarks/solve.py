"""One solve in a process of its own: ``python -P solve.py JOB ANSWER``, both files of torch's.

The process imports the idl_lab that PYTHONPATH names, so that another checkout can be timed, and
counts its own processor time. At the limit it is interrupted as Ctrl-C would: what a solver gives
back then is its best feasible point so far.
"""

from __future__ import annotations

import importlib
import resource
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def ours(job: dict) -> Iterator[tuple[Tensor, dict]]:
    """ADMMSolver's answer.

    Parameters
    ----------
    job : dict
        A problem's ``gram``, ``cross``, ``norms``, ``lam``, ``kappa`` and ``ball``; ``tol``.
    """
    from idl_lab.sim.problem import Problem
    from idl_lab.sim.solvers import ADMMSolver

    solver = ADMMSolver(tol=job["tol"], device=job["device"], progress=False)
    found = solver.solve(Problem(
        **{name: job[name] for name in ("gram", "cross", "norms", "lam", "kappa", "ball")}))
    yield found.W.cpu(), {"reported": found.stats.relative_gap, "status": found.status.name}


def peer(job: dict, W: np.ndarray) -> Iterator[tuple[Tensor, dict]]:
    """A Lasso of another package, target by target, with ever smaller tolerances of its own.

    Parameters
    ----------
    job : dict
        ``features``, ``targets`` and ``lam``; ``solver``, the package.
    W : ndarray, shape (k, d)
        Takes each row as soon as it is there.
    """
    lasso = importlib.import_module(job["solver"]).Lasso
    Phi, T = np.asfortranarray(job["features"].numpy()), job["targets"].numpy()
    most = 10**7 if job["solver"] == "sklearn.linear_model" else 1000  # sweeps, or working sets
    for tol in 10.0 ** -np.arange(4, 17, 2):
        for i, t in enumerate(T.T):
            W[i] = lasso(alpha=job["lam"] / len(Phi), fit_intercept=False, tol=tol, max_iter=most
                         ).fit(Phi, t).coef_
        yield torch.from_numpy(W), {"own tol": float(tol)}


def run(job: dict) -> dict:
    """How far a solver comes before the limit: ``W``, ``seconds``, ``wall``, whether it was cut.

    Parameters
    ----------
    job : dict
        As for `ours` and `peer`; ``limit``, in processor seconds from the start of the solve on.
    """
    other = job["solver"] != "ours"
    # What is compiled or imported at the first call, is before the clock starts.
    if other:
        from benchmarks.features import Instance
        judge = Instance(job["features"], job["targets"], job["lam"], job["ball"])
        small = job["features"][:50, :20].clone()
        next(peer(job | {"features": small, "targets": job["targets"][:50, :1].clone()},
                  np.zeros((1, small.shape[1]))))
    else:
        one = torch.ones(1, 3, dtype=torch.float64)
        next(ours(job | {"gram": torch.eye(3, dtype=torch.float64), "cross": one, "lam": 0.1,
                         "norms": 3 * one[0, :1], "kappa": 0.99, "ball": 1}))
    W = np.zeros(job["cross"].shape)
    answer = {"W": torch.from_numpy(W), "cut": False}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, job["limit"])
    begun, clock = time.process_time(), time.perf_counter()
    try:
        start = begun
        for found, more in peer(job, W) if other else ours(job):
            # Each of a peer's tolerances is a start from nothing: only the last one counts.
            answer |= {"W": found, "seconds": time.process_time() - start,
                       "wall": time.perf_counter() - clock, **more,
                       "cut": more.get("status") == "CANCELLED"}
            if other and judge.relative_gap(found) <= job["tol"]:
                break
            start = time.process_time()
    except KeyboardInterrupt:
        answer |= {"seconds": time.process_time() - begun, "cut": True,
                   "wall": time.perf_counter() - clock}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return answer


def main() -> None:
    """Solve what the first file holds; the second says how far it came."""
    job = torch.load(sys.argv[1])
    torch.set_num_threads(job["threads"])
    # An interrupt waits for the end of a call of LAPACK, and of a loop that is compiled.
    resource.setrlimit(resource.RLIMIT_CPU, 2 * (int(2 * job["limit"]) + 60,))
    torch.save(run(job), sys.argv[2])


if __name__ == "__main__":
    main()
