"""Everything that runs on a device gives the CPU's numbers there, mixes nothing, waits seldom.

The pretend device, which every machine has, is held to the last digits; so is a GPU where there is
one, but for the order in which it sums.
"""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
import sim_cases
import torch
from helpers import draw, rejects
from pretend_device import (
    Pretend,
    device_launches,
    device_waits,
    pretend_device,
    products_elsewhere,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_leaves

from idl_lab import EquilibriumLayer, ImplicitModel, ImplicitRNN, compose, torchidl
from idl_lab.constraints import CONSTRAINTS
from idl_lab.data import load, spiky
from idl_lab.equilibrium import Implicit, OneStep, Unrolled
from idl_lab.fixed_point import Anderson, Broyden, Newton, PeacemanRachford, Picard
from idl_lab.layer import ImplicitGraph, normalised_adjacency
from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver, CVXSolver, LeastSquareSolver, ProjectedGDLowRankSolver
from idl_lab.training import evaluate, fit
from idl_lab.well_posedness import inf_norm, perron_frobenius, rescale

N = 20


def make(device, n=N, **options):
    """A model of float64, so that the number of steps does not hang on rounding."""
    options = {"bias": True, "kappa": 0.9} | options
    built = ImplicitModel(3, 2, n, **drawn(device), **options)
    # An eigenvector's sign, from which the monotone constraint starts, is the device's own.
    built.load_state_dict(ImplicitModel(3, 2, n, **drawn("cpu"), **options).state_dict())
    return built


def drawn(device):
    """On the device, its numbers drawn by the CPU: a GPU's own would be others."""
    return {"device": device, "dtype": torch.float64,
            "generator": torch.Generator("cpu").manual_seed(0)}


def inputs(device, *shape):
    return draw(1, *(shape or (7, 3))).to(device)


def step(model, *given):
    """What a training step leaves: predictions and gradients."""
    predictions = model(*given)
    predictions.square().sum().backward()
    return [predictions, *(p.grad for p in model.parameters())]


def model(device, **options):
    built = make(device, **options)
    return step(built, inputs(device)), built.equilibrium(inputs(device)).value, built.A


def free(device, **options):
    A, B, C = (draw(k, *shape, scale=0.05).to(device)
               for k, shape in enumerate([(N, N), (N, 3), (2, N)]))
    return step(ImplicitModel.from_matrices(A, B, C, **options), inputs(device))


def network(device, last, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), last, nn.Linear(5, 2))
    built = ImplicitModel.from_network(net.double().to(device), **options)
    return step(built, inputs(device))


def composed(device):
    one, two = make(device, n=5), ImplicitModel(2, 3, 4, **drawn(device))
    M = draw(2, 3, 2, scale=0.1).to(device)
    return [built(inputs(device)) for built in (
        compose.cascade(one, two), compose.parallel(one, one), compose.add(one, one),
        compose.multiply(M, one), compose.feedback(one, M))] + [
        compose.precompose(one, M)(inputs(device, 7, 2))]


def sequences(device, **options):
    built = ImplicitRNN(3, 2, 4, 6, **drawn(device), **options)
    X = inputs(device, 5, 4, 3)
    packed = pack_padded_sequence(X, [4, 3, 3, 2, 1], batch_first=True)
    return step(built, X), built(X, lengths=[4, 1, 2, 3, 2]), built(packed)


def trained(device, batches, build, **options):
    torch.manual_seed(0)
    built = build(device)
    history = fit(built, batches[0][:6], batches[1], epochs=2, progress=False, **options)
    return ([*built.parameters()], history[["train_loss", "val_metric"]].to_numpy().tolist(),
            evaluate(built, batches[1], options.get("metric", None) or accuracy))


def accuracy(predictions, labels):
    return (predictions.argmax(1) == labels).double().mean()


def digits():
    return [list(part) for part in load(samples=300, dtype=torch.float64)]


def series():
    parts = spiky(2, look_back=6, points=400, dtype=torch.float64)
    return [list(part) for part in parts]


def stranger(device):
    torch.manual_seed(0)
    return step(torchidl.ImplicitModel(3, 2, N).double().to(device), inputs(device))


def matrices(device):
    A, B, C = (draw(k, *shape, scale=0.1).to(device)
               for k, shape in enumerate([(6, 6), (6, 3), (2, 6)]))
    found = perron_frobenius(A)
    return [inf_norm(A), *rescale(A, B, C)], found.value


