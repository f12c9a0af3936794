"""The gallery: ``python -m idl_lab.figures`` redraws every picture in ``figures/``.

Each entry is named after the ``draw_*`` function that makes it and feeds it seeded numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab import plots, well_posedness
from idl_lab.constraints import Project, Row, Scale
from idl_lab.data import load, spiky_series
from idl_lab.equilibrium import OneStep, equilibrium
from idl_lab.examples import (
    LISTENERS,
    change_units,
    exact_gradient,
    gradient_problem,
    gradients_after,
    measure_gradient,
    random_matrix,
    relative_error,
    several_starts,
    small_network,
    solve_quietly,
    tolerance_study,
    whole,
)
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.model import ImplicitModel
from idl_lab.rnn import ImplicitRNN, ImplicitRNNCell
from idl_lab.training import evaluate, fit

FOLDER = Path(__file__).parent.parent / "figures"


def _generator() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(0)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")


def _methods() -> tuple[dict, Tensor]:
    generator = _generator()
    A = random_matrix(12, 0.9, "positive", generator=generator)
    b = _normal(1, 12, generator=generator).abs()
    solvers = {"Picard": Picard(), "damped 0.5": Picard(damping=0.5), "Anderson": Anderson()}
    solutions = {name: solve_quietly(A, b, "relu", solver) for name, solver in solvers.items()}
    return solutions, equilibrium(A, b, solver=Anderson(tol=1e-12)).value[0]


def residuals() -> Figure:
    """Three methods on one problem."""
    return plots.draw_residuals(_methods()[0], tol=1e-6)


def convergence() -> Figure:
    """The same, at step 8, with their states."""
    solutions, exact = _methods()
    return plots.draw_convergence(solutions, exact, 8, tol=1e-6)


def state() -> Figure:
    """Picard's state after five steps."""
    solutions, exact = _methods()
    return plots.draw_state(solutions["Picard"].trace.states[5, 0], exact, name="Picard, step 5")


def norm_bound() -> Figure:
    """tanh with ‖A‖∞ = 1.2: several equilibria."""
    generator = _generator()
    A = random_matrix(20, 1.2, "positive", generator=generator)
    b = 0.02 * _normal(1, 20, generator=generator).expand(5, -1)
    solution = solve_quietly(A, b, "tanh", Picard(max_steps=200),
                             X0=several_starts(20, 5, generator=generator))
    return plots.draw_norm_bound(A, solution, 1.2, 1e-6, "tanh, ‖A‖∞ = 1.2: several equilibria",
                                 max_steps=200)


def spectrum() -> Figure:
    """A signed matrix: its eigenvalues stay well inside λ_PF(|A|)."""
    return plots.draw_spectrum(random_matrix(40, 0.95, generator=_generator()))


def row_sums() -> Figure:
    """The same matrix's rows."""
    return plots.draw_row_sums(random_matrix(40, 0.95, generator=_generator()), 0.95)


def paths() -> Figure:
    """Five starts, one equilibrium."""
    generator = _generator()
    A = random_matrix(20, 0.9, generator=generator)
    b = _normal(1, 20, generator=generator).expand(5, -1)
    starts = several_starts(20, 5, generator=generator, reach=3)
    return plots.draw_paths(solve_quietly(A, b, "relu", Picard(), X0=starts).trace.states)


