"""A student is trained on: no accuracy is lost, its zeros stay, its bound is kept."""

import copy
import pickle

import pytest
import torch
from helpers import draw
from sim_students import batches_of, r_squared, random_teacher, taught_sim
from torch import nn

from idl_lab import training
from idl_lab.labs.kit.problems import digits_teacher
from idl_lab.model import ImplicitModel
from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver, LeastSquareSolver
from idl_lab.sim.student import Student

pytestmark = [pytest.mark.filterwarnings("ignore:the student is poor"),
              pytest.mark.filterwarnings("ignore:(state|output) matching stopped early"),
              pytest.mark.filterwarnings("ignore:activation .* is expansive")]
NAMES = ("A", "B", "C", "D", "state_bias", "output_bias")


def trained_on(model, batches, loss, optimizer=torch.optim.Adam, lr=1e-3, epochs=2):
    """A plain torch loop."""
    steps = optimizer(model.parameters(), lr)
    for _ in range(epochs):
        for U, target in batches:
            steps.zero_grad()
            loss(model(U), target).backward()
            steps.step()
    return model


def zeros(model):
    return [getattr(model, name) == 0 for name in NAMES if getattr(model, name) is not None]


def in_ball(model, kappa=0.99):
    rows = model.A.detach().double().abs().sum(dim=1)
    return bool((rows * model.slopes.double().clamp(min=1) <= kappa).all())


@pytest.mark.parametrize("seed", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2))])
def test_two_epochs_of_adam_lose_no_point_of_the_digits(seed):
    teacher, train, test = digits_teacher(seed, biases=seed % 2 == 1)
    sim = SIM(device="cpu", progress=False, lambda_z=0.1, lambda_y=0.1).train(
        ADMMSolver(progress=False, device="cpu"), teacher, train)
    start, empty = sim.evaluate(test), zeros(sim.model)
    share = sum(int(T.sum()) for T in empty) / sum(T.numel() for T in empty)
    assert share > 0.4 and in_ball(sim.model)
    for epoch in range(2):
        training.fit(sim.model, train, epochs=1, lr=1e-3, progress=False)
        assert sim.evaluate(test) >= start - 0.01 - 1e-9, epoch
    for before, after in zip(empty, zeros(sim.model), strict=True):
        assert torch.equal(before, after)
    assert in_ball(sim.model) and sim.model.certificate().well_posed and sim.model.moved() > 0.01


@pytest.mark.parametrize(("depth", "act"), [(2, nn.ReLU), (5, nn.ReLU), (3, nn.Tanh),
                                            (3, nn.GELU)])
@pytest.mark.parametrize("correlated", [False, True])
def test_so_of_random_teachers(depth, act, correlated):
    teacher, mix = random_teacher(depth, act), draw(9, 6, 6) if correlated else torch.eye(6)
    U, fresh = draw(1, 600, 6) @ mix.double(), draw(2, 600, 6) @ mix.double()
    with torch.no_grad():
        Y, wanted = teacher(U), teacher(fresh)
    sim = taught_sim(teacher, U, lambda_z=1e-2, lambda_y=1e-2)
    start, empty = sim.fidelity(batches_of(fresh)), zeros(sim.model)
    trained_on(sim.model, batches_of(U, Y, 30), nn.functional.mse_loss)
    assert r_squared(sim.model(fresh).detach(), wanted) >= start - 0.01
    assert all(torch.equal(a, b) for a, b in zip(empty, zeros(sim.model), strict=True))
    assert in_ball(sim.model) and sim.model.certificate().well_posed


def test_training_makes_a_poor_student_better():
    teacher, U = random_teacher(3), draw(1, 300, 6)
    with torch.no_grad():
        Y = teacher(U)
    sim = taught_sim(teacher, U, lambda_z=5.0, lambda_y=5.0)
    start = sim.fidelity(batches_of(U))
    trained_on(sim.model, batches_of(U, Y, 30), nn.functional.mse_loss, lr=1e-2, epochs=10)
    assert start < 0.95 and sim.fidelity(batches_of(U)) > start + 0.5 * (1 - start)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_the_bound_is_kept_however_rough_the_steps(optimizer):
    teacher, U = random_teacher(3, nn.GELU), draw(1, 200, 6)
    sim = taught_sim(teacher, U, lambda_z=1.0, lambda_y=1.0, dtype=torch.float32)
    empty = zeros(sim.model)
    trained_on(sim.model, batches_of(U.float(), 5 * draw(3, 200, 2).float()),
               nn.functional.mse_loss, optimizer, lr=0.5)
    assert in_ball(sim.model) and sim.model.certificate().condition.name == "NORM"
    assert all(torch.equal(a, b) for a, b in zip(empty, zeros(sim.model), strict=True))


