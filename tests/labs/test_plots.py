"""The pictures: what is plotted, not pixels; and that a redraw updates in place."""

from __future__ import annotations

import dataclasses
import importlib
import io
import pkgutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from helpers import pixels
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from idl_lab import labs
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.fixed_point.solution import Trace
from idl_lab.labs.fixed_points.plots import draw_convergence, draw_model, draw_state
from idl_lab.labs.kit import canvas
from idl_lab.labs.kit.plots import colour_bar, draw_history, draw_residuals, round_up
from idl_lab.labs.kit.problems import random_matrix, solve_quietly
from idl_lab.labs.start_here.plots import draw_digit
from idl_lab.labs.well_posedness import gallery as wp_gallery
from idl_lab.labs.well_posedness.plots import (
    draw_norm_bound,
    draw_paths,
    draw_row_sums,
    draw_spectrum,
    draw_weighted_norm,
)
from idl_lab.labs.well_posedness.problems import several_starts, spread
from idl_lab.runs import gallery

CPU = {"dtype": torch.float64, "device": "cpu"}


def problem(kappa: float = 0.9, n: int = 6, starts: int = 3):
    generator = torch.Generator("cpu").manual_seed(1)
    A = random_matrix(n, kappa, "positive", generator=generator)
    b = torch.full((starts, n), 0.1, **CPU)
    return A, b, several_starts(n, starts, generator=generator)


def moving(figure: Figure) -> dict:
    return {(k, name): part for k, ax in enumerate(figure.axes)
            for name, part in canvas.moving(ax).items()}


def test_residual_curves_are_the_traces():
    A, b, X0 = problem()
    solutions = {"Picard": solve_quietly(A, b, "relu", Picard(), X0),
                 "Anderson": solve_quietly(A, b, "relu", Anderson(), X0)}
    figure = draw_residuals(solutions, step=4, tol=1e-6)
    parts = moving(figure)
    for k, solution in enumerate(solutions.values()):
        worst = solution.trace.worst.numpy()
        np.testing.assert_array_equal(parts[0, f"rest {k}"].get_ydata(), worst)
        np.testing.assert_array_equal(parts[0, f"curve {k}"].get_ydata(), worst[:4])
        assert parts[0, f"dot {k}"].get_xdata() == [4]
        assert f"{solution.stats.steps} steps" in parts[0, f"name {k}"].get_text()


def test_a_failed_solve_is_named_in_its_curve():
    A, b, X0 = problem(kappa=1.4)
    solution = solve_quietly(A, b, "relu", Picard(max_steps=30), X0)
    text = moving(draw_residuals({"Picard": solution}))[0, "name 0"].get_text()
    assert text == "Picard: 30 steps, not converged"


def test_a_solve_that_overflowed_is_drawn():
    A, b, X0 = problem(kappa=1.4)
    solution = solve_quietly(A, b, "relu", Picard(max_steps=3000), X0)
    assert not torch.isfinite(solution.trace.worst).all()
    figure = draw_residuals({"Picard": solution})
    assert canvas.png(figure) and np.isfinite(figure.axes[0].get_ylim()).all()


def test_norm_bound_draws_eigenvalues_rows_and_ends():
    A, b, X0 = problem()
    solution = solve_quietly(A, b, "tanh", Picard(), X0)
    figure = draw_norm_bound(A, solution, 0.9, 1e-6, "words")
    parts = moving(figure)
    drawn = parts[0, "values"].get_xdata() + 1j * parts[0, "values"].get_ydata()
    expected = np.linalg.eigvals(A.numpy())
    assert np.abs(np.sort_complex(drawn) - np.sort_complex(expected)).max() < 1e-12
    bars = parts[2, "in"].get_ydata()
    np.testing.assert_allclose(bars[1::3], A.abs().sum(dim=1).numpy())
    assert parts[0, "verdict"].get_text() == "words"
    ends = {name for _, name in parts if name.startswith("end")}
    assert len(ends) == len(X0)


