"""SIM along λ: a table, each row the fit of its λ, and a rule that chooses."""

import math

import pytest
import torch
from helpers import draw
from sim_students import batches_of, random_teacher, taught_sim

from idl_lab.sim import SIM
from idl_lab.sim.path import choose, powers_of_ten
from idl_lab.sim.score import Score
from idl_lab.sim.solvers import ADMMSolver

pytestmark = [pytest.mark.filterwarnings("ignore:the student is poor"),
              pytest.mark.filterwarnings("error:(state|output) matching")]
SOLVER = ADMMSolver(device="cpu", progress=False)
LAMBDAS = (10.0, 1.0, 0.1, 0.01)


class Counted(list):
    """A loader that counts the batches that it gave."""

    given = 0

    def __iter__(self):
        for batch in list.__iter__(self):
            self.given += 1
            yield batch


def bare(**options):
    return SIM(**{"device": "cpu", "progress": False, "dtype": torch.float64} | options)


@pytest.fixture(scope="module")
def walked():
    teacher, U, V = random_teacher(3), draw(1, 400, 6), draw(2, 300, 6)
    with torch.no_grad():
        labels = teacher(V).argmax(dim=1)
    loader, sim = Counted(batches_of(U)), bare()
    table = sim.path(SOLVER, teacher, loader, LAMBDAS[::-1], val_loader=batches_of(V, labels))
    return teacher, U, V, labels, loader, sim, table


def test_a_row_is_the_fit_of_its_lambda(walked):
    teacher, U, V, labels, loader, _, table = walked
    assert loader.given == len(loader)
    assert tuple(table.index) == LAMBDAS and table.index.name == "lambda"
    assert list(table.columns) == ["accuracy", "fidelity", "nonzeros", "gap", "status", "seconds",
                                   "chosen"]
    assert (table.gap <= 1e-6).all() and (table.status == "SOLVED").all()
    for lam, row in table.iterrows():
        alone = taught_sim(teacher, U, lambda_z=lam, lambda_y=lam)
        assert row.fidelity == pytest.approx(alone.result.fidelity, abs=1e-3)
        assert row.accuracy == pytest.approx(alone.evaluate(batches_of(V, labels)), abs=0.011)
        assert row.nonzeros == pytest.approx(sum(alone.result.stats["nonzeros"].values()), rel=0.05)


def test_the_sim_is_the_one_that_was_chosen(walked):
    teacher, _, V, labels, _, sim, table = walked
    (lam,) = table.index[table.chosen]
    best = table.accuracy.max()
    error = math.sqrt(best * (1 - best) / 300)
    assert lam == max(k for k in LAMBDAS if table.accuracy[k] >= best - error)
    assert sim.lambda_z == sim.lambda_y == lam and lam > min(LAMBDAS)
    assert sim.evaluate(batches_of(V, labels)) == table.accuracy[lam]
    assert sim.result.fidelity == table.fidelity[lam]
    assert sim.fidelity(batches_of(V)) < 1  # it knows its teacher


def test_without_targets_the_fidelity_chooses_and_a_tolerance_is_taken():
    teacher, U = random_teacher(2), draw(1, 300, 6)
    sim = bare(refit=True)
    table = sim.path(SOLVER, teacher, batches_of(U), 4, within=0.05)
    assert "accuracy" not in table and len(table) == 4
    ratios = table.index[:-1] / table.index[1:]
    assert ratios.to_numpy() == pytest.approx([10, 10, 10])
    good = table.fidelity >= table.fidelity.max() - 0.05
    assert table.index[table.chosen][0] == table.index[good].max()
    with torch.no_grad():
        assert "r2" in bare().path(SOLVER, teacher, batches_of(U), [1.0],
                                   val_loader=batches_of(U, teacher(U)))


def test_the_first_lambda_of_a_number_of_them_is_just_below_the_empty_model():
    teacher, U = random_teacher(2), draw(1, 300, 6)
    for how in ("standard", "uniform"):
        sim = bare(weigh=how)
        (first,) = sim.path(SOLVER, teacher, batches_of(U), 1).index
        counts = sim.path(SOLVER, teacher, batches_of(U), [10 * first, first]).nonzeros
        assert counts.iloc[0] == 0 < counts.iloc[1]


def scores(*values, error=0.02):
    return [Score("fidelity", value, error, 100) for value in values]


@pytest.mark.parametrize(("found", "within", "at"), [
    (scores(0.1, 0.5, 0.89, 0.9, 0.905), None, 2),
    (scores(0.1, 0.5, 0.89, 0.9, 0.905), 0.0, 4),
    (scores(0.1, 0.5, 0.89, 0.9, 0.905), 0.5, 1),
    (scores(0.9, 0.5, 0.2), None, 0),
    (scores(math.nan, -math.inf, 0.3), None, 2),
    (scores(math.nan, math.nan), None, 1),
    (scores(0.5), None, 0),
])
def test_the_largest_lambda_within_one_standard_error_is_chosen(found, within, at):
    assert choose(found, within) == at


def test_powers_of_ten():
    assert powers_of_ten(437.0, 3) == [100.0, 10.0, 1.0] and powers_of_ten(0.0, 1) == [1.0]
    assert powers_of_ten(0.02, 2) == pytest.approx([0.01, 0.001])


@pytest.mark.parametrize(("options", "lambdas", "said"), [
    ({"exact": True}, [1.0], "a path goes along λ, and exact=True uses none"),
    ({}, [], "needs a λ"), ({}, [1.0, 0.0], "λ must be > 0"), ({}, [-1.0], "λ must be > 0"),
    ({}, 0, "lambdas must be at least 1"),
])
def test_what_is_no_path_is_refused(options, lambdas, said):
    with pytest.raises(ValueError, match=said):
        bare(**options).path(SOLVER, random_teacher(1), [draw(0, 30, 6)], lambdas)
