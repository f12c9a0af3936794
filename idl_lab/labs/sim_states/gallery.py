"""State-driven implicit modeling: a teacher's states and the bound on A."""

from __future__ import annotations

import functools
import warnings

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

from idl_lab import well_posedness
from idl_lab.labs.kit.problems import (
    change_units,
    digits_teacher,
    generator,
    random_teacher,
    whole,
)
from idl_lab.labs.sim_states.panel import sim_states_panel
from idl_lab.labs.sim_states.plots import (
    draw_answers,
    draw_duality,
    draw_features,
    draw_segments,
    draw_teacher_states,
)
from idl_lab.labs.sim_states.problems import bound_study
from idl_lab.model import ImplicitModel
from idl_lab.sim import SIM
from idl_lab.sim.hooks import States
from idl_lab.sim.problem import state_matching
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.sim.states import collect, gram_statistics, rescale, teacher_as_matrices

_SOLVER = ADMMSolver(tol=1e-4, device="cpu", progress=False)
_BLOCKS = [("layer 3", 16), ("layer 2", 32), ("layer 1", 64)]


@functools.cache
def _taught() -> tuple[nn.Sequential, DataLoader, DataLoader]:
    return digits_teacher()


def _states() -> tuple[States, Tensor]:
    """A teacher's states on the training images, and their classes."""
    teacher, train, _ = _taught()
    return collect(teacher, train, progress=False), train.dataset.tensors[1]


def teacher_states() -> Figure:
    """A hundred and fifty images, sorted by class."""
    states, labels = _states()
    return draw_teacher_states(states.X[::9], labels[::9], _BLOCKS)


def features() -> Figure:
    """Dead units and units that are always on are what no sample sees."""
    states, _ = _states()
    Phi = torch.cat([states.X, states.U], dim=1).double()
    return draw_features(Phi, [*_BLOCKS, ("u", 64)])


def segments() -> Figure:
    """From a model to itself with its states renumbered: the loss has a hill, SIM has none."""
    teacher, train, _ = _taught()
    model = ImplicitModel.from_network(teacher)
    v = well_posedness.units(model.A.detach(), 0.99)
    M = change_units(whole(model).double(), v)
    n = len(v)
    ends = [M[:n, :n], M[:n, n:], M[n:, :n]]
    P = torch.randperm(n, generator=generator(), device="cpu")
    twin = [ends[0][P][:, P], ends[1][P], ends[2][:, P]]
    grams = gram_statistics(teacher, train, ones=False, progress=False)
    problem = state_matching(grams.rescaled(v), 0.99)
    U, y = train.dataset.tensors[0].double(), train.dataset.tensors[1]
    t, loss, objective = torch.linspace(0, 1, 21, dtype=torch.float64, device="cpu"), [], []
    for s in t.tolist():
        A, B, C = ((1 - s) * M + s * N for M, N in zip(ends, twin, strict=True))
        scores = ImplicitModel.from_matrices(A, B, C)(U).detach()
        loss.append(float(torch.nn.functional.cross_entropy(scores, y)))
        objective.append(float(problem.objective(torch.cat([A, B], 1)).sum()))
    return draw_segments(t, {"loss of the model": t.new_tensor(loss),
                                   "SIM's state matching": t.new_tensor(objective)})


def duality() -> Figure:
    """From W = 0 to the answer the objective falls, and what it proves rises to meet it."""
    teacher, train, _ = _taught()
    grams = gram_statistics(teacher, train, ones=False, progress=False)
    grams, *_ = rescale(grams, teacher_as_matrices(teacher, grams), 0.99)
    problem = state_matching(grams, 0.99, 0.01)
    W = ADMMSolver(device="cpu", progress=False).solve(problem).W
    t = 10.0 ** -torch.arange(0, 8.25, 0.25, dtype=torch.float64, device="cpu")
    upper, lower = (torch.stack([side((1 - away) * W).sum() for away in t])
                    for side in (problem.objective, problem.dual))
    return draw_duality(t, upper, lower)


def answers() -> Figure:
    """What two students make of 200 fresh inputs, with and without units that fit."""
    teacher, train, test = random_teacher()
    U = test.dataset[:200][0]
    students = {way: SIM(rescale=way == "rescaled", device="cpu", progress=False)
                for way in ("not rescaled", "rescaled")}
    with warnings.catch_warnings():  # one is poor: that is what is shown
        warnings.simplefilter("ignore", UserWarning)
        for sim in students.values():
            sim.train(_SOLVER, teacher, train)
    return draw_answers({f"{way}: {sim.fidelity(test):.2f}": (
        teacher(U).detach(), sim.model(U).detach()) for way, sim in students.items()})


def bound() -> Figure:
    """κ = 0.5 with and without rescaling."""
    study = bound_study(*_taught(), (0.1, 0.5, 0.99), _SOLVER)
    return sim_states_panel({"digits": _taught()[0]}, {"digits": study}).figure


GALLERY = (teacher_states, features, segments, duality, answers, bound)
