"""What is handed to an outside verifier says the same as the model and its certificate."""

import math
import re

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from idl_lab import ImplicitModel
from idl_lab.robustness import certify, pgd, to_onnx, to_vnnlib
from tests.helpers import draw
from tests.robustness_cases import case, exactly


class Skips(nn.Module):
    """Branches, a skip connection and no bias in the end."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.tanh = nn.Linear(4, 5), nn.Linear(5, 5), nn.Tanh()
        self.relu, self.last = nn.ReLU(), nn.Linear(5, 3, bias=False)

    def forward(self, u):
        x = self.relu(self.first(u))
        return self.last(x + self.tanh(self.second(x))) + u[:, :3]


def sequential(*phis):
    return nn.Sequential(nn.Linear(4, 6), phis[0], nn.Linear(6, 5), phis[-1], nn.Linear(5, 3))


NETS = {
    "relu": lambda: sequential(nn.ReLU()), "tanh": lambda: sequential(nn.Tanh(), nn.ReLU()),
    "sigmoid": lambda: sequential(nn.Sigmoid()), "skips": Skips,
    "leaky": lambda: sequential(nn.LeakyReLU(), nn.LeakyReLU(0.3)),
    "elu, softplus": lambda: sequential(nn.ELU(), nn.Softplus()),
    "prelu": lambda: sequential(nn.PReLU(6), nn.PReLU()),
    "no bias": lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)),
}


def network(name, dtype=torch.float64, seed=0):
    net = NETS[name]().to(dtype)
    generator = torch.Generator().manual_seed(seed)
    for T in net.parameters():
        T.data = torch.randn(T.shape, generator=generator, dtype=dtype)
    return net


def evaluated(path, U):
    return ReferenceEvaluator(str(path)).run(None, {"u": U.numpy()})[0]


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", NETS)
def test_the_graph_is_the_network(name, dtype, near, tmp_path):
    net, U = network(name, dtype), draw(1, 40, 4).to(dtype)
    model = ImplicitModel.from_network(net)
    to_onnx(model, tmp_path / "net.onnx")
    Y = evaluated(tmp_path / "net.onnx", U)
    assert Y.dtype == U.numpy().dtype
    want = net(U).detach().numpy()
    assert np.abs(Y - want).max() <= near * max(1, np.abs(want).max())
    graph = onnx.load(tmp_path / "net.onnx").graph
    kinds = [node.op_type for node in graph.node]
    if name == "relu":  # what every verifier reads
        assert kinds == ["Gemm", "Relu", "Gemm", "Relu", "Gemm"]
    assert graph.input[0].type.tensor_type.shape.dim[1].dim_value == 4


@pytest.mark.parametrize(("seed", "phi"), [(0, "relu"), (1, "identity"), (2, "sigmoid")])
def test_states_in_any_order_and_zeros_anywhere(seed, phi, tmp_path):
    """Of a pruned network whose states are shuffled, layers are found by the zeros of A alone."""
    order = torch.randperm(11, generator=torch.Generator().manual_seed(seed))
    model = ImplicitModel.from_network(network("relu", seed=seed))
    A, B, C = (T.detach() for T in (model.A, model.B, model.C))
    A = A * (draw(seed, *A.shape).abs() > 0.8)
    shuffled = ImplicitModel.from_matrices(
        A[order][:, order], B[order], C[:, order], activation=phi,
        state_bias=model.state_bias.detach()[order], output_bias=model.output_bias.detach())
    to_onnx(shuffled, tmp_path / "net.onnx")
    U = draw(seed, 30, 4)
    assert np.abs(evaluated(tmp_path / "net.onnx", U) - exactly(shuffled, U)[1]).max() <= 1e-12


def test_feedback_is_refused_with_a_loop(tmp_path):
    A = torch.zeros(4, 4)
    A[0, 2] = A[2, 3] = A[3, 2] = 0.1
    model = ImplicitModel.from_matrices(A, torch.ones(4, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match="feedback.*state 2 reads state 3 reads state 2"):
        to_onnx(model, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="state 1 reads state 1"):
        to_onnx(ImplicitModel.from_matrices(torch.diag(torch.tensor([0.0, 0.5])),
                                            torch.ones(2, 2), torch.ones(3, 2)), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("model", "error", "message"), [
    (nn.Linear(4, 3), TypeError, "model must be an ImplicitModel"),
    (ImplicitModel.from_network(sequential(nn.ReLU())).half(), TypeError, "float32 or float64"),
    (ImplicitModel.from_network(sequential(nn.ELU(0.3))), ValueError, "elu.*not written as ONNX"),
    (ImplicitModel.from_network(sequential(nn.Hardtanh())), ValueError, "hardtanh.*as ONNX"),
])
def test_what_cannot_be_written(model, error, message, tmp_path):
    with pytest.raises(error, match=message):
        to_onnx(model, tmp_path / "net.onnx")


def parsed(path):
    """The box and the pairs (j, label) of which one Y_j ≥ Y_label has to hold."""
    text = re.sub(";.*", "", path.read_text(encoding="utf-8"))
    ends = {(int(k), sign): float(value) for sign, k, value in
            re.findall(r"\(assert \((<=|>=) X_(\d+) (-?\d+\.\d+)\)\)", text)}
    size, scores = (len(re.findall(rf"declare-const {name}_\d+ Real", text)) for name in "XY")
    ((inside,),) = [re.findall(r"\(assert \(or (.*)\)\)", text)]
    pairs = [(int(j), int(k)) for j, k in re.findall(r"\(and \(>= Y_(\d+) Y_(\d+)\)\)", inside)]
    assert text.count("assert") == 2 * size + 1 and text.count("(") == text.count(")")
    box = np.array([[ends[k, sign] for k in range(size)] for sign in (">=", "<=")])
    return box, pairs, scores


def holds(path, net, V):
    """Whether the ONNX file's outputs at inputs V satisfy the VNN-LIB file, one by one."""
    box, pairs, _ = parsed(path)
    Y = evaluated(net, V)
    inside = ((V.numpy() >= box[0]) & (V.numpy() <= box[1])).all(1)
    return inside & np.any([Y[:, j] >= Y[:, k] for j, k in pairs], axis=0)


