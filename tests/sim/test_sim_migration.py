"""torchidl's SIM under its own names: what each argument comes to, against oracles of its own."""

import inspect
import re
import warnings
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse
import torch
from helpers import rejects, unrolled
from migration_cases import teacher_states
from sim_cases import optimum, values
from torch import nn

from idl_lab import torchidl
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.sim import solvers
from idl_lab.torchidl import (
    SIM,
    ADMMMultiGPUSolver,
    ADMMSolver,
    BaseSolver,
    CVXSolver,
    LeastSquareSolver,
    ProjectedGDLowRankSolver,
)
from idl_lab.torchidl.sim.utils import fixpoint_iteration

CONFIG = {"activation_fn": torch.relu, "device": "cpu", "atol": 1e-9, "kappa": 0.5}
ADMM = {"num_epoch_ab": 1000, "num_epoch_cd": 100, "lambda_y": 1e-6, "lambda_z": 1e-6,
        "rho_ab": 10.0, "rho_cd": 10.0, "batch_feature_size": 100, "regen_states": False,
        "tol": 1e-6}
# The arguments of torchidl 0.0.4 in its order, with its defaults.
SIGNATURES = {
    SIM: {"activation_fn": nn.functional.relu, "kappa": 0.99, "atol": 1e-6, "skip_layers": None,
          "standardize": False, "device": "cpu", "dtype": torch.float32},
    ADMMSolver: ADMM,
    ADMMMultiGPUSolver: {"gpu_ids": inspect.Parameter.empty, **ADMM},
    CVXSolver: {"num_row": 1, "batch_size": 32, "num_processes": 32, "lambda_y": 1e-6,
                "lambda_z": 1e-6, "l1_ratio": 0.5, "elastic_net": False, "regularized": True,
                "well_pose": True, "regen_states": False, "tol": 1e-6, "verbose": False},
    LeastSquareSolver: {"regen_states": False, "tol": 1e-6},
    ProjectedGDLowRankSolver: {"rank": None, "num_epoch": 10_000, "lambda_z": 1e-6, "lr": 1e-3,
                               "verbose_epoch": 100, "regen_states": False, "tol": 1e-6},
}
METHODS = {
    SIM.train: ["solver", "model", "dataloader", "states_data_path", "save_states_path"],
    SIM.evaluate: ["dataloader"], SIM.get_states: ["model", "dataloader"],
    SIM.to: ["device", "dtype"], SIM.__call__: ["input"],
    BaseSolver.solve: ["X", "U", "Z", "Y", "model_config"],
    ADMMSolver.solve: ["X", "U", "Z", "Y", "model_config", "plot_loss"],
    fixpoint_iteration: ["A", "B", "U", "activation_fn", "device", "max_iter", "atol", "patience"],
}


@pytest.mark.parametrize("kind", SIGNATURES, ids=lambda kind: kind.__name__)
def test_the_arguments_are_torchidls(kind):
    given = inspect.signature(kind).parameters
    assert {name: given[name].default for name in given} == SIGNATURES[kind]
    assert list(given) == list(SIGNATURES[kind])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__qualname__)
def test_the_methods_arguments_are_torchidls(method):
    assert [name for name in inspect.signature(method).parameters
            if name != "self"] == METHODS[method]


def test_the_page_for_who_comes_from_torchidl_names_every_argument():
    page = (Path(__file__).parents[2] / "docs/from_torchidl.md").read_text(encoding="utf-8")
    said = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", page))))
    models = [torchidl.ImplicitModel, torchidl.ImplicitRNN]
    wanted = {name for kind in [*SIGNATURES, *models]
              for name in inspect.signature(kind).parameters}
    wanted |= {name for names in METHODS.values() for name in names}
    helpers = {"input", "A", "B", "max_iter", "patience", "kwargs"}
    assert wanted - helpers - said == set()


# --- the problems that the solvers state ---------------------------------------------------------


def solved(solver, states=None, **config):
    """What a solver makes of states, and Φ, as float64 arrays."""
    states = states or teacher_states()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = solver.solve(*states, {**CONFIG, **config})
    A, B, C, D = (np.asarray(M.toarray() if scipy.sparse.issparse(M) else M) for M in found)
    return np.hstack([A, B]), np.hstack([C, D]), np.vstack(states[:2]).T


