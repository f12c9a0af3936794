"""Training steps beside torchidl and torchdeq, in one process.

Same matrices, same batches, same optimiser; the packages take turns at every step, so that a
machine whose speed drifts slows all of them, and what is quoted is the median of the paired
ratios. Peak memory is that of whole processes.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.memory import peaks
from benchmarks.plots import draw_bench
from idl_lab import data
from idl_lab.equilibrium import Adjoint, Implicit, equilibrium
from idl_lab.fixed_point import Anderson, Picard, Solver
from idl_lab.model import ImplicitModel

TOL = 3e-6  # torchidl's default, absolute, for the state and for the gradient
OURS = "idl_lab"


@dataclasses.dataclass(frozen=True)
class Work:
    """A training step of one size, with what the issue asks of its ratio to torchidl.

    Attributes
    ----------
    name : str
    n : int
    rank : int or None
    target : float
    """

    name: str
    n: int
    rank: int | None
    target: float


WORKS = (Work("n = 100", 100, None, 1 / 2.5), Work("n = 1000", 1000, None, 1 / 2),
         Work("n = 2000, rank 10", 2000, 10, 1 / 10))


# ---- the contestants ------------------------------------------------------------------------


def _ours(theirs: nn.Module, work: Work, solver: Solver, adjoint: Adjoint) -> ImplicitModel:
    model = ImplicitModel(64, 10, work.n, rank=work.rank, kappa=0.99, solver=solver,
                          adjoint=adjoint)
    names = {"A": "free_A", "L": "free_L", "R": "free_R"}
    model.load_state_dict({names.get(k, k): v for k, v in theirs.state_dict().items()},
                          strict=False)
    return model


class _TorchDEQ(nn.Module):
    """The same equations on torchdeq's solver and implicit gradient."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        from torchdeq import get_deq

        for letter in "ABCD":
            setattr(self, letter, nn.Parameter(getattr(theirs, letter).detach().clone()))
        self.deq = get_deq(f_solver="fixed_point_iter", b_solver="fixed_point_iter", f_tol=TOL,
                           b_tol=TOL, f_max_iter=300, b_max_iter=300, f_stop_mode="abs",
                           b_stop_mode="abs", ift=True)

    def forward(self, U: Tensor) -> Tensor:
        A = self.A * (0.99 / self.A.abs().sum(dim=1).amax()).clamp(max=1)
        b = U @ self.B.mT
        X, _ = self.deq(lambda x: torch.relu(x @ A.mT + b), torch.zeros_like(b))
        return X[-1] @ self.C.mT + U @ self.D.mT


class _Explicit(nn.Sequential):
    """A network of that many hidden units in two layers, for scale."""

    def __init__(self, n: int) -> None:
        super().__init__(nn.Linear(64, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 10))


def contestants(work: Work, batch: tuple[Tensor, Tensor]) -> dict[str, nn.Module]:
    """The models of one work by name, all with torchidl's initial matrices.

    Parameters
    ----------
    work : Work
    batch : (Tensor, Tensor)
        Sets the scale of "same absolute tolerance" for our relative one in the backward pass.
    """
    import torchidl

    torch.manual_seed(0)
    theirs = torchidl.ImplicitModel(64, 10, work.n, is_low_rank=work.rank is not None,
                                    rank=work.rank)
    models = {"torchidl": theirs, OURS: _ours(theirs, work, Picard(TOL), Implicit())}
    # torchidl stops its backward solve at an absolute 3e-6, however small the gradient is.
    loose = min(TOL / _largest_gradient(models[OURS], batch), 0.5)
    models[f"{OURS}, same rule backward"] = _ours(
        theirs, work, Picard(TOL), Implicit(Picard(loose)))
    if work.rank is None:
        models[f"{OURS}, Anderson forward"] = _ours(theirs, work, Anderson(TOL, window=3),
                                            Implicit(Picard(loose)))
        models["torchdeq"] = _TorchDEQ(theirs)
    if work.n == 100:
        models["explicit network"] = _Explicit(work.n)
    return models


def _largest_gradient(model: ImplicitModel, batch: tuple[Tensor, Tensor]) -> float:
    U, labels = batch
    X = model.equilibrium(U).value.detach().requires_grad_()
    loss = nn.functional.cross_entropy(model.output(X, U), labels)
    return float(torch.autograd.grad(loss, X)[0].abs().max())


# ---- training steps -------------------------------------------------------------------------