def network(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, B, C, D) of a bias-free network 8-12-10-4: x = (x₂, x₁), the last layer first."""
    W0, W1, W2 = (_normal(*shape, generator=generator) for shape in ((12, 8), (10, 12), (4, 10)))
    A = torch.zeros(22, 22, dtype=W0.dtype, device=W0.device)
    B = torch.zeros(22, 8, dtype=W0.dtype, device=W0.device)
    C = torch.zeros(4, 22, dtype=W0.dtype, device=W0.device)
    A[:10, 10:], B[10:], C[:, :10] = W1, W0, W2
    return A, B, C, torch.zeros(4, 8, dtype=W0.dtype, device=W0.device)


def model() -> Figure:
    """A feed-forward network as an implicit model, beside a dense one."""
    generator = _generator()
    dense = [_normal(*s, generator=generator) for s in ((22, 22), (22, 8), (4, 22), (4, 8))]
    return plots.draw_model({"a network of two hidden layers": network(generator),
                             "an implicit model": tuple(dense)}, blocks=(10, 12))


def balls() -> Figure:
    """Three ways to bring two rows into the ball."""
    rows = torch.tensor([[1.4, 0.35], [-0.3, -0.5]], dtype=torch.float64, device="cpu")
    return plots.draw_balls(rows, {"scale": Scale(0.7)(rows), "row": Row(0.7)(rows),
                                   "project": Project(0.7)(rows)}, 0.7)


def _trained() -> tuple[ImplicitModel, Tensor, Tensor, object]:
    train, test = load("digits", seed=0)
    digits = ImplicitModel(64, 10, 40, kappa=0.9, generator=_generator(), device="cpu")
    history = fit(digits, train, test, epochs=8, progress=False)
    U, labels = next(iter(test))
    return digits, U, labels, history


def digit() -> Figure:
    """A trained model on one test image."""
    digits, U, labels, _ = _trained()
    with torch.no_grad():
        states = digits.equilibrium(U[:1], keep_states=True).trace.states[:, 0]
        outputs = digits.output(states, U[:1].expand(len(states), -1))
    return plots.draw_digit(U[0].reshape(8, 8), states, outputs, label=int(labels[0]))


def history() -> Figure:
    """Eight epochs on the digits."""
    return plots.draw_history(_trained()[3])


def sweep() -> Figure:
    """κ on the digits, three runs each: what it costs, and that it buys nothing there."""
    rows = []
    for kappa in (0.0, 0.5, 0.9, 0.99):
        for run in range(3):
            draws = torch.Generator("cpu").manual_seed(run)
            train, test = load("digits", seed=run, batch_size=128)
            digits = ImplicitModel(64, 10, 40, kappa=kappa, generator=draws, device="cpu")
            fit(digits, train, epochs=8, lr=0.01, progress=False)
            U = test.dataset.tensors[0]
            with torch.no_grad():
                steps = digits.equilibrium(U, keep_states=True).stats.steps
            rows.append({"kappa": kappa, "accuracy": evaluate(digits, test), "steps": steps})
    return plots.draw_sweep(pd.DataFrame(rows), "kappa", {"accuracy": "accuracy",
                                                          "steps": "steps of the solver"})


def tolerance() -> Figure:
    """A trained model solved to tol = 0.1: the bound promises nothing, the margins hold."""
    digits, _, _, _ = _trained()
    U, labels = load("digits")[1].dataset.tensors
    table, scores, exact = tolerance_study(digits, U, labels, [10.0 ** k for k in range(-5, 3)])
    best = exact.topk(2, dim=1).values
    margins = best[:, 0] - best[:, 1]
    doubtful = int(margins.argmin())
    return plots.draw_tolerance(table, margins, 0.1, scores[4, doubtful], exact[doubtful])


STEPS = (1, 2, 4, 8, 16, 32, 64)


def _gradients(listens: str = "all", n: int = 12, samples: int = 3, repeat: int = 1
               ) -> tuple[Tensor, dict, dict]:
    """The exact gradient; each adjoint's after `STEPS` steps, and their errors; κ = 0.7."""
    problem = gradient_problem(n, 0.7, listens, samples=samples, generator=_generator())
    exact = exact_gradient(*problem).injection
    seen = gradients_after(STEPS, *problem, repeat=repeat)
    return exact, seen, {name: [relative_error(g.injection, exact) for g in row]
                         for name, row in seen.items()}


def _saved(seen: dict) -> dict:
    return {name: [g.saved for g in row] for name, row in seen.items()}


