"""The benchmark's arithmetic and refusals; speed itself is `make bench`'s to tell."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from pretend_device import device_waits, pretend_device
from torch import nn

from benchmarks import __main__ as command
from benchmarks import asides, byhand, contestants, report, sim, steps
from benchmarks.contestants import CONTESTANTS, KAPPA, OURS
from benchmarks.counts import Calls, peak
from benchmarks.plots import draw_bench
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.labs.kit import digits_teacher
from idl_lab.model import ImplicitModel
from idl_lab.sim.problem import state_matching
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.sim.states import gram_statistics

TIMES = pd.DataFrame({"torchidl": [2.0, 4.0, 8.0], "idl_lab": [1.0, 1.0, 2.0],
                      "floor of idl_lab": [0.5, 1.0, 1.0]})
MEMORY = pd.DataFrame({"Implicit": [10.0, 10, 11], "Unrolled": [20.0, 100, 1000]},
                      index=pd.Index([10, 100, 1000], name="fixed-point steps"))
SMALL = steps.Work("n = 12", 12, batch=16, digits=False)
THIN = steps.Work("n = 30, rank 10", 30, rank=10, batch=16, digits=False)
ROOT = Path(__file__).resolve().parents[2]
MODULES = {"torchidl": "torchidl", "torchdeq": "torchdeq", "silva": "silva_networks",
           "celer": "celer", "skglm": "skglm"}


# ---- the judge and the floor ----------------------------------------------------------------


def unrolled(state, U, labels):
    """The same gradients by autograd through a long loop."""
    state = {name: M.clone().requires_grad_() for name, M in state.items()}
    A = state["L"] @ state["R"].mT if "L" in state else (
        state["A"] * (KAPPA / state["A"].abs().sum(dim=1).amax()).clamp(max=1))
    X = torch.zeros(len(U), len(A), dtype=U.dtype)
    for _ in range(300):
        X = torch.relu(X @ A.mT + U @ state["B"].mT)
    loss = nn.functional.cross_entropy(X @ state["C"].mT + U @ state["D"].mT, labels)
    return dict(zip(state, torch.autograd.grad(loss, state.values()), strict=True))


@pytest.mark.parametrize("work", [SMALL, THIN], ids=lambda work: work.name)
@pytest.mark.parametrize("size", [0.1, 3.0])  # of the free matrix: inside the ball, and outside
def test_the_judges_gradient_is_that_of_a_long_loop(work, size):
    (U, labels), *_ = steps.batches(work)
    state = {name: M.double() for name, M in steps.trained(work, 5).items()}
    if "A" in state:
        state["A"] *= size / state["A"].abs().sum(dim=1).amax()
    wanted, found = unrolled(state, U.double(), labels), byhand.gradients(
        state, U.double(), labels, KAPPA)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-9, atol=1e-12)


def test_the_floor_does_the_work_of_a_step():
    """Its gradient of A is the judge's, and it makes the products that it is told to make."""
    given, state = steps.batches(SMALL), steps.trained(SMALL)
    floor = byhand.Floor(state, given, KAPPA, [(60, 50)] * len(given))
    with Calls(12) as calls:
        floor.step(1)
    assert calls.products == 110
    exact = byhand.gradients({k: M.double() for k, M in state.items()}, given[1][0].double(),
                             given[1][1], KAPPA)
    torch.testing.assert_close(floor.parameters["A"].grad.double(), exact["A"],
                               rtol=1e-4, atol=1e-7)


# ---- the contestants ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # torchidl's use of autograd is deprecated, and the like
@pytest.mark.parametrize(("name", "work"), [
    (name, work) for name, of in CONTESTANTS.items() for work in (SMALL, THIN)
    if of.tuned and (of.low_rank or not work.rank)],
    ids=lambda value: getattr(value, "name", value))
def test_every_contestant_solves_the_same_model(name, work):
    for word, module in MODULES.items():
        if name.startswith(word):
            pytest.importorskip(module, reason="`make bench` installs the peers")
    given, state = steps.batches(work, 2), steps.trained(work)
    judge = [byhand.gradients({k: M.double() for k, M in state.items()}, U.double(), y, KAPPA)
             for U, y in given]
    tight, loose = (steps.examine(CONTESTANTS[name], state, given, judge, (tol, tol))
                    for tol in (1e-7, 1e-1))
    assert tight.error < 1e-5 < loose.error
    assert loose.total < tight.total and loose.waits <= tight.waits
    assert (loose.waits == 0) == ("untested" in name)


