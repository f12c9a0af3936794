"""Training steps beside the peers' at equal accuracy, in one process.

All get the same matrices, those after fifty steps of Adam, and the same batches. Each package's
tolerances are loosened as far as its gradient stays within 1e-4 of float64's; then the packages
take turns at every step, so that a machine whose speed drifts slows all of them, and what is quoted
is the median of the paired ratios. Adam runs at a learning rate of 0: its work is done, and the
problems stay the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.byhand import Floor, State, gradients
from benchmarks.contestants import CONTESTANTS, KAPPA, OURS, Contestant, parameter
from benchmarks.counts import Calls, peak
from idl_lab import data

Batch = tuple[Tensor, Tensor]
WANTED = 1e-4  # error of the gradient of all parameters, relative, in the worst batch
_BATCHES = 4
_TIGHTEST = 40  # tolerances are 10^(−k/4), k from 4 on


@dataclasses.dataclass(frozen=True)
class Work:
    """A training step of one size.

    Attributes
    ----------
    name : str
    n : int
    rank : int or None
    goal : float or None
        The share of torchidl's time that is to be reached.
    batch : int
    digits : bool
        The digits, or inputs from N(0, I) with the labels of a random network.
    contestants : tuple of str
    """

    name: str
    n: int
    rank: int | None = None
    goal: float | None = None
    batch: int = 64
    digits: bool = True
    contestants: tuple[str, ...] = tuple(CONTESTANTS)


_FEW = tuple(name for name in CONTESTANTS if "GMRES" not in name and "monDEQ" not in name)
WORKS = (
    Work("n = 100", 100, goal=0.5), Work("n = 1000", 1000, goal=0.6),
    Work("n = 2000, rank 10", 2000, rank=10, goal=0.1),
    Work("n = 100, batch 16, N(0, I)", 100, batch=16, digits=False, goal=0.5, contestants=_FEW),
    Work("n = 100, batch 256, N(0, I)", 100, batch=256, digits=False, goal=0.5, contestants=_FEW),
    Work("n = 1000, batch 16, N(0, I)", 1000, batch=16, digits=False, goal=0.6, contestants=_FEW),
    Work("n = 1000, batch 256, N(0, I)", 1000, batch=256, digits=False, goal=0.6,
         contestants=_FEW),
)


# ---- what is solved -------------------------------------------------------------------------


def batches(work: Work, count: int = _BATCHES) -> list[Batch]:
    """The first batches of a work.

    Parameters
    ----------
    work : Work
    count : int
    """
    if work.digits:
        train, _ = data.load("digits", batch_size=work.batch, seed=0)
        return list(itertools.islice(train, count))
    draws = torch.Generator("cpu").manual_seed(0)
    first, last = torch.randn(64, 64, generator=draws), torch.randn(10, 64, generator=draws)
    inputs = torch.randn(count, work.batch, 64, generator=draws)
    return [(U, (torch.relu(U @ first) @ last.mT).argmax(dim=1)) for U in inputs]


def trained(work: Work, steps: int = 50) -> State:
    """The matrices after some steps of Adam from torchidl's random start.

    Parameters
    ----------
    work : Work
    steps : int
    """
    draws, n = torch.Generator("cpu").manual_seed(0), work.n
    shapes = {"A": (n, n)} if work.rank is None else {"L": (n, work.rank), "R": (n, work.rank)}
    state = {name: torch.randn(*shape, generator=draws) / n for name, shape in
             {**shapes, "B": (n, 64), "C": (10, n), "D": (10, 64)}.items()}
    model = CONTESTANTS[OURS].build(state, 1e-6, 1e-6)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for U, labels in itertools.islice(itertools.cycle(batches(work, 20)), steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(U), labels).backward()
        optimizer.step()
    state = {name: parameter(model, name).detach().clone() for name in state}
    if work.rank is not None:
        # torchidl bounds each factor: inside both bounds, it is the same model as the others'.
        state["L"] *= 0.9 * KAPPA / state["L"].abs().sum(dim=1).amax()
        state["R"] *= 0.9 * KAPPA / state["R"].abs().sum(dim=0).amax()
    return state


# ---- equal accuracy -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a contestant does at some tolerances.

    Attributes
    ----------
    tolerances : (float, float)
    error : float
        Of the gradient, in the worst batch.
    products : list of (float, float)
        With A, forward and backward, batch by batch.
    waits : float
        Of the host on any device, forward and backward, in the median batch.
    """

    tolerances: tuple[float, float]
    error: float
    products: list[tuple[float, float]]
    waits: float

    @property
    def total(self) -> float:
        """Products of all batches."""
        return sum(map(sum, self.products))