def gradient_errors() -> Figure:
    """Two errors fall at the rate κ, one stands."""
    return plots.draw_gradient_errors(STEPS, _gradients()[2])


def gradient_directions() -> Figure:
    """All states listen to one: after 64 steps the one-step gradient points uphill."""
    exact, seen, _ = _gradients("hub")
    return plots.draw_gradient_directions(exact, {k: row[-1].injection for k, row in seen.items()})


def gradient_memory() -> Figure:
    """Only unrolling keeps more with every step."""
    return plots.draw_gradient_memory(STEPS, _saved(_gradients()[1]))


def gradient_costs() -> Figure:
    """The same beside the time, measured anew, so this picture is another in every run."""
    _, seen, _ = _gradients(n=100, samples=64, repeat=5)
    return plots.draw_gradient_costs(STEPS, _saved(seen), {
        name: [g.seconds for g in row] for name, row in seen.items()})


def gradients() -> Figure:
    """Error, direction and memory at k = 8."""
    exact, seen, errors = _gradients("hub")
    here = {name: row[STEPS.index(8)].injection for name, row in seen.items()}
    return plots.draw_gradients(STEPS, errors, exact, here, _saved(seen), 8)


def gradient_cosines() -> Figure:
    """One-step against exact, two families of matrices."""
    kappas, cosines = [0.05 * k for k in range(20)], {name: [] for name in LISTENERS}
    for listens in LISTENERS:
        for kappa in kappas:
            problem = gradient_problem(12, kappa, listens, generator=_generator())
            once = measure_gradient(*problem, adjoint=OneStep(), solver=Anderson(1e-13))
            cosines[listens].append(float(torch.cosine_similarity(
                exact_gradient(*problem).injection.flatten(), once.injection.flatten(), dim=0)))
    return plots.draw_gradient_cosines(kappas, {f"listens to {k}": c for k, c in cosines.items()})


def tangents() -> Figure:
    """x = max(0, x/2 + b) and three difference quotients at its kink."""
    b = torch.linspace(-1, 1, 41, dtype=torch.float64, device="cpu")
    return plots.draw_tangents(b, 2 * b.relu(), {"backward difference": (0, 0, 0),
                                                 "central difference": (0, 0, 1),
                                                 "forward difference": (0, 0, 2)},
                               xlabel="b", name="x = max(0, x/2 + b)")


@torch.no_grad()
def _steps(cell: ImplicitRNNCell, inputs: Tensor) -> tuple[dict[str, list[int]], Tensor, Tensor]:
    """Solver steps at each time, cold and warm, and the states x_t and h_t."""
    h, x, states, hidden, steps = None, None, [], [], {"cold": [], "warm": []}
    for u in inputs:
        steps["cold"].append(cell.step(u, h)[1].stats.steps)
        h, solution = cell.step(u, h, X0=x)
        x = solution.value
        steps["warm"].append(solution.stats.steps)
        states.append(x)
        hidden.append(h)
    return steps, torch.stack(states), torch.stack(hidden)


def steps() -> Figure:
    """A warm start saves steps where the input is smooth, not in noise and spikes."""
    series, spiky = spiky_series()
    begin = int(spiky.int().diff().argmax()) + 1
    smooth = torch.sin(torch.linspace(0, 1, 80, dtype=series.dtype, device="cpu"))
    signal = torch.cat([smooth, series[begin - 40:begin + 80]])
    cell = ImplicitRNNCell(1, 4, 12, activation="tanh", kappa=0.9, solver=Picard(1e-7),
                           generator=_generator(), device="cpu", dtype=signal.dtype)
    return plots.draw_steps(signal, _steps(cell, signal[:, None])[0])


