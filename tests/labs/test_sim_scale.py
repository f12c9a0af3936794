"""SIM at scale: the cost model against counted flops, its pictures, its panel."""

from __future__ import annotations

from collections import deque
from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import draw, rejects
from torch.utils.flop_counter import FlopCounterMode

from idl_lab.labs.kit import canvas
from idl_lab.labs.sim_at_scale.machine import ASSUMED_GPU, PARTS, Machine, Size, fit_machine
from idl_lab.labs.sim_at_scale.panel import HEARS, scale_panel
from idl_lab.labs.sim_at_scale.plots import (
    draw_budget,
    draw_costs,
    draw_samples_needed,
    draw_stream_memory,
)
from idl_lab.labs.sim_at_scale.points import measure_parts, sparse_problem
from idl_lab.labs.sim_at_scale.problems import gaussian, random_teacher
from idl_lab.sim.problem import Problem
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.sim.solvers.active_set import ActiveSet

RATES = dict(zip(PARTS[:-1], (1e9, 2e9, 3e9, 4e9), strict=True))
SLOW = Machine("slow", RATES, {"finish": 0.5}, link=1e6, memory=1e9)


def generator():
    return torch.Generator("cpu").manual_seed(0)


def counted(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def problem(n: int, p: int) -> Problem:
    Phi, T = sparse_problem(n, p, 2 * (n + p), generator=generator())
    return Problem(Phi.mT @ Phi, T.mT @ Phi, T.square().sum(0), lam=2.0, kappa=0.9, ball=n)


def test_the_flops_of_the_statistics_are_those_that_torch_counts():
    n, p, m = 7, 5, 30
    Phi, T = sparse_problem(n, p, m, generator=generator())
    assert counted(lambda: (Phi.mT @ Phi, T.mT @ Phi)) == Size(n, p, m).flops()["statistics"]


def test_the_flops_of_admm_are_those_of_the_solver():
    n, p = 60, 50
    given = problem(n, p)
    steps = ADMMSolver(splitting_steps=100).iterates(given)
    next(steps)

    def ten():
        W = deque(islice(steps, 10), maxlen=1).pop()
        given.gap(given.project(W))
    expected = Size(n, p, 1, splitting=10).flops()["splitting"]
    assert counted(ten) == pytest.approx(expected, rel=0.1)


def test_the_flops_of_the_finish_are_those_of_the_solver_but_for_the_factor():
    n, p = 60, 50
    given = problem(n, p)
    W = next(islice(ADMMSolver().iterates(given), 20, None))
    active, rows = ActiveSet(given, W), torch.arange(n, device="cpu")

    def one():
        active.step(rows)
        W = given.project(active.W)
        given.gap(W)
        given.objective(W)
    size = Size(n, p, 1, support=30, finishing=1)
    factors = n * 30 ** 3 / 3  # Cholesky, which the counter does not know
    assert counted(one) == pytest.approx(size.flops()["finish"] - factors, rel=0.1)


def test_layers_on_their_own_are_small_problems_side_by_side():
    whole, layered = Size(1000, 100, 5000), Size(1000, 100, 5000, blocks=10)
    one = Size(100, 100, 5000)
    assert layered.heard == one.heard == 200 and whole.heard == 1100
    for part in ("statistics", "eigendecomposition", "splitting", "finish"):
        assert layered.flops()[part] == pytest.approx(10 * one.flops()[part])
    assert layered.sent() == pytest.approx(10 * one.sent())
    assert sum(layered.memory().values()) < sum(whole.memory().values()) / 2


def test_memory_and_bytes_are_counted_in_float64():
    size = Size(6, 4, 100, support=3)
    gram, cross, norms = draw(0, 10, 10), draw(1, 6, 10), draw(2, 6)
    assert size.sent() == gram.nbytes + cross.nbytes + norms.nbytes
    one, three = size.memory(), size.memory(3)
    assert one["Gram matrix, a copy"] == three["Gram matrix, a copy"] == 2 * gram.nbytes
    assert one["its eigenvectors"] == gram.nbytes
    for part in ("the rows at work", "their supports"):
        assert one[part] == pytest.approx(3 * three[part])
    assert one["the rows at work"] % cross.nbytes == 0
    assert Size(3000, 1, 1).nonzeros == 300 and Size(20, 10, 1).nonzeros == 10
    assert Size(20, 10, 1, support=99).nonzeros == 30


def test_devices_share_all_but_the_eigendecomposition():
    size = Size(300, 100, 10_000)
    one, four = SLOW.seconds(size), SLOW.seconds(size, 4)
    assert list(one) == list(PARTS) and one["communication"] == 0
    flops = size.flops()
    assert one["statistics"] == flops["statistics"] / 1e9
    assert one["finish"] == pytest.approx(5 * 0.5 + flops["finish"] / 4e9)
    assert four["eigendecomposition"] == one["eigendecomposition"]
    assert four["splitting"] == pytest.approx(one["splitting"] / 4)
    assert four["finish"] == pytest.approx(5 * 0.5 + flops["finish"] / 4e9 / 4)
    rows = 8 * 300 * 400
    assert four["communication"] == pytest.approx(0.75 * (2 * size.sent() + rows) / 1e6)


def points(machine=SLOW, sizes=(50, 100, 200)) -> pd.DataFrame:
    table = pd.DataFrame(
        [(part, d, steps, Size(d // 2, d // 2, 2 * d, splitting=steps).flops()[part])
         for d in sizes for part, steps in zip(PARTS[:-1], (1, 1, 10, 1), strict=True)],
        columns=["part", "d", "steps", "flops"])
    return machine.explains(table)


def test_a_machine_is_found_again_from_what_it_would_take():
    found = fit_machine(points(), "found", memory=5.0)
    assert found.name == "found" and found.memory == 5.0
    for part, rate in RATES.items():
        assert found.rates[part] == pytest.approx(rate, rel=1e-6)
        assert found.starts[part] == pytest.approx(SLOW.starts.get(part, 0), abs=1e-9)
    larger = points(sizes=(800,))
    np.testing.assert_allclose(found.explains(larger).seconds, larger.seconds, rtol=1e-6)


def test_points_that_do_not_grow_still_give_a_rate():
    found = fit_machine(points().assign(seconds=1.0))
    assert all(0 < rate < 1e12 for rate in found.rates.values())


def test_each_part_is_timed_at_each_size():
    table = measure_parts([20, 40], rows=8, repeat=1)
    assert list(table.part) == 2 * list(PARTS[:-1]) and list(table.d) == 4 * [20] + 4 * [40]
    assert (table.seconds > 0).all() and (table.steps == [1, 1, 10, 1] * 2).all()
    at = table.set_index(["part", "d"])
    assert at.flops["statistics", 40] == Size(20, 20, 80).flops()["statistics"]
    assert at.flops["splitting", 40] == pytest.approx(10 * 8 * 4.6 * 40 ** 2)  # eight rows
    assert (table.support.between(1, table.d)).all()


def test_a_sparse_problem_is_explained_by_a_tenth_of_its_features():
    Phi, T = sparse_problem(6, 34, 4000, generator=generator())
    W = torch.linalg.lstsq(Phi, T).solution.mT
    assert int((W.abs() > 0.02).sum()) == pytest.approx(0.1 * W.numel(), rel=0.5)
    assert float((Phi @ W.mT - T).std()) == pytest.approx(0.1, rel=0.05)


def test_a_random_teacher_needs_its_layers_and_keeps_its_size():
    teacher, U = random_teacher((20, 60, 50, 5), seed=1), gaussian(2000, 20, seed=2)
    assert [tuple(W.shape) for W in teacher.parameters()] == [(60, 20), (50, 60), (5, 50)]
    with torch.no_grad():
        Y = teacher(U)
        assert torch.equal(Y, random_teacher((20, 60, 50, 5), seed=1)(U))
        assert not torch.equal(Y, random_teacher((20, 60, 50, 5), seed=3)(U))
    assert 0.4 < float(Y.square().mean()) < 4  # weights of variance 2/p keep the size under ReLU
    Phi = torch.cat([U, torch.ones(2000, 1, device="cpu")], dim=1)
    missed = Y - Phi @ torch.linalg.lstsq(Phi, Y).solution
    assert float(missed.square().sum() / (Y - Y.mean(0)).square().sum()) > 0.2


def test_gaussian_inputs_are_standard_normal():
    U = gaussian(4000, 5, seed=0)
    assert U.dtype is torch.float32 and torch.equal(U, gaussian(4000, 5, seed=0))
    assert float(U.mean(0).abs().max()) < 0.06
    assert float((U.mT @ U / 4000 - torch.eye(5, device="cpu")).abs().max()) < 0.08


# --- pictures -------------------------------------------------------------------------------------


def test_memory_is_drawn_in_megabytes_from_zero():
    figure = draw_stream_memory([10, 100], [2e6, 3e6], [1e6, 1e7])
    streamed, kept = figure.axes[0].lines
    assert streamed.get_ydata().tolist() == [2, 3] and kept.get_ydata().tolist() == [3, 12]
    low, high = figure.axes[0].get_ylim()
    assert low == 0 and high > 12


def test_accuracy_is_drawn_for_each_lambda_with_every_run():
    table = pd.DataFrame({"samples": [10, 10, 100, 10, 100], "lam": [0.1, 0.1, 0.1, 1, 1],
                          "accuracy": [0.5, 0.7, 0.8, 0.2, 0.3]})
    ax = draw_samples_needed(table, 0.9, 400, d=20).axes[0]
    teacher, features, *curves = ax.lines
    assert set(teacher.get_ydata()) == {0.9} and set(features.get_xdata()) == {20}
    assert curves[0].get_ydata().tolist() == [0.5, 0.7, 0.8]
    np.testing.assert_allclose(curves[1].get_ydata(), [0.6, 0.8])
    np.testing.assert_allclose(curves[3].get_ydata(), [0.2, 0.3])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["10", "100"]
    assert len(draw_samples_needed(table, 0.9, 400).axes[0].lines) == 5


def test_fidelity_is_drawn_as_a_number_beside_the_teacher_s_own():
    table = pd.DataFrame({"samples": [10, 100], "lam": [0.1, 0.1], "fidelity": [-0.5, 0.9]})
    ax = draw_samples_needed(table, 1.0, measure="fidelity").axes[0]
    teacher, runs, mean = ax.lines
    assert ax.get_title() == "Fidelity on fresh inputs" and set(teacher.get_ydata()) == {1.0}
    assert runs.get_ydata().tolist() == mean.get_ydata().tolist() == [-0.5, 0.9]
    low, high = ax.get_ylim()
    assert low < -0.5 and high > 1 and not ax.patches
    assert "%" not in ax.yaxis.get_major_formatter()(0.5)


def test_costs_tell_known_points_from_predicted_ones():
    seen, model = points(), points().assign(seconds=1.0)
    figure = draw_costs(seen, model, [50, 100])
    assert [ax.get_title() for ax in figure.axes] == list(PARTS[:-1])
    for ax, part in zip(figure.axes, PARTS, strict=False):
        line, known, other = ax.lines
        mine = seen[seen.part == part].seconds.tolist()
        assert line.get_ydata().tolist() == [1.0] * 3
        assert known.get_ydata().tolist() == mine[:2] and other.get_ydata().tolist() == mine[2:]
        low, high = ax.get_ylim()
        assert low < min(mine) and high > max(mine)


def test_a_budget_shows_parts_and_totals_and_what_fits():
    figure = draw_budget({"a": 90.0, "b": 0.0}, {"x": 3e9, "y": 1e30}, 2e9, "now")
    left, right = (canvas.moving(ax) for ax in figure.axes)
    assert left["name"].get_text() == "now" and left["title"].get_text() == "Time: 1.5 min"
    dots = [left[f"dot {k}"].get_xdata()[0] for k in range(3)]
    assert dots[0] == dots[2] == 90.0 and np.isnan(dots[1])
    assert [left[f"value {k}"].get_text() for k in range(3)] == ["1.5 min", "0 µs", "1.5 min"]
    assert right["dot 1"].get_xdata()[0] == figure.axes[1].get_xlim()[1]  # at the end, not lost
    assert "more than 2.0 GB" in right["title"].get_text()
    assert list(right["capacity"].get_xdata()) == [2e9, 2e9]
    again = draw_budget({"a": 0.0, "b": 0.0}, {"x": 1e9, "y": 0.0}, 2e9, figure=figure)
    assert again is figure and "1.0 GB, fits in" in right["title"].get_text()


def test_the_panel_shows_the_model():
    panel = scale_panel([ASSUMED_GPU, SLOW], p=100)
    assert panel.redraws == 1 and panel.values["machine"] == ASSUMED_GPU.name
    panel.set(machine="slow", log_n=4.0, log_m=6.0, devices=8, hears="one of 10 layers")
    size = Size(10_000, 100, 1_000_000, blocks=10)
    parts = canvas.moving(panel.figure.axes[0])
    seconds = SLOW.seconds(size, 8)
    assert list(parts["dot 0"].get_xdata()) == [pytest.approx(seconds["statistics"])]
    assert list(parts["dot 5"].get_xdata()) == [pytest.approx(sum(seconds.values()))]
    assert parts["name"].get_text() == "n = 10,000, m = 1,000,000, 8 devices"
    for hears in HEARS:
        for corner in ({"log_n": 2.0, "devices": 1}, {"log_n": 6.0, "devices": 64}):
            panel.set(hears=hears, **corner)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: Size(0, 1, 1), ValueError, ["n must be at least 1, got 0"]),
    (lambda: Size(5, 1, 1, blocks=0), ValueError, ["blocks must be at least 1, got 0"]),
    (lambda: Size(5, 1, 1, support=0), ValueError, ["support must be at least 1, got 0"]),
    (lambda: Size(5, 1, 1, finishing=-1), ValueError, ["finishing must be at least 0, got -1"]),
    (lambda: Size(5, 1, 1).memory(0), ValueError, ["devices must be at least 1, got 0"]),
    (lambda: SLOW.seconds(Size(5, 1, 1), 0), ValueError, ["devices must be at least 1, got 0"]),
    (lambda: Machine("m", {}), ValueError, ["rates must name statistics"]),
    (lambda: Machine("m", RATES, {"start": 1.0}), ValueError, ["got", "start"]),
    (lambda: Machine("m", RATES | {"finish": 0.0}), ValueError, ["rates['finish'] must be > 0"]),
    (lambda: Machine("m", RATES, {"finish": -1.0}), ValueError, ["starts['finish'] must be >= 0"]),
    (lambda: Machine("m", RATES, link=0.0), ValueError, ["link must be > 0"]),
    (lambda: fit_machine(points(sizes=(50,))), ValueError, ["two sizes", "got 1 of statistics"]),
    (lambda: measure_parts([2]), ValueError, ["d must be at least 4, got 2"]),
    (lambda: measure_parts([20], rows=0), ValueError, ["rows must be at least 1, got 0"]),
    (lambda: measure_parts([20], repeat=0), ValueError, ["repeat must be at least 1, got 0"]),
    (lambda: draw_stream_memory([10], [1.0, 2.0], [1.0]), ValueError, ["1, got 2"]),
    (lambda: draw_samples_needed(pd.DataFrame(), 0.9, 9), ValueError, ["at least one row"]),
    (lambda: draw_samples_needed(points(), 0.9, 9), ValueError, ["column", "samples"]),
    (lambda: draw_samples_needed(points(), 0.9, measure="loss"), ValueError, ["measure", "loss"]),
    (lambda: random_teacher((3, 2)), ValueError, ["at least one hidden layer", "(3, 2)"]),
    (lambda: random_teacher(seed=-1), ValueError, ["seed", "-1"]),
    (lambda: gaussian(0, 2, seed=1), ValueError, ["samples must be at least 1, got 0"]),
    (lambda: draw_costs(points(), pd.DataFrame({"part": ["a"]}), []), ValueError, ["'d'"]),
    (lambda: draw_budget({}, {"a": 1.0}, 1.0), ValueError, ["at least one"]),
    (lambda: draw_budget({"a": -1.0}, {"a": 1.0}, 1.0), ValueError, ["finite", "-1"]),
    (lambda: draw_budget({"a": 1.0}, {"a": 1.0}, 0.0), ValueError, ["capacity"]),
    (lambda: scale_panel([]), ValueError, ["at least one Machine"]),
    (lambda: scale_panel(log_n=9.0), ValueError, ["log₁₀ n", "9"]),
    (lambda: scale_panel(p=0), ValueError, ["p must be at least 1, got 0"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