def test_rows_past_one_change_colour():
    A = torch.diag(torch.tensor([0.5, 1.5, 0.2], **CPU))
    parts = moving(draw_row_sums(A, 0.9))
    assert parts[0, "in"].get_ydata()[1::3].tolist() == [0.5, 0.2]
    assert parts[0, "out"].get_ydata()[1::3].tolist() == [1.5]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e200])
def test_a_state_out_of_range_stays_in_the_frame(value):
    goal = torch.ones(3, **CPU)
    state = torch.tensor([1.0, value, -1.0], **CPU)
    for known in (goal, None):
        figure = draw_state(state, known)
        dots = moving(figure)[0, "dots"].get_ydata()
        assert np.isfinite(dots).all() and dots.max() <= figure.axes[0].get_ylim()[1] <= 1201
    paths = torch.stack([state.expand(2, 3), goal.expand(2, 3)])
    figure = draw_paths(paths)
    assert all(np.isfinite(part.get_xydata()).all() for part in moving(figure).values()
               if hasattr(part, "get_xydata"))
    assert np.isfinite(figure.axes[0].get_xlim()).all()


def test_paths_have_a_scale_and_stay_within_it():
    figure = draw_paths(torch.tensor([[[0.5, 3.0]], [[-1.0, 2.0]]], **CPU))
    ax = figure.axes[0]
    assert ax.get_xlim() == ax.get_ylim() == (-4, 4) and len(ax.get_xticks()) >= 3
    path = moving(figure)[0, "path 0"]
    assert path.get_xdata().tolist() == [0.5, -1] and path.get_ydata().tolist() == [3, 2]


def test_one_component_is_drawn_against_the_step():
    states = torch.tensor([[[0.5], [-0.5]], [[1.0], [-1.0]]], **CPU)
    figure = draw_paths(states)
    assert moving(figure)[0, "path 0"].get_ydata().tolist() == [0, 1]
    assert figure.axes[0].get_ylabel() == "step"


def test_weighted_row_sums_meet_at_the_perron_frobenius_eigenvalue():
    A = torch.tensor([[0.2, -1.4], [0.1, 0.4]], **CPU)
    curves = {one.get_label(): one for one in draw_weighted_norm(A).axes[0].lines}
    t = curves["row 1"].get_xdata()
    np.testing.assert_allclose(curves["row 1"].get_ydata(), 0.2 + 1.4 * t)
    np.testing.assert_allclose(curves["row 2"].get_ydata(), 0.1 / t + 0.4)
    root = np.abs(np.linalg.eigvals(A.abs().numpy())).max()
    assert curves["the larger of both"].get_ydata().min() == pytest.approx(root, rel=0.01)


def test_rows_that_were_scaled_to_one_have_one_colour():
    A = torch.full((3, 3), 1 / 3, **CPU)
    A[0] *= 1 - 1e-15
    parts = moving(draw_row_sums(A))
    assert len(parts[0, "in"].get_xdata()) == 0 and len(parts[0, "out"].get_xdata()) == 9


def test_the_circles_are_named_beside_the_plane():
    figure = draw_spectrum(torch.tensor([[0.5, 5.0], [0.0, 0.5]], **CPU))
    ax, parts = figure.axes[0], moving(figure)
    right = max(line.get_xdata().max() for (_, name), line in parts.items()
                if not name.endswith("name"))
    for name in ("norm name", "pf name", "one name", "values name"):
        words = parts[0, name]
        assert ax.transData.inverted().transform(ax.transAxes.transform(
            words.get_position()))[0] > right
    assert "5.50" in parts[0, "norm name"].get_text() and "0.50" in parts[0, "pf name"].get_text()


def test_a_state_is_drawn_with_its_own_numbers():
    state, goal = torch.tensor([3.0, 40.0], **CPU), torch.tensor([10.0, 42.0], **CPU)
    figure = draw_state(state, goal)
    assert moving(figure)[0, "dots"].get_ydata().tolist() == [3, 40]
    assert moving(figure)[0, "rings"].get_ydata().tolist() == [10, 42]
    assert figure.axes[0].get_ylim() == pytest.approx((0, 60))
    alone = moving(draw_state(state, None))
    assert np.isnan(alone[0, "rings"].get_ydata()).all()