def sim(device, solver, on_cpu=False, **options):
    """The teacher, its data, the solver and the model, all on the device."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    U = inputs("cpu", 100, 6).float()
    loader = [(u.to(device), u[:, :3].argmax(1).to(device)) for u in U.split(40)]
    found = SIM(device=device, progress=False, lambda_z=0.1, lambda_y=0.1, **options).train(
        solver(progress=False, device="cpu" if on_cpu else str(device)), teacher.to(device), loader)
    assert found.result.stats["inf_norm"] <= 0.99 + 1e-12 or solver is LeastSquareSolver
    return [*found.model.parameters()], found.evaluate(loader)


SOLVERS = [Picard(1e-10), Picard(1e-10, damping=0.7), Anderson(1e-10), Broyden(1e-10),
           Newton(1e-10)]
PHI = ["relu", "leaky_relu", "tanh", "sigmoid", "softplus", "elu", "hardtanh", "identity"]
CASES = {
    **{f"constraint {c}": partial(model, constraint=c) for c in CONSTRAINTS},
    **{f"rank 3, {c}": partial(model, rank=3, constraint=c) for c in ("scale", "row")},
    **{f"{s}": partial(model, solver=s) for s in SOLVERS},
    "Peaceman-Rachford": partial(model, constraint="monotone", solver=PeacemanRachford(1e-10)),
    **{f"{a}": partial(model, adjoint=a) for a in (Implicit(Anderson()), OneStep(), Unrolled())},
    **{f"activation {p}": partial(model, activation=p, kappa=0.5) for p in PHI},
    "an activation of one's own": partial(model, activation=torch.atan),
    "no constraint": free,
    "a network of two activations": partial(network, last=nn.Tanh()),
    "a network in other units": partial(network, last=nn.LeakyReLU(), rescale=True),
    "compositions": composed,
    "a recurrent model": sequences,
    "torchidl's arguments": stranger,
    "matrices": matrices,
    "training on the digits": lambda device: trained(
        device, digits(), lambda at: ImplicitModel(64, 10, N, **drawn(at))),
    "training on a series": lambda device: trained(
        device, series(), lambda at: ImplicitRNN(1, 1, 4, 6, **drawn(at)),
        loss=nn.functional.mse_loss, metric=nn.functional.mse_loss),
    "SIM, ADMM": partial(sim, solver=ADMMSolver),
    "SIM, states of its own": partial(sim, solver=ADMMSolver, regenerate_states=True),
    "SIM, exact": partial(sim, solver=ADMMSolver, exact=True),
    "SIM, low rank": partial(sim, solver=partial(ProjectedGDLowRankSolver, rank=2, max_steps=60)),
    "SIM, least squares": partial(sim, solver=LeastSquareSolver),
    "SIM, a solver that is on the CPU": partial(sim, solver=CVXSolver, on_cpu=True),
}


DEVICES = {"pretend": (pretend_device, 1e-9), "cuda": (
    lambda: contextlib.nullcontext(torch.device("cuda")), 1e-6)}


@pytest.mark.filterwarnings("ignore:(state|output) matching stopped early", "ignore:LeastSquare",
                            "ignore:the student is poor")  # of rank 2
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [
    "pretend", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(),
                                                             reason="there is no GPU here"))])
def test_the_numbers_are_the_cpus_and_all_stay_on_the_device(kind, case):
    wanted = tree_leaves(CASES[case]("cpu"))
    there, rtol = DEVICES[kind]
    with there() as device:
        found = tree_leaves(CASES[case](device))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        if isinstance(other, Tensor):
            assert one.device.type == device.type, "it was left on the CPU"
            one = one.held if kind == "pretend" else one.cpu()
        assert torch.allclose(torch.as_tensor(one), torch.as_tensor(other), rtol=rtol,
                              atol=rtol / 100)


# ---- waits and launches: pytest -rP -k "waits and launches" prints the table -----------------


def recurrent(device):
    return ImplicitRNN(3, 2, 4, 6, **drawn(device)), [inputs(device, 5, 10, 3)]


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(draw(5, 6, 6, scale=0.1))

    def forward(self, z, u):
        return torch.tanh(z @ self.W.mT + u)


def any_layer(device):
    return EquilibriumLayer(Step()).to(device), [inputs(device, 7, 6)]


def on_a_graph(device):
    edges = torch.stack((torch.arange(9, device="cpu"), torch.arange(1, 10, device="cpu")))
    A_hat = normalised_adjacency(edges, 10, dtype=torch.float64).to(device)
    return ImplicitGraph(3, 2, 8, **drawn(device)), [inputs(device, 10, 3), A_hat]


def dense(**options):
    return lambda device: (make(device, **options), [inputs(device)])


# A wait costs a GPU more than a product of this size, and a launch as much as one: each line was
# measured, with room for a test more, and a change that adds to it must raise it here.
STEPS = {
    "constraint scale": (dense(constraint="scale"), 4, 115),
    "constraint row": (dense(constraint="row"), 4, 115),
    "constraint project": (dense(constraint="project"), 6, 195),
    "constraint perron": (dense(constraint="perron"), 7, 200),
    "constraint triangular": (dense(constraint="triangular"), 5, 110),
    "constraint monotone": (dense(constraint="monotone"), 65, 1450),
    "rank 3": (dense(rank=3), 8, 220),
    "Anderson": (dense(solver=Anderson()), 70, 1350),
    "Broyden": (dense(solver=Broyden()), 70, 1350),
    "Newton": (dense(solver=Newton()), 30, 370),
    "OneStep": (dense(adjoint=OneStep()), 6, 125),
    "a recurrent model, 10 times": (recurrent, 46, 1300),
    "any layer, Anderson": (any_layer, 60, 1200),
    "a graph": (on_a_graph, 16, 270),
}


@pytest.mark.parametrize("name", STEPS)
def test_waits_and_launches_of_a_training_step(name):
    build, most_waits, most_launches = STEPS[name]
    with pretend_device() as device:
        built, given = build(device)
        for _ in range(3):  # the first ones do not know yet after how many steps to test
            read_counts()
            step(built, *given)
            waits, launches = read_counts()
        traced = built.equilibrium(*given).trace if hasattr(built, "equilibrium") else None
    print(f"{name:28} {waits.total():5} waits {launches.total():6} launches")
    assert 0 < waits.total() <= most_waits, waits
    assert 0 < launches.total() <= most_launches, launches.most_common(9)
    in_solves = sum(n for place, n in waits.items() if place.startswith("solver.py"))
    assert traced is None or len(traced.residuals) <= in_solves, "a solve's waits were not seen"


def read_counts():
    return device_waits(), device_launches()


def test_waits_and_launches_of_a_step_of_admm():
    with pretend_device() as device:
        problem = sim_cases.problem(*sim_cases.data(), lam=0.1, kappa=0.5, ball=6).to(device)
        read_counts()
        found = ADMMSolver(device=str(device), progress=False).solve(problem)
        waits, launches = (count.total() / found.stats.steps for count in read_counts())
    print(f"{'SIM, a step of ADMM':28} {waits:5.1f} waits {launches:6.1f} launches")
    assert waits <= 6 and launches <= 150


# ---- the device itself ----------------------------------------------------------------------


def test_it_computes_counts_and_tells_where():
    with pretend_device() as device:
        x = torch.arange(6.0, device=device).reshape(2, 3)
        assert x.new_tensor([2.0]).item() == torch.tensor(2.0, device=device).item() == 2
        assert device_waits().total() == 2
        assert x.device == device and isinstance(x.mT @ x, Pretend) and not device_waits()
        x[0, 1] += 1
        x.mul_(2)
        assert x.sum().item() == 32.0
        assert x.cpu().tolist() == [[0.0, 4.0, 4.0], [6.0, 8.0, 10.0]]
        assert bool((x > 3).any()) and len(x.nonzero()) == 5
        seen = device_waits()
    assert seen.total() == 4 and not device_waits()
    assert all(place.startswith("test_on_a_device.py:") for place in seen)
    assert torch.zeros(1, device="meta").is_meta and not isinstance(x.held, Pretend)


@pytest.mark.filterwarnings("ignore:Sparse CSR")  # torch says so once
def test_it_holds_sparse_tensors_turns_shapes_and_changes_dtypes():
    with pretend_device() as device:
        M = torch.eye(3, device=device).to_sparse_csr()
        assert M.layout == torch.sparse_csr and isinstance(M, Pretend)
        assert M.values().device == device and (M.to_dense() == torch.eye(3, device=device)).all()
        x = torch.ones(2, 3, device=device)
        assert x.t_().shape == (3, 2) and (M @ x).shape == (3, 2)
        layer = nn.Linear(3, 2).to(device).double()
        assert layer(x.mT.double()).dtype == layer.weight.held.dtype == torch.float64
        y = torch.ones(2, 3).t_()  # the CPU's own is turned once
        assert y.shape == (3, 2)
        read_counts()
        x.mT.relu().add_(x[0, 0])
        assert device_launches() == {"relu": 1, "add_": 1}  # views are none
        products_elsewhere()
        torch.ones(5, 4) @ torch.ones(4, 3)
        assert [*products_elsewhere().values()] == [60]


@pytest.mark.parametrize(("call", "fragments"), [
    (lambda x: x + torch.ones(3), ["aten::add", "CPU tensor of shape (3,)"]),
    (lambda x: torch.ones(3).add_(x), ["aten::add_", "(3,)"]),
    (lambda x: torch.cat([x, torch.ones(1)]), ["aten::cat", "(1,)"]),
    (lambda x: x.index_put_((torch.tensor([0, 1]),), torch.ones(2)), ["aten::index_put_", "(2,)"]),
    (lambda x: x.normal_(generator=torch.Generator("cpu")), ["aten::normal_", "generator"]),
])
def test_it_refuses_what_a_gpu_refuses(call, fragments):
    with pretend_device() as device:
        x = torch.ones(3, device=device)
        assert (x * torch.tensor(2.0)).sum() == 6  # a number may come from anywhere,
        assert x[torch.tensor([0, 1])].sum() == 2  # and so may an index
        rejects(lambda: call(x), RuntimeError, *fragments)
