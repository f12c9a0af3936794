"""SIM without feedback: A keeps the teacher's order, exactly, under every solver and option."""

import numpy as np
import pytest
import torch
from helpers import draw
from sim_cases import optimum
from sim_students import batches_of, random_teacher, taught_sim
from torch import nn

from idl_lab.sim import SIM
from idl_lab.sim.problem import state_matching
from idl_lab.sim.solvers import (
    ADMMMultiGPUSolver,
    ADMMSolver,
    CVXSolver,
    LeastSquareSolver,
    ProjectedGDLowRankSolver,
)
from idl_lab.sim.solvers.distributed import _figures
from idl_lab.sim.states import gram_statistics

QUIET = {"progress": False}


class Residual(nn.Module):
    """The third layer reads the first and the second."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 7)
        self.last, self.phi, self.psi, self.chi = nn.Linear(7, 2), nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.double()

    def forward(self, u):
        x = self.phi(self.one(u))
        return self.last(self.chi(self.three(x + self.psi(self.two(x)))))


def teacher(kind="mlp", act=nn.ReLU):
    if kind == "mlp":
        return random_teacher(3, act)
    torch.manual_seed(0)
    return Residual()


def check_order(sim):
    """Each block reads earlier ones alone, and A is nilpotent."""
    A, end = sim.result.A, 0
    for block in sim.result.blocks:
        rows = slice(end, end + block.size)
        end += block.size
        assert not A[rows, :end].any() and not sim.model.A[rows, :end].any()
    assert A.any()
    assert not torch.linalg.matrix_power(A, len(sim.result.blocks)).any()
    assert sim.model.certificate().well_posed


SOLVERS = {
    "ADMM": ADMMSolver(device="cpu", **QUIET), "CVX": CVXSolver(**QUIET),
    "least squares": LeastSquareSolver(device="cpu", **QUIET),
    "workers": ADMMMultiGPUSolver(device="cpu", workers=1, **QUIET)}


@pytest.mark.parametrize("kind", ["mlp", "residual"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.filterwarnings("ignore:the student is poor")
def test_every_solver_keeps_the_order(solver, kind):
    check_order(taught_sim(teacher(kind), draw(1, 200, 6), SOLVERS[solver], feedback=False))


@pytest.mark.parametrize("options", [
    {"weigh": "adaptive", "refit": True}, {"weigh": "uniform", "regenerate_states": True},
    {"exact": True}, {"ridge": 0.1}, {"kappa": 0.3}, {"dtype": torch.float32},
    {"lambda_z": 0.0, "lambda_y": 0.0}], ids=str)
@pytest.mark.filterwarnings("ignore:the student is poor")
def test_every_option_keeps_the_order(options):
    check_order(taught_sim(teacher(), draw(1, 200, 6), feedback=False, **options))


def test_a_rank_is_refused():
    with pytest.raises(ValueError, match="rank of all of A.*feedback=False"):
        taught_sim(teacher(), draw(1, 100, 6), ProjectedGDLowRankSolver(rank=2, **QUIET),
                   feedback=False)


@pytest.mark.parametrize("kappa", [0.2, 0.99, 30.0])
def test_the_objective_is_cvxpys_on_the_samples(kappa):
    """Each layer's rows from the states of earlier layers and the inputs alone, as samples."""
    net, U = teacher(), draw(1, 60, 6)
    grams = gram_statistics(net, batches_of(U), progress=False)
    with torch.no_grad():
        Z = [net[:i](U) for i in (5, 3, 1)]
    X = [z.relu() for z in Z]
    p = state_matching(grams, kappa, 0.7, feedback=False)
    found, at = ADMMSolver(device="cpu", **QUIET).solve(p).stats.objective, 0
    for i, z in enumerate(Z):
        earlier = X[i + 1:]
        Phi = torch.cat([*earlier, U, torch.ones_like(U[:, :1])], 1).numpy()
        wanted = optimum(Phi, z.numpy(), lam=0.7, kappa=kappa,
                         ball=sum(x.shape[1] for x in earlier),
                         weights=1.0 * (np.arange(Phi.shape[1]) < Phi.shape[1] - 1))
        part = found[at:at + z.shape[1]].numpy()
        np.testing.assert_allclose(part, wanted, rtol=2e-6, atol=1e-6)
        at += z.shape[1]