def forecast() -> Figure:
    """A spiky region and a linear function of the last 20 values, fitted to the 6,000 before."""
    series, spiky = spiky_series()
    windows = series.unfold(0, 21, 1)
    past = torch.nn.functional.pad(windows[:, :-1], (0, 1), value=1.0)
    weights = torch.linalg.lstsq(past[:6000], windows[:6000, -1:]).solution
    at = 6020 + int(spiky[6020:].int().diff().argmax()) - 60
    part = slice(at, at + 240)
    return plots.draw_forecast(series[part], {"linear": (past @ weights)[at - 20:at + 220, 0]},
                               spiky[part])


def memory() -> Figure:
    """Powers of three matrices: forgetting fast, slowly, not at all."""
    powers = torch.arange(31, dtype=torch.float64, device="cpu")
    return plots.draw_memory({f"spectral radius {r}": r**powers for r in (0.5, 0.9, 1.1)})


def reading() -> Figure:
    """A recurrent model, trained on the digits by rows, after the last row."""
    train, test = load("digits", seed=0)
    reader = ImplicitRNN(8, 10, 16, 20, activation="tanh", kappa=0.9, solver=Picard(1e-4),
                         generator=_generator(), device="cpu")
    rows = torch.nn.Unflatten(1, (8, 8))
    fit(torch.nn.Sequential(rows, reader), train, epochs=8, lr=1e-2, progress=False)
    U, labels = next(iter(test))
    steps, states, hidden = _steps(reader.recurrent, rows(U)[0])
    return plots.draw_reading(rows(U)[0], states, reader.linear(hidden), steps,
                              label=int(labels[0]))


def _network(kind: str) -> tuple[Tensor, list[tuple[str, int]]]:
    """[A B; C D] of a network of four hidden layers, and the blocks of its states."""
    net = small_network(kind, 4, generator=_generator())
    model = ImplicitModel.from_network(net, (1, 8, 8))
    return whole(model).double(), [(f"x{4 - k}", b.size) for k, b in enumerate(model.blocks)]


def _rescaled(kind: str, kappa: float) -> tuple[Tensor, Tensor, Tensor, list[tuple[str, int]]]:
    """The same in units in which ‖A‖∞ ≤ κ; A before; the units; the blocks."""
    M, blocks = _network(kind)
    n = sum(size for _, size in blocks)
    v = well_posedness.units(M[:n, :n], kappa)
    return change_units(M, v), M[:n, :n], v, blocks


def blocks() -> Figure:
    """A convolutional network: equal diagonals."""
    M, names = _network("conv")
    return plots.draw_blocks(M, [*names, ("ŷ", 10)], [*names, ("u", 64)], name="[A B; C D]")


def rescaling() -> Figure:
    """A residual network with ‖A‖∞ ≤ 0.5."""
    new, A, v, names = _rescaled("residual", 0.5)
    return plots.draw_rescaling(new, A, v, names, 0.5, 64, scale=0.5,
                                verdict="a residual network of four hidden layers")


def rescaled_rows() -> Figure:
    """The same, its row sums."""
    new, A, _, names = _rescaled("residual", 0.5)
    return plots.draw_rescaled_rows(A, new[:len(A), :len(A)], names, 0.5)


def units() -> Figure:
    """The same, its units."""
    _, _, v, names = _rescaled("residual", 0.5)
    return plots.draw_units(v, names)


GALLERY: dict[str, Callable[[], Figure]] = {
    f"draw_{make.__name__}": make
    for make in (model, digit, history, residuals, convergence, state, norm_bound, spectrum,
                 row_sums, paths, balls, sweep, tolerance, gradients, gradient_errors,
                 gradient_directions, gradient_memory, gradient_costs, gradient_cosines, tangents,
                 reading, steps, forecast, memory,
                 blocks, rescaling, rescaled_rows, units)
}


def main() -> None:
    """Redraw the whole gallery."""
    parser = argparse.ArgumentParser(description="Redraw the gallery.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the PNG files")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in GALLERY.items():
        # No version in the file: the same numbers give the same bytes.
        make().savefig(folder / f"{name}.png", metadata={"Software": None})
        print(f"{folder.name}/{name}.png")


if __name__ == "__main__":
    main()
