"""Lab 15: chains and networks of k layers, the pictures' numbers, the panel, and the claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import draw, mat, rejects

from idl_lab.fixed_point import Picard
from idl_lab.labs import check
from idl_lab.labs.graphs.panel import transport_panel
from idl_lab.labs.graphs.plots import draw_fading, draw_lengths, draw_reach, draw_travel
from idl_lab.labs.graphs.problems import (
    GraphConvolutions,
    along,
    arrived,
    chains,
    decay,
    train,
    transport,
    widest,
)
from idl_lab.labs.kit import canvas
from idl_lab.layer import ImplicitGraph


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# ---- problems -------------------------------------------------------------------------------


def test_only_the_first_node_of_a_chain_knows_its_class():
    data = chains(6, 4, noise=0.0, generator=draws())
    U = data.U.reshape(6, 4, 3)
    assert torch.equal(U[:, 0].argmax(dim=1), torch.arange(6) % 3) and not U[:, 1:].any()
    assert torch.equal(data.labels.reshape(6, 4), (torch.arange(6) % 3)[:, None].expand(6, 4))
    A_hat = data.adjacency.to_dense().reshape(6, 4, 6, 4)
    first = A_hat[0, :, 0].clone()
    for k in range(6):
        torch.testing.assert_close(A_hat[k, :, k], first)
        A_hat[k, :, k] = 0
    assert not A_hat.any()  # one chain does not hear another
    one, other = (chains(6, 4, generator=draws(seed)).U for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize("kappa", [None, 0.9])
def test_k_layers_hear_k_hops_and_no_further(layers, kappa):
    data = chains(1, 9, generator=draws())
    net = GraphConvolutions(3, 3, 4, layers, kappa=kappa, activation="tanh", generator=draws())
    U = data.U.requires_grad_()
    for node in range(9):
        (slope,) = torch.autograd.grad(net(U, data.adjacency)[node].sum(), U)
        assert bool(slope[0].any()) == (node <= layers)


def test_tied_layers_are_the_implicit_networks_own_steps():
    data = chains(2, 5, generator=draws())
    net = GraphConvolutions(3, 3, 4, 400, kappa=0.8, activation="tanh", generator=draws())
    same = ImplicitGraph(3, 3, 4, activation="tanh", kappa=0.8, solver=Picard(rtol=1e-7))
    with torch.no_grad():
        same.free_W.copy_(net.weights[0].weight)
        same.B.copy_(net.read_in.weight)
        same.C.copy_(net.read_off.weight)
    torch.testing.assert_close(net(data.U, data.adjacency), same(data.U, data.adjacency),
                               rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 4, 8])
def test_a_network_is_as_wide_as_allowed(layers):
    def count(n):
        return sum(M.numel() for M in GraphConvolutions(3, 4, n, layers).parameters())

    n = widest(3, 4, layers, 352)
    assert count(n) <= 352 < count(n + 1)
    rejects(lambda: widest(3, 4, layers, 6), ValueError, "one hidden state", "6")


def test_the_decay_is_that_of_a_long_chain():
    for kappa in (0.2, 0.9, 0.99):
        x = arrived(kappa, 300)
        assert float(x[11] / x[10]) == pytest.approx(decay(kappa), rel=1e-9)
        right = check.graphs.decay.exercise.right(torch.tensor(kappa).double())
        assert right == pytest.approx(decay(kappa))
        solution = transport(kappa, 30, 1e-13)
        torch.testing.assert_close(solution.value[0], arrived(kappa, 30), rtol=1e-4, atol=1e-11)


def test_accuracy_along_a_chain():
    data = chains(3, 4, generator=draws())

    class Says(torch.nn.Module):
        def forward(self, U, adjacency):  # right at the first two nodes, and class 0 after
            Y = torch.nn.functional.one_hot(data.labels, 3).float().reshape(3, 4, 3).clone()
            Y[:, 2:] = 0
            return Y.flatten(0, 1)

    torch.testing.assert_close(along(Says(), data), torch.tensor([1, 1, 1 / 3, 1 / 3]))


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: chains(0, 4, generator=draws()), ValueError, ["count", "at least 1"]),
    (lambda: chains(3, 4, noise=-1, generator=draws()), ValueError, ["noise", ">= 0"]),
    (lambda: GraphConvolutions(3, 3, 4, 0), ValueError, ["layers", "at least 1"]),
    (lambda: decay(1.0), ValueError, ["kappa", "< 1"]),
])
def test_bad_problems_are_refused(call, error, fragments):
    rejects(call, error, *fragments)


# ---- pictures -------------------------------------------------------------------------------


def runs() -> pd.DataFrame:
    return pd.DataFrame([{"model": m, "length": n, "accuracy": a} for m, n, a in (
        ("a", 3, 1.0), ("a", 3, 0.5), ("a", 9, 0.25), ("b", 9, 1.0), ("b", 3, 1.0))])


def test_lengths_are_means_and_runs():
    ax = draw_lengths(runs(), 1 / 3).axes[0]
    dots, mean, *_ = ax.lines
    assert sorted(dots.get_ydata()) == [0.25, 0.5, 1.0]
    np.testing.assert_allclose(mean.get_ydata(), [0.75, 0.25])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["3", "9"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b", "guessing"]


def test_fading_and_reach_are_the_numbers():
    x = 0.5 ** mat(range(6))
    ax = draw_fading({"κ": x}, {"κ": 0.5}).axes[0]
    state, slope = ax.lines
    np.testing.assert_allclose(state.get_ydata(), x.numpy())
    np.testing.assert_allclose(slope.get_ydata(), x.numpy())
    assert ax.get_yscale() == "log"
    ax = draw_reach({"a": mat([1, 1, 0.5]), "b": mat([1, 1, 1])}, [3, 40], 1 / 3).axes[0]
    assert ax.lines[0].get_ydata().tolist() == [1, 1, 0.5]
    assert ax.lines[1].get_xdata().tolist() == [2.5, 2.5]  # two nodes are reached in three steps
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "a: 3 steps", "b: 40 steps", "guessing"]


def test_travel_shows_one_step_and_is_redrawn_in_place():
    solution, goal = transport(0.9, 20, 1e-3), arrived(0.9, 20)
    figure = draw_travel(solution, goal, 7, 1e-3)
    left, right = (canvas.moving(ax) for ax in figure.axes)
    shown = left["state"].get_ydata()
    np.testing.assert_allclose(shown[:7], solution.trace.states[7, 0, :7].numpy())
    assert np.isnan(shown[7:]).all() and "first 7 of 20" in left["title"].get_text()
    assert right["so far"].get_ydata().size == 7
    last = solution.stats.steps - 1
    assert f"stops at step {last}:" in right["title"].get_text()
    canvas.png(figure)
    again = draw_travel(solution, goal, 900, 1e-3, figure=figure)
    assert again is figure and f"step {last}" in left["title"].get_text()
    assert canvas.png(again) == canvas.png(draw_travel(solution, goal, last, 1e-3))


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: draw_lengths([], 0.3), TypeError, ["DataFrame", "list"]),
    (lambda: draw_lengths(runs().drop(columns="length"), 0.3), ValueError, ["length"]),
    (lambda: draw_lengths(runs()[:0], 0.3), ValueError, ["at least one row"]),
    (lambda: draw_fading({}, {}), ValueError, ["at least one"]),
    (lambda: draw_fading({"a": draw(0, 3)}, {"b": 0.5}), ValueError, ["['a']", "['b']"]),
    (lambda: draw_reach({"a": draw(0, 3)}, [], 0.3), ValueError, ["1 and 0"]),
    (lambda: draw_travel(transport(0.9, 5, 0.1), draw(0, 5), -1, 0.1), ValueError, ["step"]),
])
def test_bad_pictures_are_refused(call, error, fragments):
    rejects(call, error, *fragments)


def test_the_panel_says_whether_the_label_arrives():
    panel = transport_panel()
    figure = panel.figure
    for kappa, length, digits in ((0.5, 30, -3.0), (0.99, 60, -3.0), (0.1, 5, -8.0),
                                  (0.9, 60, -1.0)):
        panel.set(kappa=kappa, length=length, digits=digits, step=200)
        solution = transport(kappa, length, 10.0 ** digits)
        heard = bool(solution.value[0, -1] > 0)
        assert ("the last node has heard" in panel.text) == heard
        assert ("before it arrives" in panel.text) != heard
    assert panel.figure is figure
    rejects(lambda: transport_panel(kappa=1.0), ValueError, "κ", "0.99")


# ---- what the lab claims --------------------------------------------------------------------


def at_the_end(build, length: int, seed: int) -> float:
    """Accuracy at the last node of chains like those that the model was trained on."""
    generator = draws(seed)
    train_on, test_on = (chains(count, length, generator=generator) for count in (30, 60))
    model = build(generator)
    train(model, train_on)
    return float(along(model, test_on)[-1])


def implicit(generator: torch.Generator) -> ImplicitGraph:
    return ImplicitGraph(3, 3, 16, activation="leaky_relu", kappa=0.99, solver=Picard(rtol=1e-3),
                         generator=generator)


def layers(k: int, kappa: float | None = None):
    n = 16 if kappa is not None else widest(3, 3, k, 352)
    return lambda generator: GraphConvolutions(3, 3, n, k, kappa=kappa, activation="leaky_relu",
                                               generator=generator)


def test_where_two_layers_guess_the_implicit_network_is_right():
    assert sum(M.numel() for M in implicit(draws()).parameters()) == 352
    assert at_the_end(layers(2), 10, 0) == pytest.approx(1 / 3)
    assert at_the_end(implicit, 10, 0) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(5))
def test_of_five_seeds_every_one_bears_the_lab_out(seed):
    for length in (3, 5, 10, 20, 40):
        assert at_the_end(implicit, length, seed) > 0.95 - 1e-6  # 57 of 60, a mean in float32
        for build, sees in ((layers(2), 3), (layers(4), 5), (layers(32, 0.99), 33)):
            share = at_the_end(build, length, seed)
            assert share >= 0.95 if length <= sees else share == pytest.approx(1 / 3)