def test_the_constraint_is_active_in_the_dense_works_and_idle_in_the_thin_one():
    """Else its price would not be in the times; torchidl's own of factors is another model."""
    assert steps.trained(SMALL)["A"].abs().sum(dim=1).amax() > KAPPA
    state = steps.trained(THIN)
    assert state["L"].abs().sum(dim=1).amax() < KAPPA
    assert state["R"].abs().sum(dim=0).amax() < KAPPA


# ---- equal accuracy -------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(1e-3, 1e-6), (1e-6, 1e-3), (1e-2, 1e-2)])
def test_tuning_ends_at_the_loosest_tolerances_that_do(limits):
    def look(tolerances):
        good = all(tol <= 1.001 * limit for tol, limit in zip(tolerances, limits, strict=True))
        cost = sum(1 / tol ** 0.1 for tol in tolerances)
        return steps.Tuned(tolerances, 1e-5 if good else 1e-2, [(cost, 0.0)], 0)

    assert steps.tune(look).tolerances == pytest.approx(limits)


def test_where_the_accuracy_is_out_of_reach_the_most_exact_is_kept():
    def look(tolerances):
        return steps.Tuned(tolerances, 1e-2 + abs(tolerances[0] - 1e-4), [(1.0, 1.0)], 0)

    assert steps.tune(look).tolerances[0] == pytest.approx(1e-4)


def test_the_ratios_are_medians_of_paired_ratios():
    table = steps.summary(TIMES)
    assert list(table.index) == ["torchidl", "idl_lab"]
    assert table["ms"].tolist() == [4.0, 1.0]
    assert table["of torchidl"].tolist() == [1.0, 0.25]  # of 1/2, 1/4, 1/4
    assert table["of its floor"]["idl_lab"] == 2.0  # of 2, 1, 2
    assert table.loc["torchidl", ["low", "high"]].tolist() == [3.0, 6.0]


def test_a_comparison_has_every_figure():
    names = (OURS, f"{OURS}, as it comes", "monDEQ, forward-backward", "explicit network")
    work = steps.Work("n = 12", 12, batch=16, digits=False, goal=0.5, contestants=names)
    table = steps.compare(work, 0.0)
    assert list(table.index) == list(names)
    tuned = table.loc[[OURS, "monDEQ, forward-backward"]]
    assert (tuned["gradient error"] <= steps.WANTED).all()
    assert (table[["ms", "forward", "backward", "MB"]] > 0).all(axis=None)
    assert table["of its floor"].notna().tolist() == [True, True, False, False]
    rows = report._rows(table)
    assert json.loads(json.dumps(rows)) == rows
    text = report.markdown(work.name, {"goal": 0.5, "rows": rows})
    assert len(text.splitlines()) == 6 and "nan" not in text


# ---- counts ---------------------------------------------------------------------------------


def test_products_are_counted_by_the_shape_of_A():
    A, L, R, X, C = (torch.randn(shape) for shape in ((9, 9), (9, 2), (9, 2), (4, 9), (2, 9)))
    with Calls(9, 2, C) as calls:
        torch.addmm(X, X, A.mT)
        (A @ X.mT), (X @ R) @ L.mT
        X @ C.mT, X.mT @ X, L @ R.mT, X @ torch.randn(9, 5)  # none of these
    assert calls.products == 3


def test_waits_are_those_of_the_pretend_device():
    with pretend_device() as device:
        model = ImplicitModel(3, 2, 8, device=device)
        U = torch.randn(5, 3, device=device)
        device_waits()
        model(U).sum().backward()
        there = sum(device_waits().values())
    torch.manual_seed(0)
    model, U = ImplicitModel(3, 2, 8), torch.randn(5, 3)
    with Calls(8) as calls:
        model(U).sum().backward()
    assert calls.waits == there > 0
    with Calls(8) as calls:
        U[U > 0] = 1
        U[0] = 1
    assert calls.waits == 1


def test_peak_memory_is_what_was_held_at_once():
    def two_at_once():
        first = torch.ones(2**18)
        second = first + 1
        del first
        return second + 1

    assert peak(two_at_once) == pytest.approx(2, rel=1e-3)


@pytest.mark.filterwarnings("ignore::idl_lab.fixed_point.solution.ConvergenceWarning")  # at 0
def test_unrolling_keeps_the_states_of_all_steps_and_the_implicit_gradient_does_not():
    """A state is 1 MB: n = 256, 1024 samples, float32."""
    assert 1 < asides.megabytes("Implicit", 100) < 20
    assert 100 < asides.megabytes("Unrolled", 100) < 120


# ---- the smaller comparisons ----------------------------------------------------------------


