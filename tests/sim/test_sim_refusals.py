"""What SIM refuses, each with one sentence that names what was given and what is wanted."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU64, draw, mat, rejects
from sim_cases import data, problem
from torch import nn

from idl_lab.sim import SIM
from idl_lab.sim.problem import Problem
from idl_lab.sim.sharding import all_reduce
from idl_lab.sim.solvers import (
    ADMMMultiGPUSolver,
    ADMMSolver,
    CVXSolver,
    LeastSquareSolver,
    ProjectedGDLowRankSolver,
)
from idl_lab.sim.states import accumulate, gram_statistics

QUIET = {"progress": False}


# ---- the problem ----------------------------------------------------------------------------


def changed(**change):
    """A good problem with one thing changed."""
    given = {"gram": np.eye(3), "cross": np.ones((2, 3)), "norms": np.ones(2), **change}
    return Problem(**{key: torch.as_tensor(value, device="cpu") if isinstance(value, np.ndarray)
                      else value for key, value in given.items()})


PROBLEM = [
    (lambda: changed(gram=np.ones((3, 2))), ValueError, ["gram", "(n, n)"]),
    (lambda: changed(gram=np.triu(np.ones((3, 3)))), ValueError, ["symmetric", "asymmetry of 1"]),
    (lambda: changed(gram=-np.eye(3)), ValueError, ["non-negative diagonal"]),
    (lambda: changed(gram=np.full((3, 3), np.nan)), ValueError, ["gram must be finite"]),
    (lambda: changed(cross=np.ones((2, 4))), ValueError, ["cross", "d=3", "(2, 4)"]),
    (lambda: changed(cross=torch.ones(2, 3, device="cpu")), TypeError, ["cross is torch.float32"]),
    (lambda: changed(norms=np.ones(3)), ValueError, ["norms", "k=2", "(3,)"]),
    (lambda: changed(lam=-1.0), ValueError, ["lam", ">= 0"]),
    (lambda: changed(ridge=float("nan")), ValueError, ["ridge"]),
    (lambda: changed(ball=4, kappa=0.5), ValueError, ["ball", "d=3", "4"]),
    (lambda: changed(ball=2), ValueError, ["ball=2", "kappa"]),
    (lambda: changed(kappa=-0.1), ValueError, ["kappa", ">= 0"]),
    (lambda: changed(lam=np.ones(3)), ValueError, ["lam", "k=2", "(3,)"]),
    (lambda: changed(lam=np.array([1.0, -1.0])), ValueError, ["lam", ">= 0", "-1"]),
    (lambda: changed(lam=np.array([1.0, 0.0])), ValueError, ["lam", "all", "both"]),
    (lambda: changed(kappa=np.array([1.0, -1.0])), ValueError, ["kappa", ">= 0", "-1"]),
    (lambda: changed(weights=np.ones(2)), ValueError, ["weights", "d=3", "(2,)"]),
    (lambda: changed(weights=-np.ones(3)), ValueError, ["weights", ">= 0"]),
    (lambda: changed(weights=np.eye(3)[:2]), ValueError, ["weights", "all rows of a column"]),
    (lambda: changed(support=np.ones((2, 3))), ValueError, ["support", "bool", "float64"]),
    (lambda: changed(support=np.ones((2, 2), bool)), ValueError, ["support", "(2, 3)", "(2, 2)"]),
    (lambda: changed(support=np.eye(2, 3) > 0), ValueError, ["support", "every row"]),
    (lambda: changed(support=np.eye(2, 3) > 0, ball=1, kappa=0.5), ValueError,
     ["support", "neither λ nor the ball"]),
    (lambda: problem(*data(), ridge=0.1).exact(), ValueError, ["no squares", "0.1"]),
]


# ---- the solvers ----------------------------------------------------------------------------


def single_precision():
    return Problem(*(mat(M, torch.float32) for M in (np.eye(2), np.ones((1, 2)), [1])))


SOLVERS = [
    (lambda: ADMMSolver(lambda_z=1.0), TypeError, ["lambda_z"]),
    (lambda: ADMMSolver(relaxation=2.0), ValueError, ["relaxation", "< 2"]),
    (lambda: ADMMSolver(splitting_steps=1.5), TypeError, ["splitting_steps", "whole"]),
    (lambda: ADMMSolver(tol=0.0), ValueError, ["tol", "> 0"]),
    (lambda: ADMMSolver(seconds=0), ValueError, ["seconds", "> 0"]),
    (lambda: ADMMSolver(check_every=0), ValueError, ["check_every"]),
    (lambda: ADMMSolver(device="gpu"), ValueError, ["device", "gpu"]),
    (lambda: ADMMSolver(lamda=1.0), TypeError, ["lamda"]),
    (lambda: ADMMSolver().solve(draw(0, 3, 3)), TypeError, ["Problem", "Tensor"]),
    (lambda: ADMMSolver().solve(single_precision()), TypeError, ["float64"]),
    (lambda: CVXSolver(solver="CLARABELL"), ValueError, ["CLARABELL", "CLARABEL"]),
    (lambda: CVXSolver(n_jobs=0), ValueError, ["n_jobs", "0"]),
    (lambda: CVXSolver(device="cuda"), ValueError, ["device", "cpu"]),
    (lambda: ProjectedGDLowRankSolver(rank=0), ValueError, ["rank", "at least 1"]),
    (lambda: ProjectedGDLowRankSolver(rank=2.5), TypeError, ["rank", "whole"]),
    (lambda: ProjectedGDLowRankSolver(relaxation=2.0), ValueError, ["relaxation", "< 2"]),
    (lambda: ProjectedGDLowRankSolver(splitting_steps=0), ValueError, ["splitting_steps"]),
    (lambda: ProjectedGDLowRankSolver(rank=2, **QUIET).solve(problem(
        *data(), kappa=1.0, ball=7, support=np.arange(12) >= np.arange(3, 7)[:, None])),
     ValueError, ["rank", "support", "another solver"]),
    (lambda: ProjectedGDLowRankSolver(lr=1e-3), TypeError, ["lr"]),
    (lambda: ProjectedGDLowRankSolver().solve(mat(np.eye(2))), TypeError, ["Problem", "Tensor"]),
    (lambda: ADMMMultiGPUSolver(workers=0), ValueError, ["workers", "at least 1", "0"]),
    (lambda: ADMMMultiGPUSolver(workers=1.5), TypeError, ["workers", "whole", "1.5"]),
    (lambda: ADMMMultiGPUSolver(timeout=0), ValueError, ["timeout", "> 0"]),
    (lambda: ADMMMultiGPUSolver(tol=-1), ValueError, ["tol", "> 0"]),
    (lambda: ADMMMultiGPUSolver(**QUIET).solve(3), TypeError, ["Problem", "int"]),
    (lambda: all_reduce(None, None, []), RuntimeError, ["process group", "torchrun"]),
]


# ---- the teacher and its data ---------------------------------------------------------------


def net(*layers):
    return nn.Sequential(*layers).double()


def mlp():
    return net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def nan_in(layer):
    teacher = mlp()
    with torch.no_grad():
        teacher[layer].bias[0] = torch.nan
    return teacher


def hooked():
    teacher = mlp()
    teacher[1].register_forward_hook(lambda module, args, value: value + 1)
    return teacher


def sharing():
    phi = nn.ReLU()
    return net(net(nn.Linear(3, 8), phi), net(nn.Linear(8, 7), phi), nn.Linear(7, 3))


class Net(nn.Module):
    """A network from a function of the module and its input."""

    def __init__(self, forward):
        super().__init__()
        self.one, self.phi, self.fn = nn.Linear(3, 3), nn.ReLU(), forward
        self.double()

    def forward(self, u):
        return self.fn(self, u)


class Sine(nn.Module):
    def forward(self, s):
        return torch.sin(s)


def after(last):
    """A seen activation, then something else."""
    return Net(lambda net, u: last(net.one(net.phi(net.one(u)))))


def uneven(net, u):
    """Another number of calls for a batch of one."""
    return net.phi(u) if len(u) == 1 else net.phi(net.phi(u) - 1)


def watched(teacher, *batches, **options):
    """Statistics of a teacher; four samples where no batch is given."""
    return gram_statistics(teacher, list(batches or [draw(0, 4, 3)]), progress=False, **options)


STATES = [
    (lambda: watched(after(F.relu)), ValueError,
     ["applies relu outside an activation module in the network (Net) at line", "last(net.one"]),
    (lambda: watched(after(torch.tanh_)), ValueError, ["applies tanh_"]),
    (lambda: watched(after(lambda s: s.clamp(min=0))), ValueError, ["applies clamp"]),
    (lambda: watched(after(Sine())), ValueError, ["applies sin outside", "layers="]),
    (lambda: watched(Net(lambda net, u: net.phi(torch.relu(net.one(u)) - 1)), skip_layers=10),
     ValueError, ["relu outside an activation module"]),
    (lambda: watched(net(nn.Linear(3, 2))), ValueError, ["Sequential holds no activation"]),
    (lambda: watched(hooked()), ValueError, ["1 (ReLU) gives other values"]),
    (lambda: watched(nan_in(2)), ValueError, ["3 (ReLU) in batch 0 must be finite"]),
    (lambda: watched(nan_in(4)), ValueError, ["output in batch 0 must be finite"]),
    (lambda: watched(net(nn.ReLU(), nn.GRU(3, 2))), ValueError, ["must give one tensor (4, ...)"]),
    (lambda: watched(F.relu), TypeError, ["teacher must be a torch.nn.Module"]),
    (lambda: watched(Net(uneven), draw(0, 4, 3), draw(0, 1, 3)), ValueError,
     ["batch 1 met other layers"]),
    (lambda: gram_statistics(mlp(), [], progress=False), ValueError, ["gave no batch"]),
    (lambda: watched(mlp(), draw(0, 4, 3).long()), TypeError, ["input U of batch 0"]),
    (lambda: watched(mlp(), draw(0, 4, 3), torch.full((4, 3), torch.nan, **CPU64)), ValueError,
     ["input U of batch 1 must be finite"]),
    (lambda: watched(mlp(), draw(0, 3)), ValueError, ["must have shape (m, ...)"]),
    (lambda: watched(mlp(), []), TypeError, ["got list"]),
    (lambda: watched(mlp(), layers=["phi"]), ValueError, ["layers='phi' is not known"]),
    (lambda: watched(mlp(), layers="1"), TypeError, ["layers must be names"]),
    (lambda: watched(mlp(), layers=["0"]), ValueError,
     ["0 (Linear) takes (4, 3) and gives (4, 4)"]),
    (lambda: watched(mlp(), layers=["1"], skip_layers=3), ValueError, ["give one of them"]),
    (lambda: watched(mlp(), skip_layers=0), ValueError, ["skip_layers must be at least 1"]),
    (lambda: watched(sharing(), skip_layers=2), ValueError,
     ["share the activation module 0.1", "layers=[...]"]),
    (lambda: watched(mlp()).rescaled(-draw(0, 8).abs()), ValueError, ["positive"]),
    (lambda: accumulate([]), ValueError, ["no batch of states"]),
]


# ---- SIM ------------------------------------------------------------------------------------


class IllPosed(LeastSquareSolver):
    """An A for which nothing is certain."""

    def iterates(self, problem):
        W = problem.zeros()
        W[:, :problem.ball].fill_diagonal_(2.0)
        yield W


class Liar(LeastSquareSolver):
    """Promises the bound and breaks it."""

    honours_kappa = True

    def solve(self, problem):
        return IllPosed(progress=False).solve(problem)


def make(**options):
    return SIM(**{"device": "cpu", "progress": False, "dtype": torch.float64} | options)


def train(teacher, solver=None, loader=None, **options):
    return make(**options).train(solver or ADMMSolver(device="cpu", **QUIET), teacher,
                                 [draw(0, 6, 3)] if loader is None else loader)


@functools.cache
def fitted():
    """A model with one output."""
    with torch.device("cpu"):
        return train(net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)))


U, Y = draw(0, 6, 3), draw(1, 6, 1)


TRAINED = [
    (lambda: make(kappa=1.0), ValueError, ["kappa must be >= 0 and < 1"]),
    (lambda: make(lambda_z=-1), ValueError, ["lambda_z", ">= 0"]),
    (lambda: make(exact=True, ridge=0.1), ValueError, ["no squares", "0.1"]),
    (lambda: make(dtype=torch.int64), TypeError, ["floating-point"]),
    (lambda: make(device="gpu"), ValueError, ["device='gpu' is not known"]),
    (lambda: make(activation_fn="rleu"), ValueError, ["Did you mean 'relu'?"]),
    (lambda: make().model, RuntimeError, ["call train"]),
    (lambda: make().result, RuntimeError, ["call train"]),
    (lambda: make().evaluate([]), RuntimeError, ["call train"]),
    (lambda: make().save("nowhere.pt"), RuntimeError, ["call train"]),
    (lambda: train(mlp(), ADMMSolver), TypeError, ["a solver object"]),
    (lambda: train("net"), TypeError, ["teacher must be"]),
    (lambda: train(net(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2)), activation_fn=torch.relu),
     ValueError, ["activation_fn is relu, but the teacher's 1 (Sigmoid) is sigmoid"]),
    (lambda: train(mlp(), IllPosed(**QUIET), rescale=False, regenerate_states=True), ValueError,
     ["regenerate_states=True needs a well-posed model"]),
    (lambda: train(mlp(), Liar(**QUIET)), RuntimeError, ["Liar returned ‖A‖∞ = ", " > κ = 0.99"]),
    (lambda: make(weigh="standrd"), ValueError, ["Did you mean 'standard'?"]),
    (lambda: make().fidelity([]), RuntimeError, ["call train"]),
    (lambda: fitted().evaluate([]), ValueError, ["gave no batch"]),
    (lambda: fitted().evaluate([U]), TypeError, ["pairs (U, target)"]),
    (lambda: fitted().evaluate([(U, Y.long())]), ValueError, ["one output ranks no classes"]),
    (lambda: fitted().evaluate([(U, torch.cat([Y, Y], 1))]), ValueError,
     ["targets must have 1 numbers"]),
    (lambda: fitted().evaluate([(U, 0 * Y)]), ValueError, ["targets that differ"]),
    (lambda: fitted().evaluate([(U, Y), (U, Y.long())]), TypeError, ["in others"]),
]


@pytest.mark.filterwarnings("ignore:Not rescaled")  # which no refusal here is about
@pytest.mark.parametrize(("call", "error", "fragments"), [*PROBLEM, *SOLVERS, *STATES, *TRAINED])
def test_refused(call, error, fragments):
    rejects(call, error, *fragments)
