"""Lab 14: its block's Jacobian, its measurements, pictures and panel."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import CPU64, draw, rejects
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from idl_lab.equilibrium import Implicit, Neumann, OneStep, Phantom, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.any_layer.panel import stability_panel
from idl_lab.labs.any_layer.plots import (
    _iterates,
    draw_courses,
    draw_short_gradients,
    draw_table,
)
from idl_lab.labs.any_layer.problems import (
    Block,
    Course,
    classifier,
    gradient_table,
    health,
    jacobians,
    measure_gradient,
    quietly,
    radii,
    train,
)
from idl_lab.labs.kit import canvas
from idl_lab.layer import EquilibriumLayer


def block(channels: int = 4, factor: float = 1.0, norm: bool = True) -> Block:
    torch.manual_seed(0)
    f = Block(channels, norm).double()
    with torch.no_grad():
        f.K2.weight.mul_(factor)
    return f


U = draw(1, 3, 4, 2, 2)


# ---- what is measured -------------------------------------------------------------------------


def test_the_block_is_its_formula():
    f, z = block(), draw(2, 3, 4, 2, 2)
    K1, K2 = f.K1.weight, f.K2.weight
    s = U + nn.functional.conv2d(nn.functional.conv2d(z, K1, padding=1).relu(), K2, padding=1)
    groups = s.reshape(3, 4, -1)
    mean, var = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, unbiased=False)
    wanted = ((groups - mean) / (var + 1e-5).sqrt()).reshape(s.shape).relu()
    assert torch.allclose(f(z, U), wanted, atol=1e-12)
    assert torch.allclose(block(norm=False)(z, U), s.relu())
    rejects(lambda: Block(6), ValueError, "multiple of 4", "6")


def test_jacobians_and_radii_are_those_of_difference_quotients():
    f, z, h = block(), draw(2, 3, 4, 2, 2), 1e-6
    J = jacobians(f, z, U)
    assert J.shape == (3, 16, 16)
    for column in (0, 7, 15):
        e = torch.zeros(16, **CPU64)
        e[column] = h
        e = e.reshape(1, 4, 2, 2)
        wanted = (f(z + e, U) - f(z - e, U)) / (2 * h)
        assert torch.allclose(J[:, :, column], wanted.flatten(1), atol=1e-6)
    wanted = [np.abs(np.linalg.eigvals(M.numpy())).max() for M in J]
    assert radii(f, z, U).tolist() == pytest.approx(wanted)


def test_the_classifier_is_drawn_from_its_seed():
    one, again, other = classifier(1), classifier(1), classifier(2)
    images = draw(0, 5, 64).float()
    assert one(images).shape == (5, 10)
    assert torch.equal(one(images), again(images)) and not torch.equal(one(images), other(images))


def test_health_says_what_the_solve_did():
    net, images = classifier(0), draw(0, 5, 64).float().sigmoid()
    seen = health(net, images)
    with torch.no_grad():
        solution = net.layer.equilibrium(net.stem(images))
    assert seen["steps"] == solution.stats.steps and seen["converged"] == 1
    assert seen["residual"] == pytest.approx(float(solution.stats.relative.max()))
    net.layer.solver = Picard(rtol=1e-8, max_steps=2)
    assert health(net, images)["converged"] == 0


def loaders() -> tuple[DataLoader, DataLoader]:
    images, labels = draw(0, 48, 64).float().sigmoid(), torch.arange(48, device="cpu") % 10
    return DataLoader(TensorDataset(images, labels), 16), DataLoader(
        TensorDataset(images, labels), 48)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_training_is_adam_on_the_loss_and_the_penalty(weight):
    net, twin = classifier(0), classifier(0)
    batches, test = loaders()
    course = train(net, batches, test, 2, lr=1e-2, weight=weight,
                   generator=torch.Generator("cpu").manual_seed(3))
    optimizer, draws = torch.optim.Adam(twin.parameters(), lr=1e-2), torch.Generator("cpu")
    draws.manual_seed(3)
    for _ in range(2):
        for images, labels in batches:
            loss = nn.functional.cross_entropy(twin(images), labels)
            if weight:
                loss = loss + weight * twin.layer.jacobian_penalty(draws)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in twin.state_dict().items():
        assert torch.allclose(net.state_dict()[name], value, atol=1e-5), name
        assert torch.equal(course.states[-1][name], net.state_dict()[name])
    assert list(course.table.index) == [0, 1, 2] and len(course.states) == 3
    assert torch.equal(course.states[0]["read.1.weight"], classifier(0).read[1].weight)
    assert set(course.table) == {"radius", "steps", "residual", "converged", "accuracy"}


@pytest.mark.parametrize(("converged", "healthy"), [
    ([1, 1, 1], 2), ([1, 0, 1], 0), ([1, 1, 0], 1), ([0, 1, 1], -1)])
def test_the_last_healthy_epoch_is_before_the_first_failure(converged, healthy):
    assert Course(pd.DataFrame({"converged": converged}), []).healthy == healthy


@pytest.mark.parametrize(("options", "fragments"), [
    ({"epochs": 0}, ["epochs", "0"]), ({"epochs": 1, "weight": -1.0}, ["weight", "-1"])])
def test_a_training_of_nothing_is_refused(options, fragments):
    rejects(lambda: train(classifier(0), *loaders(), **options), ValueError, *fragments)


def test_gradients_are_those_of_the_adjoints():
    f, weights = block(), draw(3, 3, 4, 2, 2)
    tight = Anderson(rtol=1e-12)
    z = EquilibriumLayer(f, solver=tight)(U).detach()
    wanted = torch.autograd.grad((weights * f(z, U)).sum(), list(f.parameters()))
    seen = measure_gradient(f, U, weights, OneStep(), tight)
    assert torch.allclose(seen.gradient, torch.cat([g.flatten() for g in wanted]), atol=1e-9)
    table = gradient_table(f, U, weights, {"implicit": Implicit(tight), "one": OneStep(),
                                           "two": Neumann(2), "many": Neumann(60),
                                           "phantom": Phantom(200, 0.5)})
    assert table["error"]["implicit"] < 1e-6 and table["error"]["phantom"] < 1e-6
    assert table["error"]["one"] > table["error"]["two"] > table["error"]["many"]
    assert table["error"]["many"] < 1e-6 and (table["cosine"] <= 1 + 1e-9).all()


def test_the_memory_is_that_of_what_is_alive():
    f, weights = block(), draw(3, 3, 4, 2, 2)
    few, many = (Picard(rtol=0, atol=1e-300, max_steps=k) for k in (5, 25))
    with pytest.warns(UserWarning):
        used = {(how, steps.max_steps): measure_gradient(f, U, weights, how, steps).memory
                for how in (OneStep(), Unrolled()) for steps in (few, many)}
    state = U.numel() * 8
    # Beside what the steps leave, each keeps a log of its residuals, one number a sample.
    assert used[OneStep(), 25] - used[OneStep(), 5] < 32 * 3 * 8
    assert used[Unrolled(), 25] - used[Unrolled(), 5] > 20 * state
    assert measure_gradient(f, U, weights, OneStep(), repeat=2).seconds > 0


# ---- pictures ---------------------------------------------------------------------------------


def test_short_gradients_are_drawn_at_their_numbers():
    figure = draw_short_gradients((1, 2, 4), {"a": [0.5, 0.2, 0.1], "b": [0.6, 0.3, 0.002]})
    (ax,) = figure.axes
    assert list(ax.lines[1].get_ydata()) == [0.6, 0.3, 0.002] and ax.get_ylim()[0] < 0.002
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]
    rejects(lambda: draw_short_gradients((1, 2), {"a": [1.0]}), ValueError, "'a'", "2 numbers", "1")


def test_a_bar_is_as_long_as_its_number():
    table = pd.DataFrame({"cosine": [1.0, 0.5], "memory": [2e6, 1e6], "seconds": [0.05, 0.001]},
                         index=["implicit", "one-step"])
    figure = draw_table(table)
    widths = [[bar.get_width() for bar in ax.patches] for ax in figure.axes]
    assert widths == [[1.0, 0.5], [2.0, 1.0], [50.0, 1.0]]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["implicit", "one-step"]
    rejects(lambda: draw_table(pd.DataFrame({"a": [1]})), TypeError, "gradient_table")


def test_courses_begin_where_they_began():
    table = pd.DataFrame({"radius": [0.5, 1.5], "residual": [1e-5, 0.1], "accuracy": [0.1, 0.9]})
    figure = draw_courses({"one": table, "two": table}, 1e-4, {"two": 3})
    left, middle, right = figure.axes
    assert list(left.lines[1].get_xdata()) == [3, 4] and list(left.lines[0].get_xdata()) == [0, 1]
    assert list(middle.lines[0].get_ydata()) == [1e-5, 0.1]
    assert list(right.lines[1].get_ydata()) == [0.1, 0.9]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["one", "two"]
    rejects(lambda: draw_courses({"x": [1]}, 1e-4), TypeError, "'x'", "train", "list")


def test_iterates_are_cut_off_above_the_axis():
    states = torch.tensor([[0.0, 0.0], [1.0, 1e9], [0.5, float("inf")]], device="cpu")
    (ax,) = _iterates(states).figure.axes
    parts = canvas.moving(ax)
    assert list(parts["component 0"].get_ydata()) == [0, 1, 0.5]
    assert parts["component 1"].get_ydata()[1] > ax.get_ylim()[1]
    rejects(lambda: _iterates(torch.zeros(3, 9, device="cpu")), ValueError, "at most 6", "9")


# ---- the panel --------------------------------------------------------------------------------


def test_the_panel_scales_the_block_and_leaves_it_as_it_was():
    f, u = block(8, 2.0), draw(1, 1, 8, 3, 3)
    before = copy.deepcopy(f.state_dict())
    panel = stability_panel(f, u)
    figure, first = panel.figure, canvas.png(panel.figure)
    panel.set(gain=0.5)
    assert panel.figure is figure and canvas.png(panel.figure) != first
    scaled = copy.deepcopy(f)
    with torch.no_grad():
        scaled.K1.weight.mul_(0.5), scaled.K2.weight.mul_(0.5)
    found = quietly(EquilibriumLayer(scaled, solver=Picard(rtol=0, atol=1e-5)), u)
    said = canvas.moving(figure.axes[2])["said"].get_text()
    assert said == f"ρ = {float(radii(scaled, found.value, u)):.2f}"
    assert f"Picard: {found.stats.steps} steps" in panel.text
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())


def test_it_converges_swings_and_diverges():
    panel = stability_panel(block(8, 3.0), draw(1, 1, 8, 4, 4))
    panel.set(gain=0.5)
    assert "not converged" not in panel.text
    panel.set(gain=4.0)
    swing = canvas.moving(panel.figure.axes[0])["component 0"].get_ydata()
    assert "not converged" in panel.text and np.isfinite(swing).all()
    assert np.abs(np.diff(swing[-10:])).max() > 1e-3
    panel.set(norm="none")
    assert "no equilibrium found" in panel.text
    gone = canvas.moving(panel.figure.axes[1])["curve 0"].get_ydata()
    assert np.nanmax(gone) > 1e6
    panel.set(gain=0.0)
    assert "ρ = 0.00" in panel.text


def test_the_panel_refuses():
    rejects(lambda: stability_panel(block(), U), ValueError, "u must have shape", "m=1")
    rejects(lambda: stability_panel(block(), U[:1], gain=9.0), ValueError, "<= 4", "9")