@pytest.mark.parametrize("eps", [0.25, 3e-7, torch.tensor([0.1, 0.0, 1e-9, 2.0]).double()])
def test_the_box_and_the_negated_property(eps, tmp_path):
    u, path = torch.tensor([0.5, -1e-8, 0.0, 12345.678], dtype=torch.float64), tmp_path / "p"
    to_vnnlib(ImplicitModel.from_network(network("relu")), u, 1, eps, path)
    box, pairs, scores = parsed(path)
    assert (box == np.stack([(u - eps).numpy(), (u + eps).numpy()])).all()
    assert pairs == [(0, 1), (2, 1)] and scores == 3
    assert "e" not in re.sub(";.*|declare-const|assert|Real", "", path.read_text(encoding="utf-8"))


def test_the_data_range_cuts_the_box_of_the_file(tmp_path):
    u = torch.tensor([0.0, 0.5, 0.9, 1.0], dtype=torch.float64)
    to_vnnlib(ImplicitModel.from_network(network("relu")), u, 0, 0.25, tmp_path / "p", low=0.0,
              high=1.0)
    assert parsed(tmp_path / "p")[0].tolist() == [[0.0, 0.25, 0.65, 0.75], [0.25, 0.75, 1.0, 1.0]]


def test_a_certificate_and_an_attack_say_of_the_files_what_they_say_of_the_model(tmp_path):
    net, U = network("leaky", seed=3), draw(2, 60, 4)
    net[-1].bias.data -= net(U).detach().mean(0)  # so that each class wins somewhere
    model, graph = ImplicitModel.from_network(net), tmp_path / "net.onnx"
    to_onnx(model, graph)
    top = model(U).detach().topk(2)
    labels = top.indices[:, 0]
    order = (top.values[:, 0] - top.values[:, 1]).argsort().tolist()
    said = {"certified": 0, "broken": 0}
    for eps in (0.05, 0.5):
        proven = certify(model, U, labels, eps, progress=False)
        V = pgd(model, U, labels, eps, progress=False)
        wrong = exactly(model, V)[1].argmax(1) != labels.numpy()
        for k in order[:8] + order[-8:]:
            path = tmp_path / "one.vnnlib"
            to_vnnlib(model, U[k], int(labels[k]), eps, path)
            tried = torch.cat([V[k:k + 1], U[k] + eps * draw(k, 300, 4).clamp(-1, 1)])
            found = holds(path, graph, tried)
            box = parsed(path)[0]
            assert ((V[k].numpy() >= box[0]) & (V[k].numpy() <= box[1])).all()
            if bool(proven.certified[k]):
                assert not found.any()
                said["certified"] += 1
            if wrong[k]:
                assert found[0]
                said["broken"] += 1
    assert min(said.values()) >= 5, said


@pytest.mark.parametrize(("change", "error", "message"), [
    (dict(label=3), ValueError, r"label must be in \[0, 2\]"),
    (dict(label=-1), ValueError, "label must be at least 0"),
    (dict(label=1.0), TypeError, "label must be"),
    (dict(eps=-0.1), ValueError, "eps must be >= 0"),
    (dict(u=torch.zeros(3, dtype=torch.float64)), ValueError, "u must have shape"),
    (dict(u=torch.full((4,), math.nan, dtype=torch.float64)), ValueError, "u must be finite"),
    (dict(low=0.5), ValueError, "U must lie in the range"),
    (dict(model=nn.Linear(4, 3)), TypeError, "model must be an ImplicitModel"),
])
def test_bad_properties(change, error, message, tmp_path):
    given = dict(model=case("network", 0), u=torch.zeros(4, dtype=torch.float64), label=0,
                 eps=0.1, path=tmp_path / "p") | change
    with pytest.raises(error, match=message):
        to_vnnlib(**given)
    assert not list(tmp_path.iterdir())
