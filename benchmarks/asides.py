"""Smaller comparisons of the same run: recurrent steps, networks read off, solvers, memory."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.counts import peak
from benchmarks.steps import milliseconds
from idl_lab.equilibrium import Implicit, Unrolled, equilibrium
from idl_lab.fixed_point import Anderson, Broyden, Newton, Picard, Solver
from idl_lab.model import ImplicitModel
from idl_lab.rnn import ImplicitRNN

STEPS = (10, 100, 1000)


def _training(model: nn.Module, U: Tensor) -> Callable[[int], None]:
    def turn(_: int) -> None:
        model.zero_grad()
        model(U).square().mean().backward()

    return turn


def _backward(model: nn.Module, U: Tensor) -> Callable[[int], None]:
    loss, parameters = model(U).square().mean(), tuple(model.parameters())
    return lambda _: torch.autograd.grad(loss, parameters, retain_graph=True)


def _beside(name: str, turns: dict[str, Callable[[int], None]], seconds: float) -> dict[str, dict]:
    """Rows of one comparison; each is divided by the first of the turns."""
    times = milliseconds(turns, seconds)
    base = times.columns[0]
    return {f"{name}: {column}": {"ms": times[column].median(), "beside": base,
                                  "ratio": (times[column] / times[base]).median()}
            for column in times}


def recurrent(seconds: float) -> dict[str, dict]:
    """Forward and backward of an ImplicitRNN on 30 time steps, batch 32, beside torchidl's.

    Parameters
    ----------
    seconds : float
        Of timing.
    """
    import torchidl

    U = torch.randn(32, 30, 8, generator=torch.Generator("cpu").manual_seed(0))
    rows = {}
    for n in (20, 100):
        sizes = {"input_dim": 8, "output_dim": 4, "hidden_dim": 16, "implicit_hidden_dim": n}
        torch.manual_seed(0)
        theirs, ours = torchidl.ImplicitRNN(**sizes), ImplicitRNN(**sizes)
        rows |= _beside(f"RNN, n = {n}", {"torchidl": _training(theirs, U),
                                          "idl_lab": _training(ours, U)}, seconds)
    return rows


def read_off(seconds: float) -> dict[str, dict]:
    """A network read off as matrices beside the network itself: both ways, and backward alone.

    Parameters
    ----------
    seconds : float
        Of timing.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
                        nn.Conv2d(6, 12, 3, padding=1), nn.ReLU(), nn.Flatten(),
                        nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    U = torch.randn(64, 1, 8, 8)
    model = ImplicitModel.from_network(net, (1, 8, 8))
    both = {"explicit": (net, U), "idl_lab": (model, U.flatten(1))}
    return _beside("network read off", {k: _training(*v) for k, v in both.items()}, seconds
                   ) | _beside("network read off, backward alone",
                               {k: _backward(*v) for k, v in both.items()}, seconds)


def solvers(seconds: float) -> dict[str, dict]:
    """A solve to 1e-6 by each solver, batch 64: ‖A‖∞ = 0.95, and A > 0 with λ_PF = 0.99.

    Parameters
    ----------
    seconds : float
        Of timing.
    """
    rows = {}
    for n in (20, 100):
        A, b = _random(n)
        rows |= _solves(f"‖A‖∞ = 0.95, n = {n}", A, b,
                        (Picard(1e-6), Anderson(1e-6), Newton(1e-6), Broyden(1e-6)), seconds)
    return rows | _solves("hard instance, λ_PF = 0.99, n = 100", *hard(),
                          (Picard(1e-6, max_steps=10_000), Anderson(1e-6), Newton(1e-6)), seconds)


def hard() -> tuple[Tensor, Tensor]:
    """A > 0 (100, 100) in float64 with λ_PF = 0.99, and an injection (64, 100)."""
    draws = torch.Generator("cpu").manual_seed(0)
    A = torch.rand(100, 100, generator=draws, dtype=torch.float64)
    b = torch.randn(64, 100, generator=draws, dtype=torch.float64)
    return 0.99 * A / A.sum(dim=1, keepdim=True), b


def _random(n: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator("cpu").manual_seed(0)
    A = torch.randn(n, n, generator=draws)
    return 0.95 * A / A.abs().sum(dim=1).amax(), torch.randn(64, n, generator=draws)


def _solves(name: str, A: Tensor, b: Tensor, settings: tuple[Solver, ...], seconds: float
            ) -> dict[str, dict]:
    steps = {type(s).__name__: equilibrium(A, b, solver=s).stats.steps for s in settings}
    rows = _beside(name, {type(s).__name__: lambda _, s=s: equilibrium(A, b, solver=s)
                          for s in settings}, seconds)
    for row, count in zip(rows.values(), steps.values(), strict=True):
        row["steps"] = count
    return rows


def monotone(seconds: float) -> dict[str, dict]:
    """A solve of a monotone model as it comes, n = 100, with ‖A‖∞ of about 5 and of about 150.

    Parameters
    ----------
    seconds : float
        Of timing.
    """
    rows = {}
    U = torch.randn(64, 64, generator=torch.Generator("cpu").manual_seed(0))
    for norm in (5, 150):
        model = ImplicitModel(64, 10, 100, constraint="monotone",
                              generator=torch.Generator("cpu").manual_seed(0))
        with torch.no_grad():
            free, low, high = model.free_A.clone(), 0.0, 1000.0
            for _ in range(40):  # the norm grows with the free matrix
                middle = (low + high) / 2
                model.free_A.copy_(middle * free)
                big = float(model.A.abs().sum(dim=1).amax()) > norm
                low, high = (low, middle) if big else (middle, high)
        solution = model.equilibrium(U)
        row = _beside(f"monotone, ‖A‖∞ = {norm}",
                      {"as it comes": lambda _, model=model: model.equilibrium(U)}, seconds)
        next(iter(row.values())).update(steps=solution.stats.steps, ended=solution.status.name)
        rows |= row
    return rows


def memory() -> pd.DataFrame:
    """Megabytes of forward + backward, n = 256, batch 1024: rows steps, columns adjoints."""
    return pd.DataFrame({name: [megabytes(name, steps) for steps in STEPS] for name in _ADJOINTS},
                        index=pd.Index(STEPS, name="fixed-point steps"))


_ADJOINTS = {"Implicit": Implicit(), "Unrolled": Unrolled()}


def megabytes(kind: str, steps: int) -> float:
    """Megabytes of a forward and backward pass of so many steps; a state is 1 MB.

    Parameters
    ----------
    kind : str
        "Implicit" or "Unrolled".
    steps : int
        Fixed-point steps.
    """
    b = torch.rand(1024, 256, generator=torch.Generator("cpu").manual_seed(0))
    A = (0.999 * torch.eye(256)).requires_grad_()
    return peak(lambda: equilibrium(A, b, adjoint=_ADJOINTS[kind],
                                    solver=Picard(0.0, max_steps=steps)).value.sum().backward())


def all_of_them(seconds: float) -> pd.DataFrame:
    """Every comparison but memory: milliseconds, the ratio to what it stands beside, steps.

    Parameters
    ----------
    seconds : float
        Of timing, each.
    """
    return pd.DataFrame.from_dict(recurrent(seconds) | read_off(seconds) | solvers(seconds)
                                  | monotone(seconds), orient="index")
