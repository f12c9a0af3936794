"""A SIM as a file: all that save writes is read again, and what is no such file is told."""

import pytest
import torch
from helpers import draw
from sim_students import random_teacher, taught_sim
from torch import nn

from idl_lab.activations import ACTIVATION_MODULES
from idl_lab.sim import SIM, saving

pytestmark = [pytest.mark.filterwarnings("ignore:(state|output) matching stopped early"),
              pytest.mark.filterwarnings("ignore:the student is poor"),
              pytest.mark.filterwarnings("ignore:activation .* is expansive")]


def made(kind):
    options = {nn.GELU: {"approximate": "tanh"}, nn.Softplus: {"beta": 3}, nn.CELU: {"alpha": 0.7},
               nn.LeakyReLU: {"negative_slope": 1 / 3}, nn.Hardtanh: {"min_val": -0.3},
               nn.ELU: {"alpha": 0.4}, nn.PReLU: {"num_parameters": 5}}
    module = kind(**options.get(kind, {})).double()
    if kind is nn.PReLU:
        module.weight.data = draw(7, 5)
    return module


def teacher_of(*modules):
    torch.manual_seed(0)
    parts, size = [], 3
    for module in modules:
        parts += [nn.Linear(size, 5), module]
        size = 5
    return nn.Sequential(*parts, nn.Linear(5, 2)).double()


def same_again(sim, path, **given):
    sim.save(path)
    again, U = SIM.load(path, device="cpu", **given), draw(1, 9, sim.model.B.shape[1])
    assert torch.equal(again.model(U), sim.model(U))
    assert again.model.activation.slope == sim.model.activation.slope
    assert again.result.notes == sim.result.notes and again.weigh == sim.weigh
    for block, wanted in zip(again.result.blocks, sim.result.blocks, strict=True):
        assert (block.name, block.size, block.activation.name) == (
            wanted.name, wanted.size, wanted.activation.name)
    return again


@pytest.mark.parametrize("kind", ACTIVATION_MODULES, ids=lambda kind: kind.__name__)
def test_every_activation_of_torchs_is_read_again(kind, tmp_path):
    same_again(taught_sim(teacher_of(made(kind)), draw(0, 40, 3)), tmp_path / "sim.pt")


@pytest.mark.parametrize("inplace", [nn.ELU(0.4, inplace=True), nn.SELU(inplace=True)])
def test_so_is_one_that_overwrites(inplace, tmp_path):
    same_again(taught_sim(teacher_of(inplace), draw(0, 40, 3)), tmp_path / "sim.pt")


def test_so_is_a_mixture(tmp_path):
    teacher = teacher_of(nn.GELU(), nn.LeakyReLU(0.3), nn.Softplus(3), made(nn.PReLU))
    again = same_again(taught_sim(teacher, draw(0, 80, 3), weigh="adaptive", refit=True),
                       tmp_path / "sim.pt")
    assert again.refit and again.model.certificate().well_posed


class Cube(nn.Module):
    def forward(self, S):
        return S.clamp(-1, 1) ** 3 / 3


class Bump(nn.Module):
    def forward(self, S):
        return 1 / (1 + S * S)


def test_what_is_nobodys_is_asked_for_and_found_by_its_values(tmp_path):
    teacher = teacher_of(Cube(), nn.GELU(), Bump())
    sim = taught_sim(teacher, draw(0, 80, 3), layers=["1", "3", "5"])
    for given in ((Bump(), Cube()), [Cube(), nn.Tanh(), Bump()]):
        same_again(sim, tmp_path / "sim.pt", activation_fn=given)
    with pytest.raises(ValueError, match="bump, is none of torch's.*tanh, which was given"):
        SIM.load(tmp_path / "sim.pt", activation_fn=nn.Tanh())


def test_options_come_back(tmp_path):
    sim = taught_sim(random_teacher(2), draw(0, 60, 6), kappa=0.9, lambda_z=0.1, ridge=0.2,
                     weigh="uniform", regenerate_states=True, layers=("1", "3"), feedback=False)
    again = same_again(sim, tmp_path / "sim.pt")
    options = "kappa lambda_z lambda_y exact ridge rescale skip_layers regenerate_states dtype"
    for name in (*options.split(), "weigh", "refit", "feedback"):
        assert getattr(again, name) == getattr(sim, name)
    assert again.layers == ["1", "3"]


def wrong_files():
    def old(path):
        torch.save({"state_dict": {}, "result": {}, "options": {}}, path)

    def newer(path):
        torch.save({"format": saving.FORMAT, "version": 99, "options": {}}, path)

    def cut(path):
        taught_sim(random_teacher(1), draw(0, 20, 6)).save(path)
        path.write_bytes(path.read_bytes()[:900])

    def bare(path):
        torch.save(taught_sim(random_teacher(1), draw(0, 20, 6)).model.state_dict(), path)

    return {
        "a table": (lambda path: path.write_text("a,b\n1,2\n"), "of another kind"),
        "empty": (lambda path: path.write_bytes(b""), "cut off or of another kind"),
        "cut off": (cut, "cut off or of another kind"),
        "a state_dict": (bare, "holds a state_dict of .*neither φ nor κ"),
        "a tensor": (lambda path: torch.save(torch.ones(3), path), "holds no SIM but Tensor"),
        "a dict": (lambda path: torch.save({"a": 1}, path), "holds no SIM but dict"),
        "a module": (lambda path: torch.save(nn.Linear(2, 2), path), "of another kind"),
        "older": (old, "version 1, and this library reads version"),
        "newer": (newer, "version 99, and this library reads version"),
    }


@pytest.mark.parametrize("name", wrong_files())
def test_a_wrong_file_is_a_sentence(name, tmp_path):
    write, said = wrong_files()[name]
    write(tmp_path / "some.pt")
    with pytest.raises(ValueError, match=said) as caught:
        SIM.load(tmp_path / "some.pt")
    assert "SIM.load reads what SIM.save wrote" in str(caught.value) or "version" in str(
        caught.value)
    assert str(tmp_path / "some.pt") in str(caught.value)


def test_a_file_that_is_not_there_is_said_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        SIM.load(tmp_path / "none.pt")
