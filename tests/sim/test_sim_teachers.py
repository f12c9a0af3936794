"""Teachers on N(0, I): each is matched, certified and without a warning, or refused with its place.

Fidelity is R² of the student's outputs against the teacher's, on inputs that neither has seen.
"""

import numpy as np
import pytest
import torch
from helpers import draw
from pretend_device import pretend_device
from sim_teachers import (
    ACCEPTED,
    REFUSED,
    WIDTH,
    Plain,
    Whole,
    bent,
    fidelity,
    image,
    made,
    trained,
)
from torch import nn

from idl_lab import ImplicitModel
from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver
from idl_lab.sim.states import (
    Unreadable,
    collect,
    gram_statistics,
    rescale,
    teacher_as_matrices,
    with_float64,
)


@pytest.mark.parametrize("options", [
    {}, {"layers": True}, *(pytest.param(options, marks=pytest.mark.slow) for options in (
        {"rescale": False}, {"skip_layers": 10}))], ids=str)
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_refused_with_its_place(name, options):
    make, words = REFUSED[name]
    teacher = made(make)
    if "layers" in options:
        options = {"layers": [next(path for path, module in teacher.named_modules()
                                   if isinstance(module, nn.ReLU))]}
    with pytest.raises(ValueError) as caught:
        trained(teacher, WIDTH.get(name, 10), batches=1, **options)
    message = str(caught.value)
    assert words in message and "must be affine" in message
    if isinstance(teacher, Plain | Whole) and "Sequential" not in message:
        assert "at line" in message and "sim_teachers.py" in message


@pytest.mark.parametrize("name", ACCEPTED)
def test_matched_and_certified_without_a_warning(name):
    teacher, width = made(ACCEPTED[name]), WIDTH.get(name, 10)
    sim = trained(teacher, width)
    assert fidelity(sim, teacher, width) >= 0.99
    assert sim.model.certificate().well_posed
    assert "cannot be read" not in str(sim.result.notes)


@pytest.mark.parametrize("phi", [nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.Hardtanh])
def test_what_may_cost_fidelity_is_said(phi):
    with pytest.warns(UserWarning, match="not positively homogeneous"):
        sim = trained(made(lambda: Plain(phi())))
    assert sim.model.certificate().well_posed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_teachers_own_rounding_is_no_refusal(dtype):
    for make in (lambda: Plain(nn.PReLU()), ACCEPTED["convolutions"]):
        teacher = made(make).to(dtype)
        U = [T.to(dtype) for T in draw(7, 200, 40 if isinstance(teacher, nn.Sequential) else 10
                                       ).split(40)]
        assert gram_statistics(teacher, U, progress=False).samples == 200
        assert "Rescaled" in " ".join(SIM(device="cpu", progress=False).train(
            ADMMSolver(device="cpu", progress=False), teacher, U).result.notes)


@pytest.mark.parametrize("batches", [2, 25, 200])
def test_batches_that_are_affine_each_by_itself(batches):
    """One class after the other; and batches of a single sample."""
    teacher = made(lambda: Whole(lambda net, x: net.net(torch.where(x[:, :1] > 0, x, 1 - x))))
    U = draw(0, 200, 10)
    U = U[U[:, 0].argsort()].chunk(batches)
    for loader in (U, U[::-1]):
        with pytest.raises(ValueError, match="must be affine"):
            gram_statistics(teacher, loader, progress=False)
    assert gram_statistics(made(lambda: Plain(nn.ReLU())), U, progress=False).samples == 200


def test_activations_that_are_left_out_are_known():
    teacher = made(lambda: nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(),
                                         nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 2)))
    with pytest.warns(UserWarning, match="student is poor.* Only 1 of its 3 layers are kept"):
        sim = trained(teacher, layers=["3"])
    assert [block.name for block in sim.result.blocks] == ["3 (ReLU)"]
    assert "Only 1 of its 3 layers are kept" in " ".join(sim.result.notes)
    with pytest.raises(ValueError, match="must act on each component alone"):
        trained(made(lambda: Plain(nn.Softmax(-1))), layers=["h"])
    with pytest.raises(ValueError, match=r"h \(Softmax\) cannot be an implicit model's φ"):
        trained(made(lambda: Plain(nn.Softmax(1))), layers=["h"])