def examine(contestant: Contestant, state: State, given: list[Batch], judge: list[State],
            tolerances: tuple[float, float]) -> Tuned:
    """One contestant at one pair of tolerances.

    Parameters
    ----------
    contestant : Contestant
    state : State
    given : list of (Tensor, Tensor)
    judge : list of State
        The gradients in float64, batch by batch.
    tolerances : (float, float)
    """
    model = contestant.build(state, *tolerances)
    n, rank = len(state["B"]), state["L"].shape[1] if "L" in state else None
    C = getattr(model, "C", None)  # an explicit network has no such matrix, nor such a gradient
    for U, labels in given * (contestant.passes - 1):
        nn.functional.cross_entropy(model(U), labels).backward()
    errors, products, waits = [math.nan] * (C is None), [], []
    for (U, labels), exact in zip(given, judge, strict=True):
        model.zero_grad()
        with Calls(n, rank, C) as ahead:
            loss = nn.functional.cross_entropy(model(U), labels)
        with Calls(n, rank, C) as back:
            loss.backward()
        products.append((ahead.products, back.products))
        waits.append(ahead.waits + back.waits)
        if C is not None:
            errors.append(_error(model, exact | {"A": exact["A in use"]} if contestant.straight
                                 and rank is None else exact, state))
    return Tuned(tolerances, max(errors), products, float(pd.Series(waits).median()))


def _error(model: nn.Module, exact: State, names: Iterable[str]) -> float:
    """Relative error of the gradient of all parameters as one vector."""
    off, size = (math.hypot(*norms) for norms in zip(*(
        (float((parameter(model, name).grad - exact[name]).norm()), float(exact[name].norm()))
        for name in names), strict=True))
    return off / size


def tune(look: Callable[[tuple[float, float]], Tuned]) -> Tuned:
    """The loosest tolerances with an error of at most `WANTED`, by the number of products.

    Both are tightened together until it holds; then one is loosened as far as it goes and after it
    the other, in either order. Where it never holds, the most exact is returned.

    Parameters
    ----------
    look : callable
        Tolerances to `Tuned`.
    """
    seen: dict[tuple[int, int], Tuned] = {}

    def at(pair: tuple[int, int]) -> Tuned:
        if pair not in seen:
            seen[pair] = look((10 ** (-pair[0] / 4), 10 ** (-pair[1] / 4)))
        return seen[pair]

    start = next(((k, k) for k in range(4, _TIGHTEST, 2) if at((k, k)).error <= WANTED), None)
    if start is None:
        return min(seen.values(), key=lambda tuned: tuned.error)
    for order in ((0, 1), (1, 0)):
        pair = start
        for side in order:
            while pair[side] > 1:
                looser = (pair[0] - (side == 0), pair[1] - (side == 1))
                if not at(looser).error <= WANTED:
                    break
                pair = looser
    return min((t for t in seen.values() if t.error <= WANTED), key=lambda t: t.total)


# ---- the clock ------------------------------------------------------------------------------


