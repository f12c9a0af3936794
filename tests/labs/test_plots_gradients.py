"""Pictures of gradients, and the problems and measurements that they show."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from helpers import central_difference, draw, mat, unrolled

from idl_lab.equilibrium import Implicit, OneStep, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.implicit_gradients import gallery as gradients_gallery
from idl_lab.labs.implicit_gradients.plots import (
    draw_adjoint,
    draw_gradient_cosines,
    draw_gradient_costs,
    draw_gradient_directions,
    draw_gradient_errors,
    draw_gradient_memory,
    draw_gradients,
    draw_tangents,
)
from idl_lab.labs.implicit_gradients.problems import (
    exact_gradient,
    gradient_problem,
    gradients_after,
    measure_gradient,
    relative_error,
)
from idl_lab.labs.kit import canvas

STEPS = [1, 2, 8]
CURVES = {"implicit": [1.0, 1e-3, 1e-20], "one-step": [0.5, 0.4, float("inf")]}


def problem(listens="all", kappa=0.7, phi="relu", n=5, samples=2):
    return gradient_problem(n, kappa, listens, phi, samples=samples,
                            generator=torch.Generator("cpu").manual_seed(0))


def parts(figure, k=0):
    return canvas.moving(figure.axes[k])


@pytest.mark.parametrize("listens", ["all", "hub"])
@pytest.mark.parametrize("phi", ["relu", "tanh"])
def test_the_problem_has_the_gradient_it_promises(listens, phi):
    A, b, target = problem(listens, phi=phi)
    X = unrolled(A.numpy(), b.numpy(), phi)
    np.testing.assert_allclose(X - target.numpy(), [[1, -0.5, -0.5, -0.5, -0.5]] * 2, atol=1e-10)
    np.testing.assert_allclose(np.abs(A.numpy()).sum(axis=1), 0.7, rtol=1e-12)
    if listens == "hub":
        assert np.linalg.norm(A.numpy(), 2) == pytest.approx(0.7 * np.sqrt(5))


@pytest.mark.parametrize("phi", ["relu", "tanh"])
def test_exact_gradient_is_that_of_finite_differences(phi):
    A, b, target = (M.numpy() for M in problem(phi=phi))

    def loss(A, b):
        return 0.5 * ((unrolled(A, b, phi) - target) ** 2).sum()
    exact = exact_gradient(mat(A), mat(b), mat(target), phi)
    np.testing.assert_allclose(exact.injection, central_difference(lambda v: loss(A, v), b),
                               atol=1e-7)
    np.testing.assert_allclose(exact.A, central_difference(lambda v: loss(v, b), A), atol=1e-7)


def test_unrolled_after_k_steps_is_the_gradient_of_the_kth_iterate():
    A, b, target = problem("hub", phi="tanh")

    def loss(v):
        return 0.5 * ((unrolled(A.numpy(), v, "tanh", steps=3) - target.numpy()) ** 2).sum()
    seen = gradients_after([3], A, b, target, "tanh", repeat=2)["unrolled"][0]
    np.testing.assert_allclose(seen.injection, central_difference(loss, b.numpy()), atol=1e-8)


def test_one_step_leaves_the_inverse_out():
    A, b, target = problem(phi="tanh")
    X = unrolled(A.numpy(), b.numpy(), "tanh")
    seen = measure_gradient(A, b, target, "tanh", OneStep(), Anderson(1e-13))
    np.testing.assert_allclose(seen.injection, (1 - X ** 2) * (X - target.numpy()), atol=1e-9)


def test_unrolling_keeps_every_state_and_the_others_one():
    A, b, target = problem(n=20, samples=16)
    for phi in ("relu", "tanh"):
        seen = gradients_after([5, 10, 20], A, b, target, phi)
        state = 20 * 16 * 8  # bytes of one iterate
        saved = {name: [g.saved / state for g in row] for name, row in seen.items()}
        assert saved == {"implicit": [1, 1, 1], "unrolled": [5, 10, 20], "one-step": [1, 1, 1]}
        assert all(g.seconds > 0 for row in seen.values() for g in row)


def test_measuring_holds_nothing_afterwards():
    A, b, target = problem(n=20, samples=16)
    # A node that holds its own output in a hook would hold its whole graph for ever.
    measure_gradient(A, b, target, adjoint=Unrolled(), solver=Picard(0, max_steps=5))
    before = sum(type(o) is torch.Tensor for o in gc.get_objects())
    for _ in range(5):
        measure_gradient(A, b, target, adjoint=Unrolled(), solver=Picard(0, max_steps=5))
    assert sum(type(o) is torch.Tensor for o in gc.get_objects()) <= before


def test_measuring_leaves_the_given_tensors_alone():
    A, b, target = problem()
    for adjoint in (Implicit(), Unrolled()):
        measure_gradient(A, b, target, adjoint=adjoint, solver=Picard(0, max_steps=2))
    assert not A.requires_grad and A.grad is None and b.grad is None


def test_relative_error():
    assert relative_error(mat([3.0, 0.0]), mat([0.0, 4.0])) == pytest.approx(5 / 4)


def test_errors_are_drawn_and_stay_in_the_frame():
    figure = draw_gradient_errors(STEPS, CURVES, 2)
    first, second = (parts(figure)[f"curve {k}"].get_ydata() for k in (0, 1))
    np.testing.assert_array_equal(first, [1, 1e-3, 1e-12])
    assert second[:2].tolist() == [0.5, 0.4] and np.isnan(second[2])
    assert list(parts(figure)["step"].get_xdata()) == [2, 2]
    assert parts(figure)["name 1"].get_text() == "one-step"


def test_directions_keep_angle_and_length():
    exact = draw(0, 3, 4)
    side = draw(1, 12)
    flat = exact.flatten()
    side = side - flat * (side @ flat) / (flat @ flat)
    side = (side * flat.norm() / side.norm()).reshape(3, 4)
    figure = draw_gradient_directions(exact, {
        "same": exact, "up": -0.5 * exact + 0.5 * side, "far": 30 * side, "none": 0 * exact})
    tips = [np.array([parts(figure)[f"tip {k}"].get_xdata()[0],
                      parts(figure)[f"tip {k}"].get_ydata()[0]]) for k in range(4)]
    np.testing.assert_allclose(tips, [[1, 0], [-0.5, 0.5], [0, 1.2], [0, 0]], atol=1e-7)
    assert "up: cosine -0.707" in parts(figure)["name 1"].get_text()


def test_memory_and_costs_draw_kilobytes_and_milliseconds():
    saved, seconds = {"a": [1024, 2048, 4096]}, {"a": [0.001, 0.002, 0.004]}
    figure = draw_gradient_costs(STEPS, saved, seconds)
    assert parts(figure)["curve 0"].get_ydata().tolist() == [1, 2, 4]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [1, 2, 4]
    assert figure.axes[0].get_ylim()[1] >= 4
    marked = draw_gradient_memory(STEPS, saved, step=8)
    assert list(parts(marked)["step"].get_xdata()) == [8, 8]


def test_the_adjoint_vector_grows_term_by_term():
    terms = torch.tensor([[1.0, -2.0], [0.5, 0.25]], device="cpu")
    ax = draw_adjoint(terms, terms.sum(0)).axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    assert heights == [[1, -2], [1.5, -1.75]] and ax.lines[0].get_ydata().tolist() == [1.5, -1.75]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["w", "g", "2 terms"]


def test_cosines_are_drawn():
    figure = draw_gradient_cosines([0, 0.5], {"all": [1, 0.9], "hub": [1, -0.2]})
    assert parts(figure)["curve 1"].get_ydata().tolist() == [1, -0.2]


def test_tangents_have_their_slopes():
    figure = draw_tangents([0, 1, 2], [0, 1, 4], {"one": (1, 1, 2)}, xlabel="x", name="x²")
    x, y = figure.axes[0].lines[1].get_data()
    assert np.diff(y) / np.diff(x) == pytest.approx(2) and y.mean() == pytest.approx(1)


def test_a_redraw_keeps_the_figure_and_its_parts():
    exact = draw(0, 4)

    def picture(step, figure=None):
        return draw_gradients(STEPS, CURVES, exact, {"implicit": exact * step,
                                                           "one-step": -exact},
                                    {"implicit": [9, 9, 9]}, step, figure=figure)
    figure = picture(1)
    count = sum(len(ax.get_children()) for ax in figure.axes)
    canvas.png(figure)
    assert picture(8, figure) is figure and not figure.stale
    assert sum(len(ax.get_children()) for ax in figure.axes) == count
    np.testing.assert_array_equal(np.frombuffer(canvas.png(figure), np.uint8),
                                  np.frombuffer(canvas.png(picture(8)), np.uint8))


def test_the_errors_are_as_the_gallery_shows_them():
    figure = gradients_gallery.gradient_errors()
    implicit, once = (parts(figure)[f"curve {k}"].get_ydata() for k in (0, 2))
    assert (implicit[-1] / implicit[-2]) ** (1 / 32) == pytest.approx(0.7, abs=0.01)
    assert once[-1] > 0.1
    text = parts(gradients_gallery.gradient_directions())["name 2"].get_text()
    assert text.startswith("one-step: cosine -")
    slopes = [t.get_text() for t in gradients_gallery.tangents().axes[0].get_legend().get_texts()]
    assert [text[-7:] for text in slopes] == ["slope 0", "slope 1", "slope 2"]


VECTOR = torch.ones(3, dtype=torch.float64, device="cpu")


@pytest.mark.parametrize(("call", "message"), [
    (lambda: draw_gradient_errors(STEPS, {}), "errors must be a mapping with at least one"),
    (lambda: draw_gradient_errors(STEPS, [1, 2]), "mapping"),
    (lambda: draw_gradient_errors(STEPS, {"a": [1, 2]}), r"a point of the axis, 3, got 2"),
    (lambda: draw_gradient_errors(STEPS, CURVES, 0), "step must be at least 1, got 0"),
    (lambda: draw_gradient_errors([], CURVES), "steps must have 1 axes"),
    (lambda: draw_gradient_memory(STEPS, CURVES, 0.5), "step must be a whole number"),
    (lambda: draw_gradient_directions(VECTOR, {"a": VECTOR[:2]}), "3, got 2"),
    (lambda: draw_gradient_cosines([0.5], {"a": [1, 2]}), "1, got 2"),
    (lambda: draw_adjoint(VECTOR[None], VECTOR[:2]), "each of the 2 entries of w, got 3"),
    (lambda: draw_gradient_costs(STEPS, {"a": [1, 2, 3]}, {}), "seconds must be"),
    (lambda: draw_tangents([0, 1], [0], {}), "2, got 1"),
    (lambda: problem(n=1), "n must be at least 2, got 1"),
    (lambda: problem(samples=0), "samples must be at least 1, got 0"),
    (lambda: problem(kappa=1.0), "kappa must be >= 0 and < 1, got 1"),
    (lambda: problem("hubs"), "Did you mean 'hub'"),
    (lambda: gradients_after([1], *problem(), repeat=0), "repeat must be at least 1, got 0"),
    (lambda: gradients_after([0], *problem()), "steps must be at least 1, got 0"),
])
def test_refusals(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
