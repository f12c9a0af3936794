"""Pictures of sequences: the plotted numbers; the reading panel; torch's networks to compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import draw, mat, rejects
from torch import nn

from idl_lab import ImplicitRNN
from idl_lab.labs import check
from idl_lab.labs.implicit_rnn.panel import reading_panel
from idl_lab.labs.implicit_rnn.plots import draw_forecast, draw_memory, draw_reading, draw_steps
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.recurrent import TorchRNN


def moving(figure) -> dict:
    return {(k, name): part for k, ax in enumerate(figure.axes)
            for name, part in canvas.moving(ax).items()}


def reading(time=None, figure=None):
    pixels = mat(np.linspace(0, 1, 12).reshape(4, 3))
    steps = {"cold": [5, 6, 7, 8], "warm": [5, 3, 2, 1]}
    return draw_reading(pixels, draw(0, 4, 6), draw(1, 4, 5), steps, time, 3, figure=figure)


def test_reading_shows_what_was_read():
    parts, scores = moving(reading(2)), draw(1, 4, 5).numpy()
    seen = parts[0, "image"].get_array()
    np.testing.assert_allclose(seen[:3], 1 - np.linspace(0, 1, 12).reshape(4, 3)[:3])
    assert seen[3].min() > 0.8 and parts[0, "title"].get_text() == "rows 0–2 of a 3"
    course = parts[1, "course"].get_array()
    np.testing.assert_allclose(course[:, :3] * np.abs(draw(0, 4, 6).numpy()).max(),
                               draw(0, 4, 6).numpy()[:3].T)
    assert not course[:, 3].any()
    best = scores[2].argmax()
    assert parts[2, "best"].get_xdata()[0] == best
    assert parts[2, "title"].get_text() == f"row 2: it says {best}"
    assert parts[3, "read warm"].get_ydata().tolist() == [5, 3, 2]
    assert parts[3, "title"].get_text() == "steps: cold 18, warm 10"


def test_reading_is_redrawn_in_place():
    used = reading(3)
    canvas.png(used)
    again = reading(1, used)
    assert again is used and not used.stale
    assert canvas.png(again) == canvas.png(reading(1))


def test_forecast_curves_are_the_numbers():
    series, guess = draw(2, 30), draw(3, 30)
    spiky = torch.arange(30, device="cpu") > 20
    ax = draw_forecast(series, {"a": guess}, spiky).axes[0]
    dots, curve = ax.lines
    np.testing.assert_array_equal(dots.get_ydata(), series.numpy())
    np.testing.assert_array_equal(curve.get_ydata(), guess.numpy())
    shaded = ax.collections[0].get_paths()[0].vertices[:, 0]
    assert shaded.min() == 21 and shaded.max() == 29
    assert len(draw_forecast(series, {}).axes[0].collections) == 0


def test_steps_and_memory_are_the_numbers():
    figure = draw_steps(draw(4, 5), {"cold": [4, 4, 4, 4, 4], "warm": [4, 1, 2, 1, 1]})
    above, below = figure.axes
    np.testing.assert_array_equal(above.lines[0].get_ydata(), draw(4, 5).numpy())
    assert below.lines[1].get_ydata().tolist() == [4, 1, 2, 1, 1]
    assert [line.get_label() for line in below.lines] == ["cold: 20 steps", "warm: 9 steps"]
    ax = draw_memory({"κ": 0.5 ** mat(range(6))}).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 0.5 ** np.arange(6))
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize(("call", "fragments"), [
    (lambda: draw_steps(draw(0, 5), {"cold": [1, 2]}), ["'cold'", "5 time steps", "got 2"]),
    (lambda: draw_steps(draw(0, 5), {}), ["steps", "none"]),
    (lambda: draw_memory({}), ["responses", "none"]),
    (lambda: draw_forecast(draw(0, 5), {"a": draw(0, 4)}), ["'a'", "5", "got 4"]),
    (lambda: reading(-1), ["time", "at least 0"]),
])
def test_refusals(call, fragments):
    rejects(call, ValueError, *fragments)


# ---- the panel ------------------------------------------------------------------------------


def small_panel():
    generator = torch.Generator("cpu").manual_seed(0)
    model = ImplicitRNN(8, 10, 5, 6, activation="tanh", device="cpu", generator=generator)
    rows = torch.rand(3, 8, 8, generator=generator, device="cpu")
    return model, rows, reading_panel(model, rows, torch.arange(3, device="cpu"))


def test_the_panel_shows_the_models_own_scores():
    model, rows, panel = small_panel()
    assert panel.redraws == 1 and panel.values == {"image": 0, "time": 7}
    before, figure = canvas.png(panel.figure), panel.figure
    panel.set(image=2, time=4)
    assert panel.figure is figure and canvas.png(panel.figure) != before
    said = int(model(rows[2, :5]).argmax())
    assert moving(panel.figure)[2, "title"].get_text() == f"row 4: it says {said}"
    assert "of a 2" in moving(panel.figure)[0, "title"].get_text()


def test_the_panels_warm_start_is_the_sequences():
    model, rows, panel = small_panel()
    counts = moving(panel.figure)[3, "read warm"].get_ydata()
    h, x = None, None
    for u, count in zip(rows[0], counts, strict=True):
        h, solution = model.recurrent.cells[0].step(u, h, X0=x)
        x = solution.value
        assert solution.stats.steps == count
    assert torch.allclose(model.recurrent(rows[:1])[1][0], h, atol=1e-5)


@pytest.mark.parametrize(("rows", "labels", "fragments"), [
    (draw(0, 2, 8, 7).float(), [0, 1], ["rows", "w=8", "(2, 8, 7)"]),
    (draw(0, 2, 8).float(), [0, 1], ["rows", "(2, 8)"]),
    (draw(0, 2, 8, 8).float(), [0], ["rows and labels", "2 and 1"]),
    (draw(0, 0, 8, 8).float(), [], ["at least one", "0 and 0"]),
])
def test_the_panel_refuses(rows, labels, fragments):
    model, _, _ = small_panel()
    rejects(lambda: reading_panel(model, rows, labels), ValueError, *fragments)


def test_the_panel_shows_one_cell():
    model = ImplicitRNN(8, 10, 5, 6, num_layers=2, device="cpu")
    rejects(lambda: reading_panel(model, torch.zeros(1, 8, 8, device="cpu"), [0]), ValueError,
            "one layer", "2 cells")


def test_the_right_memory_matrix_is_autograds():
    draws = torch.Generator("cpu").manual_seed(3)
    exercise = check.implicit_rnn.memory_matrix.exercise
    A, B, C, D, slopes = exercise.inputs(draws)

    def h_after(h):  # x = slopes · (Ax + Bh), whose slopes are what they say
        for s in slopes:
            x = torch.zeros_like(s)
            for _ in range(300):
                x = s * (A @ x + B @ h)
            h = C @ x + D @ h
        return h
    wanted = torch.autograd.functional.jacobian(h_after, torch.zeros_like(D[0]))
    torch.testing.assert_close(exercise.right(A, B, C, D, slopes), wanted)


# ---- torch's networks -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("budget", [60, 500, 1829])
def test_a_comparison_network_is_as_large_as_allowed(kind, budget):
    model = TorchRNN(kind, 2, 3, budget)
    count = sum(M.numel() for M in model.parameters())
    k = model.recurrent.hidden_size
    larger = nn.ModuleList([getattr(nn, kind)(2, k + 1), nn.Linear(k + 1, 3)])
    assert count <= budget < sum(M.numel() for M in larger.parameters())
    x = draw(5, 4, 6, 2).float()
    assert model(x).shape == (4, 3)
    torch.testing.assert_close(model(x), model.linear(model.recurrent(x)[0][:, -1]))


def test_a_comparison_network_is_drawn_from_its_generator():
    one, two, other = (TorchRNN("GRU", 1, 1, 300, generator=torch.Generator("cpu").manual_seed(s))
                       for s in (1, 1, 2))
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    assert not any(map(torch.equal, one.parameters(), other.parameters()))
    bound = one.recurrent.hidden_size ** -0.5
    assert all(float(M.detach().abs().max()) <= bound for M in one.parameters())


def test_a_comparison_network_refuses():
    rejects(lambda: TorchRNN("gru", 1, 1, 300), ValueError, "kind='gru'", "RNN, GRU, LSTM")
    rejects(lambda: TorchRNN("GRU", 1, 1, 3), ValueError, "parameters", "got 3")
