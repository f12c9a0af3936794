"""The pictures of recurrent models in the gallery."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from idl_lab.data import load, spiky_series
from idl_lab.fixed_point import Picard
from idl_lab.labs.implicit_rnn.plots import draw_forecast, draw_memory, draw_reading, draw_steps
from idl_lab.labs.kit.problems import generator, normal, random_matrix
from idl_lab.rnn import ImplicitRNN, ImplicitRNNCell
from idl_lab.training import fit


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
    cell = ImplicitRNNCell(1, 4, 12, activation="tanh", kappa=0.9, solver=Picard(1e-6),
                           generator=generator(), device="cpu", dtype=signal.dtype)
    return draw_steps(signal, _steps(cell, signal[:, None])[0])


def forecast() -> Figure:
    """A spiky region and a linear function of the last 20 values, fitted to the 6,000 before."""
    series, spiky = spiky_series()
    windows = series.unfold(0, 21, 1)
    past = torch.nn.functional.pad(windows[:, :-1], (0, 1), value=1.0)
    weights = torch.linalg.lstsq(past[:6000], windows[:6000, -1:]).solution
    at = 6020 + int(spiky[6020:].int().diff().argmax()) - 60
    part = slice(at, at + 240)
    return draw_forecast(series[part], {"linear": (past @ weights)[at - 20:at + 220, 0]},
                               spiky[part])


def memory() -> Figure:
    """∂h_t/∂h_0 in silence, the same B and C and three sizes of A: the last one grows."""
    draws = generator()
    unit = random_matrix(20, 1.0, "positive", generator=draws)
    B, C = normal(20, 4, generator=draws).abs(), normal(4, 20, generator=draws).abs()

    def matrix(kappa: float) -> Tensor:
        eye = torch.eye(20, dtype=unit.dtype, device=unit.device)
        return C @ torch.linalg.solve(eye - kappa * unit, B)

    C *= 0.7 / torch.linalg.eigvals(matrix(0.5)).abs().max()
    return draw_memory({f"κ = {kappa:g}": torch.stack([
        torch.linalg.matrix_norm(torch.linalg.matrix_power(matrix(kappa), t), 2)
        for t in range(31)]) for kappa in (0.0, 0.5, 0.8)})


def reading() -> Figure:
    """A recurrent model, trained on the digits by rows, after the last row."""
    train, test = load("digits", seed=0)
    reader = ImplicitRNN(8, 10, 16, 20, activation="tanh", kappa=0.9, solver=Picard(1e-4),
                         generator=generator(), device="cpu")
    rows = torch.nn.Unflatten(1, (8, 8))
    fit(torch.nn.Sequential(rows, reader), train, epochs=8, lr=1e-2, progress=False)
    U, labels = next(iter(test))
    steps, states, hidden = _steps(reader.recurrent.cells[0], rows(U)[0])
    return draw_reading(rows(U)[0], states, reader.linear(hidden), steps,
                              label=int(labels[0]))


GALLERY = (reading, steps, forecast, memory)