def test_a_solver_without_the_bound_leaves_a_model_without_it():
    sim = taught_sim(random_teacher(2), draw(1, 200, 6), LeastSquareSolver(device="cpu"),
                     rescale=False)
    assert sim.result.stats["inf_norm"] > 1 and sim.model.constraint is None
    torch.testing.assert_close(sim.model.A.detach(), sim.result.A)


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU, nn.Mish])
@pytest.mark.parametrize("depth", [2, 3])
def test_students_of_steep_activations_are_certified(act, depth):
    sim = taught_sim(random_teacher(depth, act), draw(1, 300, 6))
    L, certificate = sim.model.activation.slope, sim.model.certificate()
    assert L > 1.05 and certificate.well_posed and certificate.margin >= 0.01 - 1e-12
    assert sim.result.stats["inf_norm"] <= 0.99 / L * (1 + 1e-12)
    assert f"{L:.3g}·‖A‖∞" in certificate.sentence


def test_a_steep_layer_is_no_burden_for_the_others():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.GELU(),
                            nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    for layer in (2, 4):
        teacher[layer].weight.data *= 4
    model = taught_sim(teacher, draw(1, 300, 6)).model
    rows = model.A.detach().abs().sum(dim=1)
    assert rows[:5].max() > 0.98  # of ReLU: a radius of κ
    assert 0.87 < rows[5:10].max() <= 0.99 / model.activation.slope
    found = model.certificate()
    assert found.condition.name == "NORM" and "‖LA‖∞ = 0.99" in found.sentence


def small(scale=0.1):
    matrices = [scale * draw(k, *shape) for k, shape in enumerate([(5, 5), (5, 3), (2, 5), (2, 3)])]
    model = Student.from_matrices(*matrices, kappa=0.6, constraint="row",
                                  state_bias=draw(5, 5), output_bias=draw(6, 2))
    units = {name: draw(10 + k, *getattr(model, name).shape).abs() for k, name in enumerate(NAMES)}
    units["B"][2, 1] = 0
    return model.in_units(units, torch.full((5,), 1.0).double())


def test_it_is_the_model_of_its_matrices():
    model, U = small(), draw(20, 7, 3)
    assert [name for name, _ in model.named_parameters()] == [f"free_{name}" for name in NAMES]
    assert model.B[2, 1] == 0
    plain = ImplicitModel.from_matrices(
        *(getattr(model, name).detach() for name in "ABCD"),
        state_bias=model.state_bias.detach(), output_bias=model.output_bias.detach())
    torch.testing.assert_close(model(U), plain(U), rtol=0, atol=1e-12)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(U), model(U))
    fresh = small(0.05)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(U), model(U))
    assert model.to(torch.float32).A.dtype == torch.float32


def test_gradients_are_those_of_the_matrices_times_the_units():
    model, U = small(0.5), draw(20, 7, 3)
    model(U).square().sum().backward()
    for name in NAMES:
        free, unit = getattr(model, f"free_{name}"), getattr(model, f"unit_{name}")
        at = tuple(0 for _ in free.shape)
        step = 1e-6
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                free[at] += sign * step
                values.append(float(model(U).square().sum()))
                free[at] -= sign * step
        assert float(free.grad[at]) == pytest.approx((values[0] - values[1]) / (2 * step),
                                                     rel=1e-5, abs=1e-6)
        assert unit[at] > 0
    assert model.free_B.grad[2, 1] == 0


def test_matrices_can_be_assigned():
    model = small()
    for name, shape in {"A": (5, 5), "B": (5, 3), "C": (2, 5), "D": (2, 3)}.items():
        value = 0.05 * draw(40, *shape)
        for kind in (lambda T: T, nn.Parameter):
            setattr(model, name, kind(value))
            wanted = value * (getattr(model, f"unit_{name}") > 0)
            torch.testing.assert_close(getattr(model, name).detach(), wanted)
    assert model.moved() > 0 and len(list(model.parameters())) == 6
