"""Pictures of networks as matrices, and the small networks that they show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import draw, mat, rejects

from idl_lab import ImplicitModel
from idl_lab.fixed_point import Picard
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.plots import draw_rescaled_rows
from idl_lab.labs.kit.problems import change_units, whole
from idl_lab.labs.networks_as_implicit_models.plots import draw_blocks, draw_rescaling, draw_units
from idl_lab.labs.networks_as_implicit_models.problems import NETWORKS, small_network
from idl_lab.well_posedness import units

BLOCKS = [("x2", 2), ("x1", 3)]


def parts(figure, k=0):
    return canvas.moving(figure.axes[k])


def network(kind="dense", layers=3, seed=0):
    return small_network(kind, layers, generator=torch.Generator("cpu").manual_seed(seed))


# ---- the networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("layers", [1, 3])
def test_small_networks_are_what_they_say(kind, layers):
    net, U = network(kind, layers), draw(1, 6, 1, 8, 8).float()
    model = ImplicitModel.from_network(net, (1, 8, 8))
    assert net(U).shape == (6, 10) and len(model.blocks) == layers
    assert torch.allclose(model(U.flatten(1)), net(U), atol=1e-5)
    below = model.A.detach().to_dense()[:model.blocks[0].size, model.blocks[0].size:]
    heard = below.abs().sum(0) > 0  # the last layer listens to the one before it, or to all
    size = model.blocks[-1].size
    if layers == 1:
        assert heard.numel() == 0
    else:
        assert heard[:size].all() and heard[size:].any() == (kind == "residual")


def test_small_networks_come_from_the_generator_alone():
    one, two, three = network(), network(), network(seed=1)
    for a, b, c in zip(one.parameters(), two.parameters(), three.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
        assert a.device.type == "cpu" and float(a.detach().abs().max()) <= 24 ** -0.5


def test_change_of_units_keeps_the_function():
    A, B, C, D = (draw(k, *shape) for k, shape in enumerate([(4, 4), (4, 3), (2, 4), (2, 3)]))
    A, v = 0.2 * A, draw(9, 4).exp()
    model = ImplicitModel.from_matrices(A, B, C, D, solver=Picard(1e-12))
    M = whole(model)
    new, U = change_units(M, v), draw(5, 7, 3)
    assert torch.equal(M, torch.cat([torch.cat([A, B], 1), torch.cat([C, D], 1)]))
    other = ImplicitModel.from_matrices(new[:4, :4], new[:4, 4:], new[4:, :4], new[4:, 4:],
                                        solver=Picard(1e-12))
    assert torch.allclose(other(U), model(U), atol=1e-9)
    assert torch.allclose(other.equilibrium(U).value * v, model.equilibrium(U).value, atol=1e-9)


def test_whole_of_a_sparse_model_without_feedthrough():
    model = ImplicitModel.from_network(network("conv", 3), (1, 8, 8))
    M = whole(model)
    assert M.layout == torch.strided and M.shape == (96 + 10, 96 + 64)
    assert torch.equal(M[:96, :96], model.A.detach().to_dense()) and (M[96:, 96:] == 0).all()


# ---- the pictures ---------------------------------------------------------------------------


def test_blocks_show_the_signed_square_root_and_names():
    M = mat([[0, 4.0, 0, 0, -1], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0] * 5, [0] * 5])
    figure = draw_blocks(M, BLOCKS, name="A")
    moved, ax = parts(figure), figure.axes[0]
    shown = moved["matrix"].get_array()
    assert shown[0].tolist() == [0, 1, 0, 0, -0.5] and shown[2].tolist() == [0, 0, 0, 0.5, 0]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x2", "x1"]
    assert ax.get_yticks().tolist() == [1, 3.5] and moved["title"].get_text() == "A"
    edges = moved["blocks"].get_xydata()
    assert edges[0].tolist() == [2, 0] and edges[3].tolist() == [0, 2]


def test_blocks_may_be_a_rectangle_with_a_scale_of_its_own():
    figure = draw_blocks(mat(np.ones((5, 2))), BLOCKS, [("u", 2)], scale=4)
    assert (parts(figure)["matrix"].get_array() == 0.5).all()
    texts = [parts(figure)[f"scale {sign}"].get_text() for sign in "−+"]
    assert texts == ["−4", "+4"] and len(figure.axes[0].child_axes) == 1
    same = draw_blocks(mat(9 * np.ones((5, 2))), BLOCKS, [("u", 2)], figure.axes[0], scale=4)
    assert same is figure and (parts(figure)["matrix"].get_array() == 1).all()


def test_a_large_matrix_is_thinned_without_losing_a_lone_entry():
    M = torch.zeros(1000, 1501, device="cpu", dtype=torch.float64)
    M[777, 1500] = -2.0
    figure = draw_blocks(M, [("x", 1000)], [("u", 1501)])
    shown = parts(figure)["matrix"].get_array()
    assert max(shown.shape) <= 420 and shown.min() == -1 and (shown != 0).sum() == 1
    row, column = np.argwhere(shown)[0]
    assert (row, column) == (777 // 4, 1500 // 4)


def test_names_follow_the_blocks_from_call_to_call():
    figure = draw_blocks(mat(np.eye(5)), BLOCKS)
    ax = figure.axes[0]
    for blocks in ([("x2", 1), ("x1", 4)], [("a", 1), ("b", 4)], [("x3", 2), ("x2", 2), ("x1", 9)]):
        n = sum(size for _, size in blocks)
        draw_blocks(mat(np.eye(n)), blocks, ax=ax)
        canvas.png(figure)
        assert [t.get_text() for t in ax.get_xticklabels()] == [name for name, _ in blocks]
        assert [t.get_text() for t in ax.get_yticklabels()] == [name for name, _ in blocks]
        assert ax.get_xlim() == (0, n) and ax.get_ylim() == (n, 0)


def test_row_sums_before_and_after():
    before, after = draw(0, 5, 5), 0.1 * draw(1, 5, 5)
    moved = parts(draw_rescaled_rows(before, after, BLOCKS, 0.7))
    for name, M in (("before", before), ("after", after)):
        sums = np.abs(M.numpy()).sum(1)
        np.testing.assert_allclose(moved[name].get_ydata()[::3], sums)
        assert f"{sums.max():.3g}" in moved[f"name {name}"].get_text()
    assert list(moved["kappa"].get_ydata()) == [0.7, 0.7]
    assert moved["edges"].get_xdata()[1:3].tolist() == [2, 2]


@pytest.mark.parametrize(("v", "low", "high"), [
    ([1, 1, 1, 1, 1], 1, 10), ([1, 20, 3, 4, 5], 1, 100), ([1, 900, 1, 1, 1], 1, 1e4),
    ([1 - 1e-12, 2, 2, 2, 2], 1, 10), ([0.02, 1, 1, 1, 1], 0.01, 10),
])
def test_units_on_decades_that_hold_them(v, low, high):
    figure = draw_units(mat(v), BLOCKS)
    assert figure.axes[0].get_ylim() == pytest.approx((low, high))
    np.testing.assert_allclose(parts(figure)["units"].get_ydata()[::3], v)
    assert draw_units(mat(v), BLOCKS, top=1e6).axes[0].get_ylim()[1] == 1e6


def test_rescaling_puts_the_three_side_by_side_and_updates_in_place():
    model = ImplicitModel.from_network(network(), (1, 8, 8))
    M, blocks = whole(model).double(), [(b.name, b.size) for b in model.blocks]
    A = M[:72, :72]
    figure = None
    for kappa in (0.9, 0.2):
        v = units(A, kappa)
        same = figure
        figure = draw_rescaling(change_units(M, v), A, v, blocks, kappa, 64, verdict="so",
                                      figure=figure)
        assert same in (None, figure) and len(figure.axes) == 3
        assert parts(figure)["verdict"].get_text() == "so"
        assert np.nanmax(parts(figure, 1)["after"].get_ydata()) <= kappa
        np.testing.assert_allclose(parts(figure, 2)["units"].get_ydata()[::3], v)


@pytest.mark.parametrize(("call", "fragments"), [
    (lambda: draw_blocks(draw(0, 5), BLOCKS), ["M", "2 axes", "(5,)"]),
    (lambda: draw_blocks(draw(0, 5, 4), BLOCKS), ["columns", "4", "5"]),
    (lambda: draw_blocks(draw(0, 4, 4), BLOCKS), ["rows", "4", "5"]),
    (lambda: draw_rescaled_rows(draw(0, 5, 5), draw(0, 4, 4), BLOCKS, 0.5), ["5", "4"]),
    (lambda: draw_rescaled_rows(draw(0, 4, 4), draw(0, 4, 4), BLOCKS, 0.5), ["blocks", "4"]),
    (lambda: draw_units(mat([1, 2, 0, 4, 5]), BLOCKS), ["positive"]),
    (lambda: draw_units(mat([1, 2, 3]), BLOCKS), ["blocks", "3", "5"]),
    (lambda: network("denze"), ["Did you mean 'dense'"]),
    (lambda: network(layers=0), ["layers", "at least 1"]),
])
def test_refusals(call, fragments):
    rejects(call, ValueError, *fragments)