def optimal(Phi, T, W, tol=1e-6, **options):
    """Whether W's objective, row by row, is that of cvxpy on the samples themselves."""
    best = optimum(Phi, T.T, **options)
    scale = np.maximum(best, 1e-6 * 0.5 * (T**2).sum(1))
    return np.all(values(Phi, T.T, W, **options) - best <= tol * scale.sum())


LAMBDAS = {"lambda_z": 0.3, "lambda_y": 0.1}
ONE = {"num_processes": 1, "tol": 0.0}
PROBLEMS = {
    "ADMM": (ADMMSolver(**LAMBDAS, tol=0.0), {}, {}),
    "CVX": (CVXSolver(**LAMBDAS, **ONE), {}, {}),
    "elastic net": (CVXSolver(**LAMBDAS, **ONE, elastic_net=True, l1_ratio=0.3),
                    {"lam": 0.3 * 0.3, "ridge": 0.3 * 0.7}, {"lam": 0.1 * 0.3, "ridge": 0.1 * 0.7}),
    "no ball": (CVXSolver(**LAMBDAS, **ONE, well_pose=False), {"ball": 0}, {}),
    "the default λ": (ADMMSolver(tol=0.0), {"lam": 1e-6}, {"lam": 1e-6}),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_solver_finds_the_optimum_of_the_problem_that_torchidl_states(case):
    solver, of_state, of_output = PROBLEMS[case]
    X, U, Z, Y = states = teacher_states()
    AB, CD, Phi = solved(solver, states)
    assert optimal(Phi, Z, AB, **{"lam": 0.3, "kappa": 0.5, "ball": 6, **of_state})
    assert optimal(Phi, Y, CD, **{"lam": 0.1, **of_output})
    norm = np.abs(AB[:, :6]).sum(1).max()
    assert norm > 0.5 if case == "no ball" else norm <= 0.5
    assert {r.status for r in solver.results.values()} == {solvers.SolveStatus.SOLVED}


def test_without_regularisation_the_match_is_exact_and_of_the_smallest_norm():
    X, U, Z, Y = states = teacher_states(m=8)  # fewer samples than weights: many match
    AB, CD, Phi = solved(CVXSolver(regularized=False, well_pose=False, num_processes=1), states)
    for T, W in [(Z, AB), (Y, CD)]:
        assert np.allclose(Phi @ W.T, T.T, atol=1e-4 * np.abs(T).max())
        w = cp.Variable(W.shape)
        least = cp.Problem(cp.Minimize(cp.sum(cp.abs(w))), [Phi @ w.T == T.T]).solve()
        assert np.abs(W).sum() == pytest.approx(least, rel=1e-4)
    with pytest.warns(ConvergenceWarning, match="state matching misses a target by"):
        CVXSolver(regularized=False, num_processes=1).solve(*states, {**CONFIG, "kappa": 0.01})


def test_a_single_processes_rows_do_not_share_a_ball_whatever_num_row_says():
    with pytest.warns(UserWarning, match="num_row: each row has"):
        solver = CVXSolver(num_row=3, **LAMBDAS, **ONE)
    assert np.array_equal(solved(solver)[0], solved(CVXSolver(**LAMBDAS, **ONE))[0])


def test_least_squares_are_numpys():
    X, U, Z, Y = states = teacher_states()
    AB, CD, Phi = solved(LeastSquareSolver(tol=0.0), states)
    for T, W in [(Z, AB), (Y, CD)]:
        assert np.allclose(W, np.linalg.lstsq(Phi, T.T, rcond=None)[0].T, atol=1e-6)


def test_a_low_rank_solver_keeps_rank_and_ball_and_fits_the_outputs_by_least_squares():
    X, U, Z, Y = states = teacher_states()
    AB, CD, Phi = solved(ProjectedGDLowRankSolver(rank=2), states)
    assert np.linalg.matrix_rank(AB[:, :6], tol=1e-9) == 2
    assert np.abs(AB[:, :6]).sum(1).max() <= 0.5
    assert np.allclose(CD, np.linalg.lstsq(Phi, Y.T, rcond=None)[0].T, atol=2e-6)
    whole = solved(ProjectedGDLowRankSolver(rank=100, tol=0.0), states)[0]
    assert optimal(Phi, Z, whole, kappa=0.5, ball=6, tol=1e-5)
    assert values(Phi, Z.T, AB).sum() >= values(Phi, Z.T, whole).sum()


@pytest.mark.parametrize("solver", [ADMMSolver(**LAMBDAS, tol=0.0, regen_states=True),
                                    CVXSolver(**LAMBDAS, **ONE, regen_states=True)])
def test_regenerated_states_are_those_of_the_model(solver):
    X, U, Z, Y = states = teacher_states()
    AB, CD, _ = solved(solver, states)
    own = unrolled(AB[:, :6], U.T @ AB[:, 6:].T, "relu")
    assert not np.allclose(own, X.T, atol=1e-2)
    assert optimal(np.hstack([own, U.T]), Y, CD, lam=0.1)


def test_least_squares_and_low_rank_regenerate_too():
    X, U, Z, Y = states = teacher_states()
    for solver in [LeastSquareSolver(regen_states=True, tol=0.0),
                   ProjectedGDLowRankSolver(rank=3, regen_states=True, tol=0.0)]:
        AB, CD, _ = solved(solver, states)
        own = unrolled(AB[:, :6], U.T @ AB[:, 6:].T, "relu")
        Phi = np.hstack([own, U.T])
        assert np.allclose(Phi @ CD.T, Phi @ np.linalg.lstsq(Phi, Y.T, rcond=None)[0], atol=1e-5)


def test_tol_is_the_size_of_an_entry_that_becomes_zero():
    raw = np.hstack([M.ravel() for M in solved(ADMMSolver(**LAMBDAS, tol=0.0))[:2]])
    cut = np.hstack([M.ravel() for M in solved(ADMMSolver(**LAMBDAS, tol=0.1))[:2]])
    assert ((raw != 0) & (np.abs(raw) <= 0.1)).any()
    assert np.array_equal(cut, np.where(np.abs(raw) <= 0.1, 0, raw))


def test_features_that_are_never_seen_have_no_weight_and_change_nothing():
    X, U, Z, Y = teacher_states()
    wide = np.insert(U, [0, 2, 5], 0.0, axis=0)
    AB, CD, _ = solved(ADMMSolver(**LAMBDAS), (X, wide, Z, Y))
    plain = solved(ADMMSolver(**LAMBDAS))
    assert not AB[:, [6, 9, 13]].any() and not CD[:, [6, 9, 13]].any()
    assert np.allclose(np.delete(AB, [6, 9, 13], 1), plain[0], atol=1e-9)


def test_a_dead_unit_leaves_the_inputs_out_of_the_ball():
    X, U, Z, Y = teacher_states()
    X[3] = 0
    AB, _, Phi = solved(ADMMSolver(lambda_z=1e-3, tol=0.0), (X, U, Z, Y))
    assert not AB[:, 3].any() and np.abs(AB[:, 6]).max() > 0.5
    assert optimal(Phi, Z, AB, lam=1e-3, kappa=0.5, ball=6)


def test_matrices_come_as_torchidl_gives_them():
    narrow = tuple(M.astype(np.float32) for M in teacher_states())
    for solver, kind in [(ADMMSolver(**LAMBDAS), np.ndarray),
                         (CVXSolver(**LAMBDAS, num_processes=1), scipy.sparse.csr_matrix)]:
        found = solver.solve(*narrow, CONFIG)
        assert all(isinstance(M, kind) and M.dtype == np.float32 for M in found)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_after_rounding(seed):
    narrow = tuple(M.astype(np.float32) for M in teacher_states(seed))
    A = ADMMSolver(**LAMBDAS).solve(*narrow, {**CONFIG, "kappa": 0.1})[0]
    assert A.dtype == np.float32 and np.abs(A.astype(float)).sum(1).max() <= 0.1


# --- arguments that come to nothing, or to something else -----------------------------------------


@pytest.mark.parametrize(("make", "named"), [
    (lambda: ADMMSolver(num_epoch_ab=1500, rho_cd=1.0), "num_epoch_ab, rho_cd: a solve ends"),
    (lambda: ADMMSolver(batch_feature_size=7), "batch_feature_size: all rows"),
    (lambda: CVXSolver(batch_size=4, verbose=True), "batch_size, verbose: rows"),
    (lambda: ProjectedGDLowRankSolver(2, lr=0.1, num_epoch=10), "num_epoch, lr: a solve ends"),
    (lambda: ProjectedGDLowRankSolver(2, lambda_z=1.0), "lambda_z: it weighed the norms"),
    (lambda: ADMMSolver().solve(*teacher_states(), CONFIG, True), "results['state'].history"),
    (lambda: SIM().train(ADMMSolver(), states_data_path="no file", save_states_path="x"),
     "save_states_path"),
])
def test_an_argument_without_effect_is_named_in_one_sentence(make, named):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            make()
        except FileNotFoundError:
            pass
    assert [named in str(w.message) for w in seen] == [True]


def test_several_gpus_are_workers_of_the_distributed_solver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ADMMMultiGPUSolver([0, 1])._method(None) == solvers.ADMMMultiGPUSolver(
        device="cuda", workers=2)
    assert ADMMMultiGPUSolver([torch.device("cuda:1")])._method(None) == solvers.ADMMSolver(
        device="cuda:1")
    rejects(lambda: ADMMMultiGPUSolver([1, 0]), ValueError, "[1, 0]", "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: ADMMSolver(lambda_z=-1.0), ValueError, ["lambda_z", "-1"]),
    (lambda: LeastSquareSolver(tol=-1.0), ValueError, ["tol", "-1"]),
    (lambda: CVXSolver(l1_ratio=2.0), ValueError, ["l1_ratio", "2"]),
    (lambda: CVXSolver(elastic_net=True, regularized=False), ValueError, ["squares"]),
    (lambda: CVXSolver(num_processes=0), ValueError, ["num_processes", "0"]),
    (lambda: ProjectedGDLowRankSolver(rank=0), ValueError, ["rank", "0"]),
    (lambda: ADMMMultiGPUSolver([]), ValueError, ["gpu_ids", "[]"]),
    (lambda: ADMMMultiGPUSolver(["cuda:99"]), ValueError, ["cuda:99"]),
    (lambda: ADMMSolver().solve(*teacher_states(), {"kappa": 0.5}), ValueError,
     ["activation_fn, atol, device"]),
    (lambda: ADMMSolver().solve(*teacher_states(), {**CONFIG, "kappa": 1.5}), ValueError,
     ["kappa", "1.5"]),
    (lambda: BaseSolver(), TypeError, ["solve"]),
])
def test_bad_input(call, error, fragments):
    rejects(call, error, *fragments)