def milliseconds(turns: dict[str, Callable[[int], None]], seconds: float) -> pd.DataFrame:
    """Milliseconds of each turn, taken one after the other for some time.

    By the clock of this thread, which stands still while others have the processor.

    Parameters
    ----------
    turns : dict of str to callable
        Given the number of the batch.
    seconds : float
        How long at least, and at least ten rounds after two to warm up.
    """
    rows: list[dict[str, float]] = []
    end, i = time.perf_counter() + seconds, -2
    while i < 10 or time.perf_counter() < end:
        row = {}
        for name in turns if i % 2 else reversed(turns):
            start = time.thread_time()
            turns[name](i % _BATCHES)
            row[name] = 1e3 * (time.thread_time() - start)
        if i >= 0:
            rows.append({name: row[name] for name in turns})
        i += 1
    return pd.DataFrame(rows)


def _turn(model: nn.Module, given: list[Batch]) -> Callable[[int], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)

    def turn(i: int) -> None:
        U, labels = given[i]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(U), labels).backward()
        optimizer.step()

    return turn


def _memory(model: nn.Module, batch: Batch) -> float:
    model.zero_grad()
    return peak(lambda: nn.functional.cross_entropy(model(batch[0]), batch[1]).backward())


# ---- the report -----------------------------------------------------------------------------


def floor_of(name: str) -> str:
    """The name under which the floor of a contestant's step is timed.

    Parameters
    ----------
    name : str
    """
    return f"floor of {name}"


def summary(times: pd.DataFrame) -> pd.DataFrame:
    """Median, quartiles, and the medians of the paired ratios to torchidl and to the floor.

    Parameters
    ----------
    times : DataFrame
        From `milliseconds`, a column a contestant and a floor.
    """
    names = [name for name in times if not name.startswith(floor_of(""))]
    base = times.get("torchidl", pd.Series(math.nan, times.index))
    low, middle, high = (times[names].quantile(q) for q in (0.25, 0.5, 0.75))
    return pd.DataFrame({
        "ms": middle, "low": low, "high": high,
        "of torchidl": times[names].div(base, axis=0).median(),
        "of its floor": pd.Series({name: (times[name] / times[floor_of(name)]).median()
                                   for name in names if floor_of(name) in times}, dtype=float),
    }).loc[names]


def compare(work: Work, seconds: float, more: Mapping[str, Contestant] = {}) -> pd.DataFrame:
    """All contestants of one work at equal accuracy: a row each.

    Parameters
    ----------
    work : Work
    seconds : float
        Of timing; tuning takes about as long.
    more : mapping of str to Contestant
        Besides the work's own.
    """
    given, state = batches(work), trained(work)
    exact = {name: M.double() for name, M in state.items()}
    judge = [gradients(exact, U.double(), labels, KAPPA) for U, labels in given]
    tuned, turns, memory = {}, {}, {}
    chosen = {name: contestant for name, contestant in (
        *((name, CONTESTANTS[name]) for name in work.contestants), *more.items())
        if work.rank is None or contestant.low_rank}
    for name, contestant in chosen.items():
        def look(tolerances: tuple[float, float], contestant: Contestant = contestant) -> Tuned:
            return examine(contestant, state, given, judge, tolerances)

        tuned[name] = tune(look) if contestant.tuned else look((math.nan, math.nan))
    for name, contestant in chosen.items():
        model = contestant.build(state, *tuned[name].tolerances)
        turns[name] = _turn(model, given)
        for i in [*range(len(given))] * contestant.passes:
            turns[name](i)
        memory[name] = _memory(model, given[0])
        if name.startswith(OURS) and work.rank is None:
            counts = [(round(a), round(b)) for a, b in tuned[name].products]
            turns[floor_of(name)] = Floor(state, given, KAPPA, counts).step
    table = summary(milliseconds(turns, seconds))
    ahead, back = (pd.Series({name: pd.Series(t.products).str[side].median()
                              for name, t in tuned.items()}) for side in (0, 1))
    return table.assign(**{
        "gradient error": pd.Series({name: t.error for name, t in tuned.items()}),
        "forward": ahead, "backward": back,
        "waits": pd.Series({name: t.waits for name, t in tuned.items()}),
        "MB": pd.Series(memory),
        "tolerances": pd.Series({name: "" if math.isnan(t.tolerances[0]) else
                                 "{:.0e}, {:.0e}".format(*t.tolerances)
                                 for name, t in tuned.items()})})
