"""Where a sparse A makes a model faster: the same model dense and as CSR, on one core."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import scipy
import torch

from benchmarks.report import PAGE, RESULTS, keep, kept, renewed
from idl_lab.model import ImplicitModel
from idl_lab.networks import from_scipy

SPARSITY_PAGE = PAGE.with_name("sparsity.md")
SIZES, BATCHES, DENSITIES = (300, 1000, 3000), (1, 64), (0.3, 0.1, 0.05, 0.02, 0.01)
REPEATS, INPUTS = 5, 64


def models(n: int, density: float) -> tuple[ImplicitModel, ImplicitModel]:
    """A model with ‖A‖∞ = 0.5 and so many of A's entries, dense and sparse.

    Parameters
    ----------
    n : int
        States.
    density : float
        Share of A's entries that are not zero.
    """
    draws = torch.Generator("cpu").manual_seed(0)
    A, B, C = (torch.randn(shape, generator=draws) for shape in (
        (n, n), (n, INPUTS), (10, n)))
    A *= torch.rand(n, n, generator=draws) < density
    A *= 0.5 / A.abs().sum(dim=1).amax()
    sparse = from_scipy(scipy.sparse.csr_array(A.numpy()), torch.float32)
    return tuple(ImplicitModel.from_matrices(M, B, C) for M in (A, sparse))


def ratio(n: int, batch: int, density: float, work: float = 2e8) -> float:
    """Processor time of the sparse model's forward pass, in units of the dense one's.

    Parameters
    ----------
    n, batch : int
    density : float
    work : float
        Multiply-adds of the dense products that are timed at once.
    """
    dense, sparse = models(n, density)
    U = torch.randn(batch, INPUTS, generator=torch.Generator("cpu").manual_seed(1))
    seconds: dict[ImplicitModel, list[float]] = {dense: [], sparse: []}
    with torch.no_grad():
        calls = max(1, round(work / (n * n * batch)))
        for _ in range(REPEATS + 1):  # in turn, so that a busy machine slows both
            for model, times in seconds.items():
                began = time.process_time()
                for _ in range(calls):
                    model(U)
                times.append(time.process_time() - began)
    return min(seconds[sparse][1:]) / min(seconds[dense][1:])


def run(results: Path = RESULTS, page: Path = SPARSITY_PAGE) -> None:
    """Measure, keep, and write the table.

    Parameters
    ----------
    results, page : path
        Where figures and the table go.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of = {f"{n}, {batch}": {f"{density:g}": round(ratio(n, batch, density), 2)
                                for density in DENSITIES} for n in SIZES for batch in BATCHES}
    torch.set_num_threads(threads)
    keep(kept(results) | {"forward": of}, results)
    print(table(of) + "\n", flush=True)
    page.write_text(written(page.read_text(encoding="utf-8"), of), encoding="utf-8")


def table(of: dict[str, Any]) -> str:
    """The sparse pass in units of the dense one.

    Parameters
    ----------
    of : dict
        ``forward`` in ``results.json``.
    """
    densities = list(next(iter(of.values())))
    heads = " | ".join(f"{float(density):.0%}" for density in densities)
    lines = [f"| n, batch | {heads} |", "| --- " * (len(densities) + 1) + "|"]
    return "\n".join(lines + [f"| {name} | {' | '.join(f'{row[d]:.2f}' for d in densities)} |"
                              for name, row in of.items()])


def written(page: str, of: dict[str, Any]) -> str:
    """docs/sparsity.md with the table renewed.

    Parameters
    ----------
    page : str
    of : dict
        ``forward`` in ``results.json``.
    """
    return renewed(page, "make bench ARGS=forward", table(of))