def test_every_name_that_torchidl_has_is_where_it_was():
    for module, names in {
            "": "ImplicitModel ImplicitRNN ImplicitRNNCell ImplicitFunction ImplicitFunctionInf "
                "SIM ADMMSolver ADMMMultiGPUSolver CVXSolver ProjectedGDLowRankSolver "
                "LeastSquareSolver",
            ".implicit_function": "ImplicitFunction ImplicitFunctionInf ImplicitFunctionTriu "
                                  "ImplicitFunctionWarning",
            ".implicit_base_model": "ImplicitModel", ".implicit_rnn_model": "ImplicitRNN",
            ".sim": "SIM", ".sim.sim": "SIM", ".sim.utils": "fixpoint_iteration",
            ".sim.solvers": "ADMMSolver ADMMMultiGPUSolver CVXSolver ProjectedGDLowRankSolver "
                            "LeastSquareSolver",
            ".sim.solvers.solver": "BaseSolver", ".sim.solvers.cvx": "CVXSolver",
            ".sim.solvers.admm_consensus": "ADMMSolver",
            ".sim.solvers.admm_consensus_multigpu": "ADMMMultiGPUSolver",
            ".sim.solvers.least_square": "LeastSquareSolver",
            ".sim.solvers.projected_gd_lowrank": "ProjectedGDLowRankSolver"}.items():
        found = {}
        exec(f"from {torchidl.__name__}{module} import {', '.join(names.split())}", found)
        assert set(names.split()) <= set(found)
