"""What SIM's state matching costs on paper: flops, bytes, and a machine's seconds for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from idl_lab import validation

PARTS = ("statistics", "eigendecomposition", "splitting", "finish", "communication")
# Beside the products: W, its dual, the best so far, and what a step makes on the way.
ROW_ARRAYS = 16


@dataclass(frozen=True)
class Size:
    """A state matching problem: rows of A and B for n states, from m samples.

    Attributes
    ----------
    n, p : int
        States and inputs; d = n + p features.
    samples : int
        m.
    blocks : int
        Layers of n / blocks states, each of which hears only one other layer and the inputs;
        1 where every state may hear every other.
    support : int, optional
        Non-zeros of a row at the end, s; where it is None a third of what a row may hear, but
        300 at most.
    splitting, finishing : int
        Steps of ADMM, and steps of the active-set method that a row takes on average.
    """

    n: int
    p: int
    samples: int
    blocks: int = 1
    support: int | None = None
    splitting: int = 100
    finishing: int = 5

    def __post_init__(self) -> None:
        for name in ("n", "p", "samples", "blocks"):
            validation.integer(name, getattr(self, name))
        for name in ("splitting", "finishing"):
            validation.integer(name, getattr(self, name), at_least=0)
        if self.support is not None:
            validation.integer("support", self.support)

    @property
    def heard(self) -> float:
        """Features that one row may use: d itself, or those of one block."""
        return self.n / self.blocks + self.p

    @property
    def nonzeros(self) -> float:
        """s, non-zeros of a row at the end."""
        return min(self.heard / 3, 300) if self.support is None else min(self.support, self.heard)

    def flops(self) -> dict[str, float]:
        """Multiplications and additions of each part, on all devices together.

        Notes
        -----
        Statistics: 2m entries for each of ΦᵀΦ (d, d) and ZᵀΦ (n, d). Eigendecomposition: 9d³
        (Golub and Van Loan, Matrix Computations, section 8.3). ADMM: two products of a row with
        an eigenvector matrix and a share of the test, 4.6 d². Active set: ten products with Q, four
        for the test, and a Cholesky factor of the support, 28 d² + s³/3.
        """
        h, n = self.heard, self.n
        own = n / self.blocks
        return {"statistics": 2.0 * self.samples * h * (h + own) * self.blocks,
                "eigendecomposition": 9.0 * h ** 3 * self.blocks,
                "splitting": self.splitting * n * 4.6 * h ** 2,
                "finish": self.finishing * n * (28 * h ** 2 + self.nonzeros ** 3 / 3)}

    def sent(self) -> float:
        """Bytes that one worker puts into the all-reduce: ΦᵀΦ, ZᵀΦ and the norms, float64."""
        h, own = self.heard, self.n / self.blocks
        return 8.0 * self.blocks * (h * h + own * h + own)

    def memory(self, devices: int = 1) -> dict[str, float]:
        """Bytes on each device, float64: what is needed while the rows are solved.

        Parameters
        ----------
        devices : int
            The rows are shared out among them, the Gram matrix is not.
        """
        validation.integer("devices", devices)
        h, rows = self.heard, self.n / devices
        return {"Gram matrix, a copy": 16 * h * h * self.blocks,
                "its eigenvectors": 8 * h * h * self.blocks,
                "the rows at work": 8 * ROW_ARRAYS * rows * h,
                "their supports": 24 * rows * self.nonzeros ** 2}


@dataclass(frozen=True)
class Machine:
    """How fast one device is at each part; its numbers are measured, or assumed.

    Attributes
    ----------
    name : str
    rates : mapping of str to float
        Flops a second, float64, for each of the first four of `PARTS`.
    starts : mapping of str to float
        Seconds that a step of each costs however small it is; 0 where it is not named.
    link : float
        Bytes a second from one device to the next.
    memory : float
        Bytes of a device.
    """

    name: str
    rates: Mapping[str, float]
    starts: Mapping[str, float] = field(default_factory=dict)
    link: float = 1e9
    memory: float = 16e9

    def __post_init__(self) -> None:
        if set(self.rates) != set(PARTS[:-1]) or not set(self.starts) <= set(PARTS[:-1]):
            raise ValueError(f"rates must name {', '.join(PARTS[:-1])}, and starts some of them, "
                             f"got {', '.join(self.rates)} and {', '.join(self.starts)}.")
        for name, rate in self.rates.items():
            validation.real(f"rates[{name!r}]", rate, above=0.0)
        for name, start in self.starts.items():
            validation.real(f"starts[{name!r}]", start, at_least=0.0)
        validation.real("link", self.link, above=0.0)
        validation.real("memory", self.memory, above=0.0)

    def seconds(self, size: Size, devices: int = 1) -> dict[str, float]:
        """Predicted time of each part of state matching.

        Samples and then rows are shared out among the devices; the eigendecomposition is done on
        each. One ring all-reduce brings the sums together, which takes 2(G − 1)/G times their
        bytes, and the rows are gathered at the end.

        Parameters
        ----------
        size : Size
        devices : int
            G.
        """
        validation.integer("devices", devices)
        share = {"eigendecomposition": 1}
        steps = {"splitting": size.splitting, "finish": size.finishing}
        found = {part: steps.get(part, 1) * self.starts.get(part, 0.0)
                 + flops / self.rates[part] / share.get(part, devices)
                 for part, flops in size.flops().items()}
        gathered = 8.0 * size.n * size.heard
        away = (devices - 1) / devices
        return found | {"communication": away * (2 * size.sent() + gathered) / self.link}

    def explains(self, points: pd.DataFrame) -> pd.DataFrame:
        """Measured points with the seconds that this machine would take in place of theirs.

        Parameters
        ----------
        points : pandas.DataFrame
            As `measure_parts` gives them.
        """
        return points.assign(seconds=[
            row.steps * self.starts.get(row.part, 0.0) + row.flops / self.rates[row.part]
            for row in points.itertuples()])


# Assumed, not measured: round numbers for a data-centre card with fast float64 units, and for
# the many small launches that a step takes.
ASSUMED_GPU = Machine(
    "GPU (assumed)",
    {"statistics": 3e13, "eigendecomposition": 5e11, "splitting": 1e13, "finish": 5e12},
    starts={"eigendecomposition": 1e-2, "splitting": 1e-3, "finish": 1e-2}, link=1e11, memory=80e9)


def fit_machine(points: pd.DataFrame, name: str = "this machine", **options: float) -> Machine:
    """The machine that explains measured points best: for each part, seconds = start + flops/rate.

    Neither is negative, and relative errors count, so that small sizes have their say.

    Parameters
    ----------
    points : pandas.DataFrame
        As `measure_parts` gives them.
    name : str
    **options
        ``link`` and ``memory`` of `Machine`.

    Raises
    ------
    ValueError
        If a part was measured at fewer than two sizes.
    """
    rates, starts = {}, {}
    for part in PARTS[:-1]:
        some = points[points.part == part]
        if len(some) < 2:
            raise ValueError(f"points must hold each part at two sizes or more, got {len(some)} of "
                             f"{part}.")
        M = np.stack([some.steps / some.seconds, some.flops / some.seconds], axis=1)
        scale = M.max(axis=0)
        start, slope = nnls(M / scale, np.ones(len(some)))[0] / scale
        # Noise can hide the slope; then no size would cost anything.
        fastest = float((some.flops / some.seconds).max())
        rates[part] = 1 / max(float(slope), 0.1 / fastest)
        starts[part] = float(start)
    return Machine(name, rates, starts, **options)