def test_a_digits_state_and_scores_have_a_scale():
    states = torch.tensor([[0.0, 0.0], [-1.0, 6.0]], **CPU)
    scores = torch.tensor([[0.0, 0.0], [-4.0, 2.0]], **CPU)
    _, _, bar, right = draw_digit(MATRIX, states, scores).axes
    assert [t.get_text() for t in bar.get_yticklabels()] == ["-7.5", "0", "7.5"]
    assert right.get_ylim() == (-5, 2) and len(right.get_yticks()) > 2


def test_a_second_call_updates_the_same_figure():
    A, b, X0 = problem()
    b = b / 10  # the ends stay among the starts, and so do the axes of the paths
    first = solve_quietly(A, b, "relu", Picard(), X0)
    figure = draw_norm_bound(A, first, 0.9, 1e-6, "a", max_steps=200)
    count = sum(len(ax.get_children()) for ax in figure.axes)
    canvas.png(figure)
    assert not figure.stale
    half = solve_quietly(A / 2, b, "relu", Picard(), X0)
    again = draw_norm_bound(A / 2, half, 0.45, 1e-6, "b", max_steps=200, figure=figure)
    assert again is figure
    assert sum(len(ax.get_children()) for ax in figure.axes) == count
    assert not figure.stale, "only moving parts changed, the frame is to be kept"


def test_a_redraw_gives_the_picture_of_a_fresh_one():
    A, b, X0 = problem()
    def draw(kappa, figure=None):
        solution = solve_quietly(A * kappa / 0.9, b, "tanh", Picard(max_steps=100), X0)
        return draw_norm_bound(A * kappa / 0.9, solution, kappa, 1e-6, max_steps=100,
                                     figure=figure)
    used = draw(0.3)
    canvas.png(used)
    again, fresh = canvas.png(draw(1.2, used)), canvas.png(draw(1.2))
    np.testing.assert_array_equal(pixels(again), pixels(fresh))
    assert np.abs(pixels(again) - pixels(canvas.png(draw(0.3)))).max() > 50


def test_fast_picture_shows_what_a_saved_one_shows():
    figure = wp_gallery.norm_bound()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    saved, fast = pixels(buffer.getvalue()), pixels(canvas.png(figure))
    assert saved.shape == fast.shape
    # The order of painting differs a little where lines cross the frame.
    assert (np.abs(saved - fast) > 60).mean() < 0.01


@pytest.mark.parametrize(("limits", "names"), [
    ((1e-8, 1e4), ["1e-8", "1e-6", "1e-4", "0.01", "1", "100", "10000"]),
    ((3e-13, 30), ["1e-12", "1e-10", "1e-8", "1e-6", "1e-4", "0.01", "1"]),
    ((1e-3, 1e2), ["1e-3", "0.01", "0.1", "1", "10", "100"]),
    ((1e-2, 1e12), ["0.01", "1", "100", "10000", "1e6", "1e8", "1e10", "1e12"]),
])
def test_a_logarithmic_axis_is_named_in_plain_numbers(limits, names):
    ax = canvas.axes(None)
    canvas.frame(ax, yscale="log", ylim=limits)
    ax.figure.canvas.draw()
    ticks = [tick.label1.get_text() for tick in ax.yaxis.get_major_ticks()
             if limits[0] <= tick.get_loc() <= limits[1] and tick.label1.get_visible()]
    assert ticks == names and ax.yaxis.get_minorticklocs().size == 0


@pytest.mark.parametrize(("size", "end"), [
    (0.3, 0.3), (1, 1), (1.01, 1.5), (2.4, 3), (8, 10), (100, 100), (101, 150), (0, 1e-12)])
def test_an_axis_ends_at_a_round_number(size, end):
    assert round_up(size) == pytest.approx(end, rel=1e-12)


def test_a_colour_bar_names_the_values_of_its_colours():
    bar = canvas.axes(None)
    colour_bar(bar, -2.0, 4.0)
    assert [t.get_text() for t in bar.get_yticklabels()] == ["-2", "0", "4"]
    assert bar.get_ylim() == (-0.5, 1)
    colour_bar(bar, 0.0, 50.0)
    assert [t.get_text() for t in bar.get_yticklabels()] == ["0", "50"]


