"""Pictures of a teacher's states, of convexity and of the bound; the study behind the last."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import CPU64, draw, mat, rejects
from torch import nn

from idl_lab.labs.kit import canvas
from idl_lab.labs.sim_states.plots import (
    draw_answers,
    draw_bound,
    draw_duality,
    draw_features,
    draw_segments,
    draw_teacher_states,
)
from idl_lab.labs.sim_states.problems import bound_study
from idl_lab.sim.solvers import ADMMSolver

BLOCKS = [("layer 2", 2), ("layer 1", 3)]


def parts(figure, k=0):
    return canvas.moving(figure.axes[k])


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


# ---- states and features --------------------------------------------------------------------


def test_states_are_sorted_by_class_and_shaded_layer_by_layer():
    X = mat([[0, 2, 1, 0, 4], [1, 0, 0, 2, 0], [4, 0, 0, 0, 1]])
    figure = draw_teacher_states(X, torch.tensor([7, 3, 3], device="cpu"), BLOCKS)
    ax = figure.axes[0]
    shown = ax.images[0].get_array()
    assert shown.tolist() == [[0.25, 0, 0, 0.5, 0], [1, 0, 0, 0, 0.25], [0, 0.5, 0.25, 0, 1]]
    assert labels(ax.yaxis) == ["3", "7"] and ax.get_yticks().tolist() == [1, 2.5]
    assert labels(ax.xaxis) == ["layer 2", "layer 1"] and ax.get_xticks().tolist() == [1, 3.5]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_xdata()[0]] == [2]


def test_features_that_no_sample_tells_apart_are_marked():
    """One is never on; one is the sum of two others, so a second eigenvalue is zero."""
    Phi = draw(0, 40, 5).abs()
    Phi[:20, 3] = 0
    Phi[:, 1] = 0
    Phi[:, 4] = Phi[:, 0] + Phi[:, 2]
    figure = draw_features(Phi, BLOCKS)
    left, right = figure.axes
    some, same = left.lines[:2]
    assert some.get_xydata().tolist() == [[3.5, 0.5]]
    assert same.get_xydata().tolist() == [[0.5, 1], [1.5, 0], [2.5, 1], [4.5, 1]]
    values = np.linalg.svd(Phi.numpy(), compute_uv=False) ** 2
    np.testing.assert_allclose(right.lines[0].get_ydata(), values[:3], rtol=1e-9)
    assert right.lines[1].get_xdata().tolist() == [4, 5]
    assert [text.get_text() for text in right.texts] == ["2 zero, to rounding"]


def test_features_of_full_rank_have_no_zeros():
    figure = draw_features(draw(0, 40, 5), BLOCKS)
    assert len(figure.axes[1].lines[1].get_xdata()) == 0 and not figure.axes[1].texts


# ---- segments -------------------------------------------------------------------------------


def test_segments_shade_only_what_is_above_the_chord():
    t = mat(np.linspace(0, 1, 11))
    hill, valley = 1 - (2 * t - 1) ** 2, (2 * t - 0.5) ** 2
    figure = draw_segments(t, {"hill": hill, "valley": valley})
    for ax, curve, above in zip(figure.axes, (hill, valley), (True, False), strict=True):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), curve)
        np.testing.assert_allclose(ax.lines[1].get_ydata(), curve[0] + t * (curve[-1] - curve[0]))
        shaded = sum(abs(_area(path)) for path in ax.collections[0].get_paths())
        assert (shaded > 0.5) == above and (above or shaded < 1e-9)
    assert [ax.get_title() for ax in figure.axes] == ["hill", "valley"]


def _area(path) -> float:
    x, y = path.vertices.T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def test_duality_shows_both_bounds_and_nothing_where_a_bound_is_empty():
    away = mat([1.0, 0.1, 0.01])
    figure = draw_duality(away, mat([9.0, 4.0, 2.0]), mat([-1.0, 1.0, 2.0]))
    (ax,) = figure.axes
    upper, lower = ax.lines
    assert upper.get_ydata().tolist() == [9, 4, 2] and upper.get_xdata().tolist() == [1, 0.1, 0.01]
    assert np.isnan(lower.get_ydata()[0]) and lower.get_ydata()[1:].tolist() == [1, 2]
    assert ax.get_xlim() == (1, 0.01)


# ---- the bound ------------------------------------------------------------------------------


def table(kappas=(0.1, 0.9)):
    rows = {(kappa, way): {"accuracy": 0.8 + 0.1 * way + 0.01 * kappa,
                           "fidelity": 0.9 + 0.09 * way + 0.001 * kappa,
                           "solved": kappa < 0.5 or way, "layer 2": 0.1 * (1 + way),
                           "layer 1": 1e-4 * kappa}
            for kappa in kappas for way in (True, False)}
    found = pd.DataFrame.from_dict(rows, orient="index")
    found.index = found.index.set_names(["kappa", "rescaled"])
    return found


def test_bound_follows_kappa_in_place():
    A = draw(0, 5, 5)
    figure = draw_bound(table(), A, 0.01 * A, BLOCKS, 0.1)
    canvas.png(figure)
    for kappa, stopped in ((0.1, False), (0.9, True)):
        assert draw_bound(table(), A, 0.1 * kappa * A, BLOCKS, kappa, figure=figure) is figure
        text = parts(figure)["verdict"].get_text()
        assert text.startswith(f"κ = {kappa}: fidelity {0.99 + 0.001 * kappa:.4f} rescaled "
                               f"({90 + kappa:.1f} % right), {0.9 + 0.001 * kappa:.4f} not")
        assert ("stopped early" in text) == stopped
        assert parts(figure)["kappa"].get_ydata() == [kappa, kappa]
        assert parts(figure, 2)["kappa"].get_xdata() == [kappa, kappa]
        for way, name in ((True, "rescaled"), (False, "not rescaled")):
            dots = parts(figure, 1)[name].get_ydata()
            np.testing.assert_allclose(dots, [0.1 * (1 + way), 1e-4 * kappa])
    np.testing.assert_allclose(parts(figure, 2)["rescaled"].get_ydata(), [0.0099, 0.0091])
    np.testing.assert_allclose(parts(figure, 2)["not rescaled"].get_ydata(), [0.0999, 0.0991])
    low, high = figure.axes[1].get_ylim()
    assert low < 1e-5 and high >= 0.2
    (legend,) = figure.legends
    assert {t.get_text() for t in legend.get_texts()} == {"rescaled", "not rescaled"}
    assert {"0.9", "0.99"} <= {t.get_text() for t in figure.axes[2].get_yticklabels()}


def test_answers_are_the_outputs_of_student_and_teacher():
    wanted, given = draw(0, 7, 2), draw(1, 7, 2)
    figure = draw_answers({"one": (wanted, given), "two": (wanted, wanted)})
    for ax, (name, said) in zip(figure.axes, {"one": given, "two": wanted}.items(), strict=True):
        diagonal, dots = ax.lines
        assert ax.get_title() == name
        np.testing.assert_allclose(dots.get_xydata(), torch.stack([
            wanted.ravel(), said.ravel()], dim=1))
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    figure.canvas.draw()
    assert figure.axes[0].yaxis.label.get_window_extent().x0 >= 0


def test_bound_study_tells_what_sim_found():
    """A teacher that is inside the ball for κ = 0.9 already, and far outside for 0.1."""
    teacher = nn.Sequential(nn.Linear(6, 5, bias=False, **CPU64), nn.ReLU(),
                            nn.Linear(5, 4, bias=False, **CPU64), nn.ReLU(),
                            nn.Linear(4, 3, bias=False, **CPU64))
    with torch.no_grad():
        for k, layer in enumerate(teacher[::2]):
            layer.weight.copy_(draw(k, *layer.weight.shape))
        teacher[2].weight.mul_(0.8 / teacher[2].weight.abs().sum(1, keepdim=True))
        U = draw(9, 80, 6)
        U = U[teacher(U).any(1)]  # where all states are zero, so are the scores: a tie
        loader = [(U, teacher(U).argmax(1))]
    solver = ADMMSolver(tol=1e-4, device="cpu", progress=False)
    found = bound_study(teacher, loader, loader, [0.1, 0.9], solver, lam=1e-6)
    assert list(found.index) == [(k, way) for k in (0.1, 0.9) for way in (True, False)]
    assert found["solved"].all() and (found["gap"] <= 1e-4).all()
    assert (found["inf_norm"] <= found.index.get_level_values("kappa")).all()
    lost = found[["layer 2", "layer 1", "output"]]
    assert lost.loc[(0.1, False), "layer 2"] > 1e-3
    assert lost.drop((0.1, False)).max(axis=None) < 1e-4 and lost["layer 1"].max() < 1e-6
    assert found["accuracy"].drop((0.1, False)).min() > 0.97
    assert found["fidelity"].drop((0.1, False)).min() > 0.999 > found.loc[(0.1, False), "fidelity"]
    assert (found["nonzeros"] > 0).all()


@pytest.mark.parametrize(("call", "fragments"), [
    (lambda: draw_teacher_states(draw(0, 3, 5), mat([1, 2]), BLOCKS), ["(3, 5)", "2"]),
    (lambda: draw_teacher_states(draw(0, 3, 4), mat([1, 2, 3]), BLOCKS), ["(3, 4)", "5"]),
    (lambda: draw_features(draw(0, 9, 4), BLOCKS), ["add up to 4", "5"]),
    (lambda: draw_segments(mat([0, 1]), {}), ["at least one"]),
    (lambda: draw_segments(mat([0, 1]), {"loss": mat([1, 2, 3])}), ["'loss'", "2", "3"]),
    (lambda: draw_duality(mat([1, 0.1]), mat([2.0]), mat([1.0])), ["upper", "2", "1"]),
    (lambda: draw_answers({}), ["at least one"]),
    (lambda: draw_answers({"it": (draw(0, 3, 2), draw(0, 4, 2))}), ["'it'", "(3, 2)", "(4, 2)"]),
    (lambda: draw_bound(table(), draw(0, 5, 5), draw(0, 5, 5), BLOCKS, 0.3),
     ["kappa", "0.1, 0.9", "0.3"]),
])
def test_refusals(call, fragments):
    rejects(call, ValueError, *fragments)