def training_steps(work: Work, steps: int) -> pd.DataFrame:
    """Milliseconds of each training step of each contestant, taken in turn; five to warm up.

    Parameters
    ----------
    work : Work
    steps : int
    """
    train, _ = data.load("digits", batch_size=64, seed=0)
    batches = [batch for batch in train if len(batch[0]) == 64]
    models = contestants(work, batches[0])
    optimizers = {k: torch.optim.Adam(m.parameters(), lr=5e-3) for k, m in models.items()}
    rows = []
    for i in range(-5, steps):
        U, labels = batches[i % len(batches)]
        row = {}
        for name in models if i % 2 else reversed(models):
            start = time.perf_counter()
            optimizers[name].zero_grad()
            nn.functional.cross_entropy(models[name](U), labels).backward()
            optimizers[name].step()
            row[name] = 1e3 * (time.perf_counter() - start)
        if i >= 0:
            rows.append({name: row[name] for name in models})
    return pd.DataFrame(rows)


def gradient_errors(work: Work) -> dict[str, float]:
    """Relative error of each contestant's gradient of B, against a float64 solve to 1e-13."""
    train, _ = data.load("digits", batch_size=64, seed=0)
    U, labels = batch = next(iter(train))
    models = contestants(work, batch)
    exact = _ours(models["torchidl"], work, Anderson(1e-13), Implicit()).double()
    exact.load_state_dict(models[OURS].state_dict())
    nn.functional.cross_entropy(exact(U.double()), labels).backward()
    errors = {}
    for name, model in models.items():
        if hasattr(model, "B"):
            nn.functional.cross_entropy(model(U), labels).backward()
            errors[name] = float((model.B.grad - exact.B.grad).norm() / exact.B.grad.norm())
    return errors


def hard_instance(repeats: int) -> pd.DataFrame:
    """Picard and Anderson to 1e-6 on A > 0, n = 100, λ_PF = 0.99: milliseconds and steps."""
    generator = torch.Generator("cpu").manual_seed(0)
    A = torch.rand(100, 100, generator=generator, dtype=torch.float64)
    A = 0.99 * A / A.sum(dim=1, keepdim=True)
    b = torch.randn(64, 100, generator=generator, dtype=torch.float64)
    rows = []
    for _ in range(repeats):
        row = {}
        for name, solver in (("Picard", Picard(1e-6, max_steps=10_000)), ("Anderson", Anderson(1e-6))):
            start = time.perf_counter()
            solution = equilibrium(A, b, solver=solver)
            row[name] = 1e3 * (time.perf_counter() - start)
            row[f"{name} steps"] = solution.stats.steps
        rows.append(row)
    return pd.DataFrame(rows)


# ---- the report -----------------------------------------------------------------------------


def summary(work: Work, times: pd.DataFrame, errors: dict[str, float]) -> pd.DataFrame:
    """Median and quartiles, and the paired ratio to torchidl.

    Parameters
    ----------
    work : Work
    times : DataFrame
        From `training_steps`.
    errors : dict of str to float
        From `gradient_errors`.
    """
    low, middle, high = (times.quantile(q) for q in (0.25, 0.5, 0.75))
    ratio = times.div(times["torchidl"], axis=0).median()
    return pd.DataFrame({
        "training step": work.name, "ms": middle, "quartiles": pd.Series({
            name: f"{low[name]:.2f}-{high[name]:.2f}" for name in times}),
        "of torchidl": ratio, "gradient error": pd.Series(errors, dtype=float)}).loc[times.columns]


def run(steps: int, folder: Path) -> None:
    """Print the comparison, and draw it.

    Parameters
    ----------
    steps : int
    folder : path
        Where ``draw_bench.png`` goes.
    """
    print(f"training steps: {steps} taken in turn, digits, batch 64, Adam, float32, tolerance "
          f"{TOL:g}\n")
    tables = {}
    for work in WORKS:
        tables[work.name] = summary(work, training_steps(work, steps), gradient_errors(work))
        print(tables[work.name].drop(columns="training step").to_string(
            float_format="{:.3g}".format, header=[f"{work.name}: ms", "quartiles", "of torchidl",
                                                  "gradient error"]))
        print(f"to reach: {work.target:.2g} of torchidl\n")
    hard = hard_instance(30)
    middle, ratio = hard.median(), (hard["Anderson"] / hard["Picard"]).median()
    print(f"hard instance, λ_PF(|A|) = 0.99, to 1e-6: Picard {middle['Picard steps']:.0f} steps, "
          f"{middle['Picard']:.1f} ms; Anderson {middle['Anderson steps']:.0f} steps, "
          f"{middle['Anderson']:.1f} ms, {ratio:.2f} of Picard's time\n")
    memory = peaks()
    print("peak memory of forward + backward, MB\n"
          + memory.to_string(float_format="{:.1f}".format))
    figure = draw_bench(tables, {w.name: w.target for w in WORKS}, memory)
    figure.savefig(folder / "draw_bench.png", metadata={"Software": None})
    print(f"\n{folder.name}/draw_bench.png")
