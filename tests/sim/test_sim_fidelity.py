"""How good a student is: R² against its teacher, told when it is poor, true after training."""

import math
import warnings

import numpy as np
import pytest
import torch
from helpers import draw
from hypothesis import given
from hypothesis import strategies as st
from sim_students import batches_of, r_squared, random_teacher, taught_sim
from torch import nn

from idl_lab.networks import Block
from idl_lab.sim import SIM
from idl_lab.sim.hooks import States
from idl_lab.sim.score import Explained, Sample
from idl_lab.sim.solvers import ADMMSolver, LeastSquareSolver

pytestmark = pytest.mark.filterwarnings("ignore:(state|output) matching stopped early")
quiet = pytest.mark.filterwarnings("ignore:the student is poor")


def outputs(result, phi, U, steps=400):
    """What the matrices of a result predict, by plain repetition in numpy."""
    A, B, C, D = (np.asarray(M) for M in (result.A, result.B, result.C, result.D))
    b, d = (np.zeros(()) if v is None else np.asarray(v)
            for v in (result.state_bias, result.output_bias))
    X = np.zeros((len(U), len(A)))
    for _ in range(steps):
        X = phi(X @ A.T + U @ B.T + b)
    return X @ C.T + U @ D.T + d


@quiet
@pytest.mark.parametrize("bias", [True, False])
def test_fidelity_is_the_r_squared_of_the_outputs(bias):
    teacher = random_teacher(3, bias=bias)
    U, fresh = draw(1, 300, 6), draw(2, 200, 6)
    sim = taught_sim(teacher, U, lambda_z=3.0, lambda_y=3.0)
    with torch.no_grad():
        Y, fresh_Y = teacher(U).numpy(), teacher(fresh).numpy()

    def relu(S):
        return np.maximum(S, 0)

    wanted = r_squared(outputs(sim.result, relu, U.numpy()), Y)
    assert 0.2 < wanted < 0.98  # a student that is worth measuring
    assert sim.result.fidelity == sim.result.stats["fidelity"] == pytest.approx(wanted, abs=1e-5)
    assert sim.fidelity(batches_of(fresh)) == pytest.approx(
        r_squared(outputs(sim.result, relu, fresh.numpy()), fresh_Y), abs=1e-5)
    # Against targets it is what evaluate gives.
    assert sim.fidelity(batches_of(fresh)) == pytest.approx(
        sim.evaluate(batches_of(fresh, torch.from_numpy(fresh_Y))), abs=1e-12)
    assert sim.result.stats["fidelity_samples"] == 300 and "fidelity 0." in repr(sim.result)


@quiet
def test_the_fit_of_a_layer_is_centred():
    teacher = random_teacher(2)
    teacher[-1].bias.data += 1e3  # of which the sum of squares is nearly all
    U = draw(1, 300, 6)
    sim = taught_sim(teacher, U, lambda_z=3.0, lambda_y=3.0)
    with torch.no_grad():
        hidden = teacher[1](teacher[0](U))
        last = teacher[2](hidden)
        states = torch.cat([teacher[3](last), hidden, U, torch.ones(300, 1)], dim=1)
    result, v = sim.result, sim.result.units
    W = torch.cat([result.C / v, result.D, result.output_bias[:, None]], dim=1)
    wanted = r_squared((states @ W.T).numpy(), teacher(U).detach().numpy())
    assert result.stats["fit"]["output"] == pytest.approx(wanted, abs=1e-5) and wanted < 0.9999
    W = torch.cat([result.A / v, result.B, result.state_bias[:, None]], dim=1)[:5]
    wanted = r_squared((states @ W.T).numpy(), (last / v[:5]).numpy())
    assert result.stats["fit"]["3 (ReLU)"] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("act", "depth", "options", "cause"), [
    (nn.Tanh, 2, {}, "tanh is not positively homogeneous"),
    (nn.ReLU, 4, {"rescale": False}, "rescale=False"),
    (nn.ReLU, 3, {"lambda_z": 100.0, "lambda_y": 100.0}, "a smaller λ may mend it"),
])
def test_a_poor_student_is_told_of_with_the_cause(act, depth, options, cause):
    teacher = random_teacher(depth, act)
    for part in teacher[::2]:
        part.weight.data *= 2
    with pytest.warns(UserWarning, match="the student is poor") as caught:
        sim = taught_sim(teacher, draw(1, 300, 6), **options)
    assert sim.result.fidelity < 0.99
    told = [w for w in caught if "the student is poor" in str(w.message)]
    assert len(told) == 1 and cause in str(told[0].message)
    assert f"{sim.result.fidelity:.3g} of the variance" in str(told[0].message)
    assert told[0].filename.endswith("sim_students.py")  # where train was called