def test_a_mosaic_is_laid_out_once_and_found_again():
    wide, *three = canvas.mosaic(None, ["aaa", "bcd"], 6, 4)
    assert wide.get_position().width > 2.5 * three[0].get_position().width
    assert wide.get_position().y0 > max(ax.get_position().y1 for ax in three)
    assert canvas.mosaic(wide.figure, ["aaa", "bcd"], 6, 4) == [wide, *three]


def test_a_packed_picture_keeps_its_colours():
    image = canvas.png(wp_gallery.norm_bound())
    packed = canvas.packed(image)
    there, here = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
                   for data in (image, packed))
    assert np.abs(there - here).max() < 16 and len(packed) < 0.5 * len(image)


def test_style_is_ours_whatever_the_user_set():
    with mpl.rc_context({"axes.spines.top": True, "font.size": 30}):
        figure = draw_state(torch.ones(3, **CPU), torch.ones(3, **CPU))
        assert not figure.axes[0].spines["top"].get_visible()
        assert mpl.rcParams["font.size"] == 30


def test_every_picture_is_in_the_gallery_and_committed():
    names = {name for topic in pkgutil.walk_packages(labs.__path__, f"{labs.__name__}.")
             if topic.name.endswith(".plots")
             for name in vars(importlib.import_module(topic.name)) if name.startswith("draw_")}
    made = set(gallery.gallery())
    assert {name for name in made if name.endswith(".png")} == {f"{name}.png" for name in names}
    # `make bench` measures and draws these.
    assert {p.name for p in gallery.FOLDER.iterdir()} == made | {
        "draw_bench.png", "draw_growth.png", "draw_pruning.png"}


# Each of these trains or solves for seconds; what they draw is looked at by the labs' own tests.
LONG = {"draw_attack", "draw_best_of", "draw_bound", "draw_certified", "draw_courses",
        "draw_lengths", "draw_path", "draw_reach", "draw_runs", "draw_samples",
        "draw_samples_needed", "draw_short_gradients", "draw_sparsity", "draw_stability",
        "draw_student", "draw_sweep", "draw_symmetries", "norm_bound"}


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_gallery_is_drawn_anew(long, tmp_path, monkeypatch, capsys):
    wanted = sorted(name for name in gallery.gallery() if (Path(name).stem in LONG) is long)
    monkeypatch.setattr("sys.argv", ["gallery", "--out", str(tmp_path),
                                     *[Path(name).stem for name in wanted]])
    gallery.main()
    assert sorted(p.name for p in tmp_path.iterdir()) == wanted
    assert len(capsys.readouterr().out.split()) == len(wanted) > 10
    for path in tmp_path.glob("*.png"):
        grey = pixels(path.read_bytes())
        assert grey.std() > 5, f"{path.name} is blank"


def test_a_film_keeps_its_frames_and_their_colours(tmp_path):
    def frames():
        figure = None
        for height in (0.2, 0.8):
            ax = canvas.axes(figure and figure.axes[0])
            canvas.line(ax, "bar", [0.5, 0.5], [0, height], color=canvas.COLOURS[3],
                        linewidth=40, solid_capstyle="butt")
            figure = ax.figure
            yield figure

    gallery.save(frames(), tmp_path / "film.gif")
    purple = []
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 2 and film.info["loop"] == 0
        for k in range(2):
            film.seek(k)
            colours = np.asarray(film.convert("RGB")).astype(int)
            purple.append(int((np.abs(colours - (0xCC, 0x79, 0xA7)).max(axis=2) < 8).sum()))
    assert purple[1] == pytest.approx(4 * purple[0], rel=0.05) and purple[0] > 500


def test_the_film_of_the_norm_bound_passes_one():
    verdicts = [figure.axes[0].texts[-1].get_text() for figure in wp_gallery.norm_bound_film()]
    assert 30 <= len(verdicts) <= 45
    assert "Guaranteed" in verdicts[0] and "agree" in verdicts[0]
    assert "No guarantee" in verdicts[-1] and "several equilibria" in verdicts[-1]