def test_a_small_lambda_finds_the_teacher():
    sim = taught_sim(teacher("residual"), draw(1, 300, 6), lambda_z=1e-8, lambda_y=1e-8,
                     feedback=False)
    assert sim.fidelity(batches_of(draw(2, 100, 6))) > 1 - 1e-6


def test_a_refit_without_feedback_is_a_better_student_at_as_many_zeros():
    """On fresh samples, at the λ of a path that leave at most 30 % of the entries."""
    U, fresh = draw(1, 400, 6), batches_of(draw(2, 400, 6))

    def best(feedback):
        found = []
        for lam in (3.0, 10.0, 30.0):
            sim = taught_sim(teacher(), U, lambda_z=lam, lambda_y=lam, refit=True,
                             feedback=feedback)
            r = sim.result
            size = sum(M.numel() for M in (r.A, r.B, r.C, r.D))
            if sum(r.stats["nonzeros"].values()) <= 0.3 * size:
                found.append(sim.fidelity(fresh))
        return max(found)

    with pytest.warns(UserWarning, match="the student is poor"):
        assert best(False) > best(True) + 0.01


def test_without_feedback_any_radius_is_well_posed_and_a_tanh_teacher_is_kept():
    """tanh cannot be rescaled into the ball; its A is nilpotent, and needs none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))
    with torch.no_grad():
        net.double()[2].weight *= 6
    U, fresh, small = draw(1, 400, 6), batches_of(draw(2, 100, 6)), {
        "lambda_z": 1e-6, "lambda_y": 1e-6, "feedback": False}
    sim = taught_sim(net, U, kappa=100.0, **small)
    check_order(sim)
    assert sim.result.stats["inf_norm"] > 2 and sim.fidelity(fresh) > 1 - 1e-5
    with pytest.warns(UserWarning, match="the student is poor"):
        bounded = taught_sim(net, U, kappa=0.5, **small)
    assert bounded.result.stats["inf_norm"] <= 0.5 and bounded.fidelity(fresh) < 0.98
    with pytest.raises(ValueError, match="kappa must be >= 0 and < 1"):
        SIM(kappa=100.0)
    with pytest.raises(ValueError, match="kappa must be >= 0"):
        SIM(kappa=-1.0, feedback=False)


def test_training_on_keeps_the_order(tmp_path):
    sim = taught_sim(teacher(), draw(1, 200, 6), feedback=False, kappa=5.0)
    sim.save(tmp_path / "sim.pt")
    again = SIM.load(tmp_path / "sim.pt", device="cpu")
    assert torch.equal(again.model.A, sim.model.A) and not again.feedback
    model, U = sim.model, draw(3, 50, 6)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        model(U).square().mean().backward()
        optimiser.step()
    assert model.A.ne(again.model.A).any()
    check_order(sim)


def test_a_path_goes_from_nothing_to_the_teacher():
    sim = SIM(device="cpu", feedback=False, refit=True, progress=False)
    table = sim.path(ADMMSolver(device="cpu", **QUIET), teacher(), batches_of(draw(1, 300, 6)), 5)
    check_order(sim)
    assert table["nonzeros"].iloc[0] < table["nonzeros"].iloc[-1]
    assert 0 < table["nonzeros"].iloc[0] and table["fidelity"].iloc[-1] > 0.99


def test_ranks_that_differ_in_the_support_alone_are_told():
    grams = gram_statistics(teacher(), batches_of(draw(1, 60, 6)), progress=False)
    one, other = (state_matching(grams, 0.9, 0.1, feedback=which) for which in (True, False))
    assert _figures(one) != _figures(other)
    turned = state_matching(grams, 0.9, 0.1, feedback=False)
    object.__setattr__(turned, "support", turned.support.flip(0))
    assert _figures(other) == _figures(state_matching(grams, 0.9, 0.1, feedback=False))
    assert _figures(other) != _figures(turned)