def test_a_good_student_is_not_complained_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sim = taught_sim(random_teacher(3), draw(1, 300, 6))
    assert sim.result.fidelity > 0.999


def test_a_student_without_a_solution_has_no_fidelity_to_boast_of():
    teacher = random_teacher(3)
    with pytest.warns(UserWarning, match="the student is poor"):
        sim = taught_sim(teacher, 1e3 * draw(1, 9, 6), solver=LeastSquareSolver(device="cpu"),
                         rescale=False)  # fewer samples than columns: A is anything
    assert sim.result.fidelity < 0


def test_where_the_teacher_is_constant_there_is_no_figure():
    teacher = random_teacher(2)
    teacher[-1].weight.data.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sim = taught_sim(teacher, draw(1, 100, 6))
    assert math.isnan(sim.result.fidelity) and sim.result.stats["fit"]["output"] == 1.0


def test_a_generator_is_enough():
    """The data are passed over once: the outputs that are compared come from that pass."""
    teacher, U = random_teacher(2), draw(1, 300, 6)
    once, again = taught_sim(teacher, U), SIM(device="cpu", progress=False, dtype=torch.float64)
    again.train(ADMMSolver(progress=False, device="cpu"), teacher, (u for u in U.split(64)))
    assert again.result.fidelity == pytest.approx(once.result.fidelity, abs=1e-9)


def test_figures_are_of_the_fit_and_say_so_once_the_model_has_moved(tmp_path):
    teacher, U = random_teacher(2), draw(1, 200, 6)
    sim = taught_sim(teacher, U)
    fitted, good = sim.result, sim.fidelity(batches_of(U))
    assert sim.model.moved() == 0 and len(fitted.notes) == 1
    with torch.no_grad():
        sim.model.free_B.mul_(0.7)
    assert sim.model.moved() == pytest.approx(0.3)
    assert "trained on since" in sim.result.notes[-1] and "30.0%" in sim.result.notes[-1]
    assert sim.result.fidelity == fitted.fidelity and torch.equal(sim.result.B, fitted.B)
    assert sim.fidelity(batches_of(U)) < good - 0.01
    sim.save(tmp_path / "moved.pt")
    again = SIM.load(tmp_path / "moved.pt", device="cpu")
    assert "30.0%" in again.result.notes[-1] and len(again.result.notes) == 2
    assert again.fidelity(batches_of(U), teacher) == sim.fidelity(batches_of(U))
    with pytest.raises(RuntimeError, match="a file keeps no teacher"):
        again.fidelity(batches_of(U))


@given(st.integers(1, 40), st.lists(st.integers(1, 17), min_size=1, max_size=8))
def test_a_sample_is_bounded_and_pairs_what_belongs_together(size, sizes):
    sample, seen = Sample(size), 0
    blocks = (Block("x", 1, None),)

    def stream():
        start = 0
        for m in sizes:
            U = torch.arange(start, start + m, dtype=torch.float64, device="cpu")[:, None]
            start += m
            yield blocks, States(U, U, U, 3 * U)

    seen = [len(batch.U) for _, batch in sample.watching(stream())]
    _, U, Y = sample.kept
    assert seen == sizes and len(U) == min(size, sum(sizes))
    assert torch.equal(Y, 3 * U) and len(U.unique()) == len(U)


def test_a_sample_prefers_no_part_of_the_stream():
    sample = Sample(400)
    U = torch.arange(20_000, dtype=torch.float64, device="cpu")[:, None]
    for _ in sample.watching(((), States(u, u, u, u)) for u in U.split(100)):
        pass
    # The mean of 400 of 0 … 19,999 has a standard deviation of 289.
    assert abs(float(sample.kept[1].mean()) - 10_000) < 4 * 289


def test_r_squared_and_its_error_at_a_large_offset():
    rng = np.random.default_rng(0)
    Y = 1e7 + rng.standard_normal((500, 3))
    P = Y + 0.3 * rng.standard_normal((500, 3))
    seen = Explained()
    for part in np.array_split(np.arange(500), 7):
        seen.add(torch.from_numpy(P[part]), torch.from_numpy(Y[part]))
    found = seen.score("r2")
    missed = ((P - Y) ** 2).sum(1)
    spread = ((Y - Y.mean(0)) ** 2).sum()
    assert found.value == pytest.approx(1 - missed.sum() / spread, abs=1e-8)
    assert found.error == pytest.approx(missed.std() * 500 ** 0.5 / spread, rel=1e-6)
    assert (found.kind, found.samples) == ("r2", 500)