def test_anderson_needs_a_fifth_of_picards_steps_on_the_hard_instance():
    picard, anderson = (equilibrium(*asides.hard(), solver=solver).stats.steps
                        for solver in (Picard(1e-6, max_steps=10_000), Anderson(1e-6)))
    assert 200 < picard and anderson <= picard / 5


@pytest.mark.filterwarnings("ignore::idl_lab.fixed_point.solution.ConvergenceWarning")  # a row
@pytest.mark.parametrize("rows", [asides.monotone, asides.read_off], ids=lambda f: f.__name__)
def test_the_first_of_a_comparison_is_what_the_others_are_divided_by(rows):
    for name, row in rows(0.0).items():
        assert row["ms"] > 0 and (row["ratio"] == 1) == name.endswith(row["beside"])


def test_an_answer_is_judged_by_the_problem_and_not_by_its_solver():
    teacher, train, test = digits_teacher(0, epochs=2)
    found = sim.ours(ADMMSolver(progress=False), teacher, train, 1.0)
    problem = state_matching(gram_statistics(teacher, train, ones=False, progress=False), 0.99, 1.0)
    optimum = float(problem.dual(found.state).sum())
    row = sim.judge(found, problem, optimum, test)
    assert 0 <= row["above the optimum"] < 1e-6 and row["norm of A"] <= 0.99
    assert row["nonzeros"] < 0.9 * found.state.numel() and row["accuracy"] > 0.5
    worse = sim.judge(found._replace(state=1.5 * found.state), problem, optimum, test)
    assert worse["above the optimum"] > 0.01 and worse["norm of A"] > 0.99


def test_the_large_problem_has_the_tutorials_size_and_is_of_this_kind():
    problem = sim.large((112, 30), samples=60)
    assert problem.shape == (112, 142) and problem.ball == 112 and problem.kappa == 0.99
    values = torch.linalg.eigvalsh(problem.gram)
    assert values[-1] > 0 and (values < 1e-9 * values[-1]).any()  # 60 samples, 142 features


# ---- what is shown --------------------------------------------------------------------------


def test_the_picture_shows_each_time_its_floor_and_the_goal():
    figure = draw_bench({"n = 100": steps.summary(TIMES)}, {"n = 100": 0.4}, MEMORY)
    first, last = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["torchidl", "idl_lab"]
    lines = [list(line.get_xdata()) for line in first.lines]
    assert [1.0] in lines and [4.0] in lines  # the medians
    assert [x[1] for x in lines if len(x) == 2] == [0.5, pytest.approx(1.6)]  # floor and goal
    assert last.lines[1].get_ydata().tolist() == [20, 100, 1000]
    with pytest.raises(ValueError, match="at least one size"):
        draw_bench({}, {}, MEMORY)


def test_the_page_shows_the_kept_figures():
    found = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    assert list(found["works"]) == [work.name for work in steps.WORKS]
    for rows in (work["rows"] for work in found["works"].values()):
        tuned = {name for name in rows if name in CONTESTANTS and CONTESTANTS[name].tuned}
        assert all(rows[name]["gradient error"] <= found["wanted"] for name in tuned)
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.written(page, found) == page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.sentence(found) in " ".join(readme.split())


@pytest.mark.parametrize(("arguments", "missing", "fragment"), [
    (["--seconds", "0"], False, "at least 1, got 0"),
    (["stpes"], False, "parts are steps, sim, real, pruning, forward, panels, large, got stpes"),
    ([], True, "`make bench` installs"),
    (["real"], True, "celer"),
    (["--before", "no/such/folder"], False, "No such file"),
    (["--before", str(ROOT / "docs")], False, "there is no idl_lab in"),
])
def test_refusals(arguments, missing, fragment, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    for module in MODULES.values():
        monkeypatch.setitem(sys.modules, module, None if missing else sys)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2 and fragment in capsys.readouterr().err


def test_a_parameter_is_found_by_its_matrix():
    model = ImplicitModel(3, 2, 4)
    assert contestants.parameter(model, "A") is model.free_A
    assert contestants.parameter(model, "B") is model.B


def test_another_checkout_stands_beside_this_one():
    package = contestants.checkout(ROOT)
    assert package.ImplicitModel is not ImplicitModel
    assert sys.modules["idl_lab.model"].ImplicitModel is ImplicitModel
    state = steps.trained(SMALL)
    for name, contestant in contestants.before(ROOT).items():
        assert name.startswith(f"{OURS} before")
        U = torch.randn(4, 64)
        torch.testing.assert_close(contestant.build(state, 1e-6, 1e-6)(U),
                                   CONTESTANTS[OURS].build(state, 1e-6, 1e-6)(U))
