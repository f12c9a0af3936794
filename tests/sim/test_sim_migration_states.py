"""torchidl's SIM around its solvers: states, models, saved states."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from helpers import rejects, unrolled
from migration_cases import Plain, loader, teacher, teacher_states, trained
from torch import nn

from idl_lab.sim import solvers
from idl_lab.torchidl import SIM, ADMMMultiGPUSolver, ADMMSolver, CVXSolver
from idl_lab.torchidl.sim import states as saved
from idl_lab.torchidl.sim.utils import fixpoint_iteration


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: SIM(kappa=1.0), ValueError, ["kappa", "1.0"]),
    (lambda: SIM(atol=0.0), ValueError, ["atol", "0.0"]),
    (lambda: SIM(dtype="int64"), TypeError, ["dtype", "int64"]),
    (lambda: SIM(dtype="no type"), TypeError, ["dtype", "no type"]),
    (lambda: SIM(device="tpu"), ValueError, ["device", "tpu"]),
    (lambda: SIM(activation_fn="no"), ValueError, ["activation", "no"]),
    (lambda: SIM()(torch.ones(1, 4)), RuntimeError, ["A, B, C, D", "train("]),
    (lambda: SIM().evaluate(loader()), RuntimeError, ["A, B, C, D", "train("]),
    (lambda: SIM().train(ADMMSolver()), ValueError, ["model=", "states_data_path="]),
    (lambda: SIM().train(ADMMSolver(), teacher()), ValueError, ["dataloader="]),
    (lambda: SIM().train(ADMMSolver, teacher(), loader()), TypeError, ["CVXSolver()"]),
    (lambda: SIM().train(solvers.ADMMSolver(), teacher(), loader()), TypeError,
     ["idl_lab.sim.SIM"]),
    (lambda: SIM().train(None, teacher(), loader()), TypeError, ["None"]),
    (lambda: SIM().train(Plain(*[np.eye(2)] * 4), teacher(), loader()), ValueError,
     ["(5, 5)", "(2, 2)"]),
    (lambda: SIM().train(Plain(np.eye(5)), teacher(), loader()), ValueError,
     ["(2, 4)", "[(5, 5)]"]),
    (lambda: SIM().get_states(teacher(last=nn.Tanh), loader()), ValueError,
     ["relu", "tanh", "idl_lab.sim.SIM"]),
    (lambda: trained().evaluate([(torch.ones(2, 4), torch.ones(2, 2))]), TypeError,
     ["labels", "float32"]),
    (lambda: trained()(torch.ones(2, 5)), ValueError, ["4", "5"]),
])
def test_bad_input(call, error, fragments):
    rejects(call, error, *fragments)


def test_states_have_a_column_a_sample_and_the_last_layer_first():
    net, batches = teacher(), loader()
    found = SIM().get_states(net, batches)
    U = torch.cat([U for U, _ in batches]).flatten(1)
    first = U @ net[1].weight.mT
    second = first.relu() @ net[3].weight.mT
    Z = torch.cat([second, first], 1)
    wanted = {"U": U, "Z": Z, "X": Z.relu(), "Y": second.relu() @ net[5].weight.mT}
    assert {k: v.shape for k, v in found.items()} == {k: v.mT.shape for k, v in wanted.items()}
    assert all(np.allclose(found[k], wanted[k].mT.detach()) for k in wanted)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert SIM(skip_layers=1).get_states(net, batches)["X"].shape == (5, 20)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, scipy.sparse.csr_matrix])
def test_a_solver_of_ones_own_gets_states_and_its_matrices_are_the_model(convert):
    rng = np.random.default_rng(0)
    A, B, C, D = (0.15 * rng.standard_normal(s) for s in [(5, 5), (5, 4), (2, 5), (2, 4)])
    solver = Plain(*(convert(M) for M in (A, B, C, D)))
    sim = SIM(dtype="float64", kappa=0.9, atol=1e-10)
    with pytest.warns(UserWarning, match="the student is poor: "):
        assert sim.train(solver=solver, model=teacher(), dataloader=loader()) is sim
    X, U, Z, Y, config = solver.given
    assert [M.shape for M in (X, U, Z, Y)] == [(5, 20), (4, 20), (5, 20), (2, 20)]
    assert all(isinstance(M, np.ndarray) for M in (X, U, Z, Y))
    assert config == {"activation_fn": nn.functional.relu, "device": "cpu", "atol": 1e-10,
                      "kappa": 0.9}
    own = unrolled(A, U.T @ B.T, "relu")
    assert np.allclose(sim(torch.from_numpy(U.T.copy())), own @ C.T + U.T @ D.T, atol=1e-8)
    missed = Y.T - own @ C.T - U.T @ D.T
    assert sim.fidelity == pytest.approx(1 - missed.var(0).sum() / Y.var(1).sum()
                                         - (missed.mean(0)**2).sum() / Y.var(1).sum(), rel=1e-6)
    assert np.allclose(sim(U.T.reshape(20, 1, 2, 2)), own @ C.T + U.T @ D.T, atol=1e-8)
    assert np.allclose(fixpoint_iteration(*solver.matrices[:2], U, torch.relu, "cpu", atol=1e-10),
                       own.T, atol=1e-8)
    sim.weights["C"] = 2 * sim.weights["C"]
    assert np.allclose(sim(U.T), 2 * own @ C.T + U.T @ D.T, atol=1e-8)


def test_dtype_and_device_are_the_models(capsys):
    sim = trained()
    assert sim.model.A.dtype == torch.float64
    assert sim.to(dtype="float32") is sim and sim.model.A.dtype == torch.float32
    accuracy = sim.evaluate(loader())
    right = (sim(loader().dataset.tensors[0]).argmax(1) == loader().dataset.tensors[1])
    assert accuracy == pytest.approx(right.float().mean().item())
    assert capsys.readouterr().out == f"Test accuracy: {accuracy:.2%}\n"
    assert SIM(dtype="torch.float16").dtype == torch.float16


def test_inputs_are_standardised_in_the_fit_and_not_in_the_use(tmp_path):
    torch.manual_seed(0)
    U = 3 * torch.randn(50, 4, dtype=torch.float64) + 5
    U[:, 2] = 7.0  # a pixel that never changes
    sim = SIM(standardize=True, dtype="float64", atol=1e-10)
    spread = U.std(0, correction=0)
    standard = (U / torch.where(spread > 0, spread, 1)).numpy()
    sim.train(ADMMSolver(lambda_z=1e-4, lambda_y=1e-4, regen_states=True), teacher(), [U],
              save_states_path=tmp_path / "raw.npy")
    A, B, C, D = (sim.weights[name] for name in "ABCD")
    own = unrolled(A, standard @ B.T, "relu")
    assert np.allclose(sim(U), own @ C.T + standard @ D.T, atol=1e-6)
    assert np.allclose(sim(U), sim.model(U).detach(), atol=1e-9)
    given = saved.load(tmp_path / "raw.npy")
    assert np.allclose(given["U"].T, U) and np.array_equal(given["X"], np.maximum(given["Z"], 0))
    again = SIM(standardize=True, dtype="float64", atol=1e-10).train(
        ADMMSolver(lambda_z=1e-4, lambda_y=1e-4, regen_states=True), None,
        states_data_path=tmp_path / "raw.npy")
    assert np.array_equal(again(U), sim(U))


def test_an_ill_posed_model_is_told_at_evaluation():
    exploding = Plain(0.5 * np.ones((5, 5)), np.ones((5, 4)), np.ones((2, 5)), np.ones((2, 4)))
    with pytest.warns(UserWarning, match="the student is poor: .* explains -"):
        sim = SIM(dtype="float64").train(exploding, teacher(), loader())
    with pytest.warns(UserWarning) as seen:
        sim.evaluate([(torch.zeros(3, 4), torch.tensor([0, 1, 1]))])
    assert "not certified to be well-posed" in str(seen[0].message)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:the student is poor")
def test_on_a_gpu():
    options = {"lambda_z": 0.1, "lambda_y": 0.1, "regen_states": True}
    there = SIM(device="cuda", dtype="float64").train(
        ADMMMultiGPUSolver([0], **options), teacher().cuda(), loader())
    here = SIM(dtype="float64").train(ADMMSolver(**options), teacher(), loader())
    assert there.model.A.is_cuda and there(torch.ones(2, 4)).is_cuda
    for name in "ABCD":
        assert np.allclose(there.weights[name], here.weights[name], atol=1e-6)
    assert there.evaluate(loader()) == here.evaluate(loader())


# --- saved states ---------------------------------------------------------------------------------


def test_states_are_saved_and_read_again_without_a_teacher(tmp_path):
    sim = SIM(dtype="float64").train(CVXSolver(num_processes=1), teacher(), loader(),
                                     save_states_path=tmp_path / "states")
    file = tmp_path / "states.npy"
    again = SIM(dtype="float64").train(CVXSolver(num_processes=1), None, states_data_path=file)
    assert all((sim.weights[k] != again.weights[k]).nnz == 0 for k in "ABCD")
    assert np.array_equal(np.load(file)["X"], saved.load(file)["X"])  # what torchidl itself reads


def test_torchidls_own_file_is_read_and_nothing_in_it_is_run(tmp_path):
    states = dict(zip("XUZY", teacher_states(), strict=True))
    np.save(tmp_path / "theirs.npy", states)
    found = saved.load(tmp_path / "theirs.npy")
    assert all(np.array_equal(found[k], states[k]) for k in "XUZY")
    for protocol in (3, 5):
        data = np.lib.format.magic(1, 0)
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': ()}"
        head += b" " * (117 - len(head)) + b"\n"
        data += len(head).to_bytes(2, "little") + head
        file = tmp_path / f"protocol_{protocol}.npy"
        file.write_bytes(data + pickle.dumps(np.array(states, dtype=object), protocol=protocol))
        assert np.array_equal(saved.load(file)["Z"], states["Z"])


class Trap:
    def __reduce__(self):
        return open, ("trap was run", "w")


@pytest.mark.parametrize("content", [
    {"X": Trap()}, Trap(), {"X": np.eye(2)}, [1, 2], np.eye(3),
    dict.fromkeys("XUZY", np.eye(2, dtype=int)), dict.fromkeys("XUZY", np.ones(3)),
    dict(zip("XUZY", [np.eye(2), np.eye(2), np.eye(2), np.eye(3)], strict=True)),
], ids=["a trap", "all trap", "X alone", "a list", "a matrix", "integers", "vectors", "lengths"])
def test_another_file_is_refused_in_a_sentence(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "file.npy", content if isinstance(content, np.ndarray)
            else np.array(content, dtype=object))
    with pytest.raises(ValueError, match="file.npy holds no states: "):
        saved.load(tmp_path / "file.npy")
    assert not (tmp_path / "trap was run").exists()
    (tmp_path / "file.npy").write_bytes(b"not an array")
    rejects(lambda: saved.load(tmp_path / "file.npy"), ValueError, "holds no states")