@pytest.mark.parametrize("bends", [(0.25,), (-0.5, 0.3, 1.5), (2.0,), (-3.0, 1.0)], ids=str)
def test_the_slopes_of_prelu(bends):
    """A row's slope L is the largest of 1 and |a|; in new units the teacher has ‖A_i‖₁ ≤ κ/L."""
    channels = [nn.Conv2d(1, len(bends), 2), bent(*bends), nn.Conv2d(len(bends), 2, 2), nn.ReLU()]
    teacher = made(lambda: image(*channels, nn.Conv2d(2, 1, 2)))
    grams = gram_statistics(teacher, [draw(0, 50, 40)], progress=False)
    wanted = np.repeat(np.maximum(1, np.abs(bends)), 28)
    assert grams.slopes.numpy() == pytest.approx(np.concatenate([np.ones(36), wanted]))
    network = teacher_as_matrices(teacher, grams)
    scaled, note, free = rescale(grams, network, 0.9)
    v, slopes = scaled.units.numpy(), grams.slopes.numpy()
    rows = slopes * abs(network.A.toarray() / v[:, None] * v).sum(1)
    assert free and "Rescaled" in note and rows.max() <= 0.9
    S = draw(1, 5, len(v))
    phi = grams.activation(S)[:, 36:]
    a = torch.tensor(np.repeat(bends, 28), dtype=torch.float64)
    torch.testing.assert_close(phi, torch.where(S[:, 36:] > 0, 1, a) * S[:, 36:])


@pytest.mark.parametrize("name", ["convolutions", "cumsum", "in place on a skip", "two branches",
                                  "a filter by FFT", "asks for dimensions", "cat"])
def test_matrices_from_unit_vectors_give_the_teachers_states(name):
    teacher, width = made(ACCEPTED[name]), WIDTH.get(name, 10)
    seen = collect(teacher, [draw(3, 30, width)], progress=False)
    grams = gram_statistics(teacher, [draw(4, 60, width)], progress=False)
    network = teacher_as_matrices(teacher, grams)
    X, U = seen.X.numpy(), seen.U.numpy()
    assert X @ network.A.toarray().T + U @ network.B.toarray().T + network.state_bias == \
        pytest.approx(seen.Z.numpy(), abs=1e-10)
    assert X @ network.C.toarray().T + U @ network.D.toarray().T + network.output_bias == \
        pytest.approx(seen.Y.numpy(), abs=1e-10)
    sizes = [block.size for block in grams.blocks]
    block_of = np.repeat(np.arange(len(sizes)), sizes)
    rows, columns = network.A.nonzero()
    assert (block_of[rows] < block_of[columns]).all()


@pytest.mark.filterwarnings("ignore:state matching stopped early")
def test_a_teacher_that_is_another_function_of_unit_vectors_is_not_read():
    teacher = made(lambda: Whole(lambda net, x: net.net(x.clamp(min=20))))
    grams = gram_statistics(teacher, [30 + draw(4, 60, 10)], progress=False)
    with pytest.raises(Unreadable, match="net.1 .ReLU. is another affine function"):
        teacher_as_matrices(teacher, grams)
    with pytest.warns(UserWarning, match="Not rescaled: the teacher cannot be read"):
        SIM(device="cpu", progress=False).train(ADMMSolver(device="cpu", progress=False), teacher,
                                                [30 + draw(4, 60, 10)])


def test_states_are_regenerated_on_the_models_device(monkeypatch):
    plain, seen = ImplicitModel.equilibrium, set()

    def spy(model, U, **options):
        seen.add((U.device.type, U.dtype))
        return plain(model, U, **options)

    monkeypatch.setattr(ImplicitModel, "equilibrium", spy)
    with pretend_device() as device:
        trained(made(lambda: Plain(nn.ReLU())), device=device, regenerate_states=True)
        assert with_float64(device) == device
    assert seen == {(device.type, torch.float64)}
    assert with_float64(torch.device("mps")) == torch.device("cpu")


@pytest.mark.parametrize("offset", [0.0, 2000.0])
def test_rounding_of_large_numbers_is_told_from_a_bend(offset):
    """In float32 an input of 2000 ± 1e-2 is a staircase, in float64 the teacher is affine."""
    teacher = nn.Sequential(nn.BatchNorm1d(10), made(lambda: Plain(nn.ReLU()))).float()
    U = (offset + 1e-2 * draw(0, 200, 10)).float()
    teacher[0](U)  # its running statistics
    teacher[0].momentum = 1.0
    teacher[0](U)
    assert gram_statistics(teacher, U.split(50), progress=False).samples == 200
    bent_too = nn.Sequential(teacher[0], made(REFUSED["a square"][0])).float()
    with pytest.raises(ValueError, match="must be affine"):
        gram_statistics(bent_too, U.split(50), progress=False)