@pytest.mark.parametrize(("kind", "signs"), [
    ("positive", {1.0}), ("signed", {1.0, -1.0}), ("negative", {-1.0})])
def test_random_matrix_has_the_norm_and_the_signs(kind, signs):
    A = random_matrix(9, 1.3, kind, generator=torch.Generator("cpu").manual_seed(0))
    sums = A.abs().sum(dim=1)
    assert float(sums.max()) == pytest.approx(1.3, abs=1e-12)
    assert set(A.sign().flatten().tolist()) == signs
    assert float(sums.min()) == pytest.approx(1.3) or kind == "signed"


def test_spread_is_the_largest_distance_of_ends():
    starts = torch.tensor([[-1.0], [1.0]], **CPU)
    solution = solve_quietly(torch.tensor([[2.0]], **CPU), 0 * starts, "tanh", Picard(), starts)
    assert spread(solution) == pytest.approx(2 * 0.95750402, abs=1e-5)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n": 0}, "n must be at least 1, got 0"),
    ({"norm": -1.0}, "norm must be >= 0, got -1"),
    ({"kind": "positiv"}, "Did you mean 'positive'"),
])
def test_random_matrix_refuses(arguments, message):
    given = {"n": 3, "norm": 0.5, "kind": "signed"} | arguments
    with pytest.raises(ValueError, match=message):
        random_matrix(**given, generator=torch.Generator("cpu"))


def test_a_users_own_axes_show_everything_live():
    figure = Figure()
    FigureCanvasAgg(figure)
    A, b, X0 = problem()
    draw_residuals({"Picard": solve_quietly(A, b, "relu", Picard(), X0)},
                         ax=figure.add_subplot())
    figure.canvas.draw()
    colours = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].astype(int)
    blue = np.abs(colours - np.array([0x00, 0x72, 0xB2])).max(axis=2) < 8
    assert blue.sum() > 100


SOLVED = solve_quietly(*(t.to("cpu") for t in problem()[:2]), "relu", Picard())
STATELESS = dataclasses.replace(SOLVED, trace=Trace(SOLVED.trace.residuals))
VECTOR, MATRIX = torch.ones(3, **CPU), torch.eye(3, **CPU)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: draw_residuals({}), "at least one Solution"),
    (lambda: draw_residuals(VECTOR), "mapping of names to Solutions, got Tensor"),
    (lambda: draw_residuals({"a": 3}), "'a' must be a Solution, got int"),
    (lambda: draw_residuals({"a": SOLVED}, tol=-1.0), "tol must be > 0, got -1"),
    (lambda: draw_residuals({"a": SOLVED}, step=-1), "step must be at least 0, got -1"),
    (lambda: draw_convergence({"a": STATELESS}, VECTOR, 1), "keep_states=True"),
    (lambda: draw_norm_bound(MATRIX, STATELESS, 0.9), "keep_states=True"),
    (lambda: draw_row_sums(MATRIX * float("nan")), "A must be finite"),
    (lambda: draw_row_sums(VECTOR), r"A must have shape \(n, p\), got \(3,\)"),
    (lambda: draw_spectrum(VECTOR), r"A must have shape \(n, n\), got \(3,\)"),
    (lambda: draw_weighted_norm(MATRIX), "must be 2 × 2 with no zero off its diagonal"),
    (lambda: draw_paths(MATRIX), r"states must have 3 axes, got shape \(3, 3\)"),
    (lambda: draw_state(MATRIX, VECTOR), "state must have 1 axes"),
    (lambda: draw_state(VECTOR, MATRIX[0, :2]), "same size"),
    (lambda: draw_digit(MATRIX, MATRIX, MATRIX, step=-7), "step must be at least 0, got -7"),
    (lambda: draw_digit(VECTOR, MATRIX, MATRIX), "pixels must have 2 axes"),
    (lambda: draw_history(3), "history must be the table of training.fit, got int"),
    (lambda: draw_model({}), "at least one model"),
])
def test_pictures_refuse(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
