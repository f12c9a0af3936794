"""Every model's training step unwatched: no wait of the host, and the watched step's gradients."""

import pytest
import torch
from helpers import draw, rejects
from pretend_device import device_waits, pretend_device
from torch import nn
from training_cases import StandIn

from idl_lab import ImplicitModel, training
from idl_lab.equilibrium import Neumann, OneStep, Phantom, Unrolled
from idl_lab.fixed_point import Anderson, PeacemanRachford, Picard
from idl_lab.fixed_point.solution import Status
from idl_lab.layer import EquilibriumLayer
from idl_lab.training import fit
from idl_lab.unwatched import Unwatched


class F(nn.Module):
    """A map of the state that contracts."""

    def __init__(self):
        super().__init__()
        self.z, self.u = (nn.Linear(3, 3, dtype=torch.float64) for _ in range(2))

    def forward(self, z, u):
        return torch.tanh(0.3 * self.z(z) + self.u(u))


def model(**options):
    return lambda device: ImplicitModel(3, 2, 20, device=device, dtype=torch.float64, bias=True,
                                        kappa=0.5, **options)


MODELS = {
    **{f"constraint {c}": model(constraint=c)
       for c in ("scale", "row", "project", "perron", "triangular")},
    "no constraint": lambda device: ImplicitModel.from_matrices(
        *(draw(k, *s, scale=0.05).to(device) for k, s in enumerate([(20, 20), (20, 3), (2, 20)]))),
    "low rank": model(rank=3, constraint="row"),
    "Anderson": model(solver=Anderson()),
    "damped": model(solver=Picard(damping=0.9)),
    "tanh": model(activation="tanh"),
    **{f"{a}": model(adjoint=a) for a in (Unrolled(), OneStep(), Neumann(3), Phantom())},
    "a layer": lambda device: nn.Sequential(
        EquilibriumLayer(F()), nn.Linear(3, 2, dtype=torch.float64)).to(device),
}


def inputs(device):
    return draw(1, 20, 3).to(device), (torch.arange(20, device="cpu") % 2).to(device)


def gradients(built, U, y):
    built.zero_grad()
    nn.functional.cross_entropy(built(U), y).backward()
    return [p.grad for p in built.parameters()]


@pytest.mark.parametrize("case", MODELS)
def test_an_unwatched_step_waits_for_nothing_and_has_the_gradients(case):
    with pretend_device() as device:
        torch.manual_seed(0)
        built, (U, y) = MODELS[case](device), inputs(device)
        wanted = gradients(built, U, y)
        watch = Unwatched(start=40)
        device_waits()
        with watch.pass_through():
            found = gradients(built, U, y)
        assert not (seen := device_waits()), seen
        assert watch.worst and all(float(worst) <= 1 for worst in watch.worst)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one.held, other.held, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*captured training steps were short")
@pytest.mark.parametrize("case", MODELS)
def test_fit_replays_it(case, monkeypatch):
    monkeypatch.setattr(training, "Captured", StandIn)
    monkeypatch.setattr(training, "hindrance", lambda model, optimizer: None)

    def run(device, capture):
        torch.manual_seed(0)
        built = MODELS[case](device)
        table = fit(built, [inputs(device)] * 10, epochs=2, capture=capture, progress=False,
                    optimizer=torch.optim.SGD(built.parameters(), lr=0.1))
        return table, [*built.parameters()]

    wanted, parameters = run("cpu", None)
    with pretend_device() as device:
        table, found = run(device, "auto")
    assert table.attrs["captured"] == 19
    assert table["train_loss"].tolist() == pytest.approx(wanted["train_loss"].tolist(), rel=1e-4)
    for one, other in zip(found, parameters, strict=True):
        assert torch.allclose(one.held, other, rtol=1e-2, atol=1e-3)


def test_the_jacobians_penalty_is_part_of_the_step():
    with pretend_device() as device:
        torch.manual_seed(0)
        built, (U, y) = MODELS["a layer"](device), inputs(device)
        layer, watch = built[0], Unwatched(start=40)
        built(U)
        layer.jacobian_penalty()
        device_waits()
        with watch.pass_through():
            (nn.functional.cross_entropy(built(U), y) + layer.jacobian_penalty()).backward()
        assert not (seen := device_waits()), seen


def test_an_unwatched_solution_says_so():
    built, (U, _) = model()("cpu"), inputs("cpu")
    with Unwatched(start=40).pass_through():
        solution = built.equilibrium(U)
    assert solution.status is Status.UNWATCHED and solution.stats.steps == 41
    residual = (built.activation(solution.value @ built.A.mT + built.injection(U))
                - solution.value).abs().amax(dim=1)
    assert torch.allclose(solution.stats.residual, residual.detach(), rtol=1e-6, atol=1e-15)
    assert torch.allclose(solution.value, built.equilibrium(U).value, rtol=1e-5, atol=1e-5)


def test_what_has_no_plain_steps_is_refused():
    built, (U, _) = model(constraint="monotone", solver=PeacemanRachford())("cpu"), inputs("cpu")
    with Unwatched().pass_through():
        rejects(lambda: built(U), RuntimeError, "PeacemanRachford", "unwatched", "Picard()")
