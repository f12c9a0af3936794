"""A teacher's states: against its own layers called by hand, and against it read as matrices."""

import copy
import weakref

import numpy as np
import pytest
import torch
from helpers import draw, mat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from idl_lab import networks
from idl_lab.sim import states


def collect(*args, **kwargs):
    return states.collect(*args, progress=False, **kwargs)


def gram_statistics(*args, **kwargs):
    return states.gram_statistics(*args, progress=False, **kwargs)


def mlp(*sizes, bias=True, phi=nn.ReLU):
    layers = []
    for p, q in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(p, q, bias=bias), phi()]
    return nn.Sequential(*layers[:-1]).double()


class Twice(nn.Module):
    """One activation module, called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.phi = nn.Linear(5, 4), nn.Linear(4, 3), nn.ReLU()
        self.double()

    def forward(self, u):
        return self.phi(self.two(self.phi(self.one(u))))


class Residual(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
        self.phi = nn.ReLU(inplace=True)

    def forward(self, u):
        return self.phi(u + self.inner(u))


def conv():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
                         nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.2), nn.Flatten(),
                         nn.Linear(3, 4)).double()


TEACHERS = {"mlp": (lambda: mlp(5, 7, 4, 3), (5,)),
            "bias-free": (lambda: mlp(5, 7, 4, 3, bias=False), (5,)),
            "in place": (lambda: mlp(5, 6, 4, 3, phi=lambda: nn.ReLU(inplace=True)), (5,)),
            "mixed": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3),
                                            nn.Sigmoid(), nn.Linear(3, 2)).double(), (5,)),
            "shared": (Twice, (5,)), "conv": (conv, (1, 6, 6)),
            "residual": (lambda: nn.Sequential(Residual(5), Residual(5)).double(), (5,))}


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teachers_own_matrices_reproduce_its_states(name):
    make, shape = TEACHERS[name]
    teacher, U = make(), draw(0, 12, *shape)
    network = networks.as_matrices(teacher, shape)
    found = collect(teacher, [(U[:5], 0), (U[5:], 0)])
    A, B, C, D = (mat(M.toarray()) for M in (network.A, network.B, network.C, network.D))
    Z = found.X @ A.T + U.flatten(1) @ B.T + mat(network.state_bias)
    Y = found.X @ C.T + U.flatten(1) @ D.T + mat(network.output_bias)
    assert torch.allclose(Z, found.Z, atol=1e-12) and torch.allclose(Y, found.Y, atol=1e-12)
    assert torch.allclose(network.activation(found.Z), found.X, atol=1e-15)
    assert torch.equal(found.U, U.flatten(1))
    with torch.no_grad():
        assert torch.allclose(found.Y, teacher(U.clone()).flatten(1), atol=1e-12)
    assert gram_statistics(teacher, [U]).blocks == network.blocks


def test_states_are_those_of_the_layers_called_by_hand_last_first():
    teacher, U = mlp(5, 7, 4, 3), draw(0, 6, 5)
    with torch.no_grad():
        z1 = teacher[0](U)
        z2 = teacher[2](z1.relu())
    found = collect(teacher, [U])
    torch.testing.assert_close(found.Z, torch.cat([z2, z1], 1))
    torch.testing.assert_close(found.X, torch.cat([z2, z1], 1).relu())


@settings(max_examples=10)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_statistics_are_the_products_whatever_the_batches(sizes, ones):
    torch.manual_seed(0)
    teacher, U = mlp(3, 4, 2), draw(sum(sizes), sum(sizes), 3)
    found = collect(teacher, [U])
    grams = gram_statistics(teacher, U.split(sizes), ones=ones)
    Phi = np.concatenate([found.X, found.U, *([np.ones((len(U), 1))] if ones else [])], 1)
    Z, Y = found.Z.numpy(), found.Y.numpy()
    for got, wanted in [(grams.gram, Phi.T @ Phi), (grams.cross_Z, Z.T @ Phi),
                        (grams.cross_Y, Y.T @ Phi), (grams.norms_Z, (Z**2).sum(0)),
                        (grams.norms_Y, (Y**2).sum(0))]:
        assert got.dtype == torch.float64
        assert got.numpy() == pytest.approx(wanted, rel=1e-10, abs=1e-10)
    assert (grams.samples, grams.n, grams.p, grams.q, grams.ones) == (len(U), 4, 3, 2, ones)
    assert grams.input_shape == (3,)
    if ones:
        assert torch.equal(grams.without_ones().gram, grams.gram[:-1, :-1])


def test_batches_are_let_go():
    alive = []

    def loader():
        for k in range(20):
            U = draw(k, 8, 3)
            alive.append(weakref.ref(U))
            yield U
            del U
            assert sum(ref() is not None for ref in alive) <= 2

    assert gram_statistics(mlp(3, 4, 2), loader()).samples == 160


def test_rescaled_statistics_are_those_of_the_rescaled_states():
    teacher, U, v = mlp(3, 4, 2), draw(0, 9, 3), draw(1, 4).abs() + 0.1
    grams, found = gram_statistics(teacher, [U]).rescaled(v), collect(teacher, [U])
    X, Z = found.X / v, found.Z / v
    Phi = torch.cat([X, U, torch.ones_like(U[:, :1])], 1)
    assert torch.allclose(grams.gram, Phi.mT @ Phi) and torch.allclose(grams.cross_Z, Z.mT @ Phi)
    assert torch.allclose(grams.cross_Y, found.Y.mT @ Phi) and torch.equal(grams.units, v)
    assert torch.allclose(grams.norms_Z, Z.square().sum(0))


@pytest.mark.parametrize("kappa", [0.3, 0.99])
@pytest.mark.parametrize("name", ["mlp", "bias-free", "conv", "residual", "shared"])
def test_after_rescaling_the_teacher_is_feasible_and_exact(name, kappa):
    make, shape = TEACHERS[name]
    teacher, U = make(), draw(0, 12, *shape)
    teacher.load_state_dict({k: 3 * T for k, T in teacher.state_dict().items()})
    grams = gram_statistics(teacher, [U])
    network = states.teacher_as_matrices(teacher, grams)
    scaled, note, free = states.rescale(grams, network, kappa)
    v = scaled.units
    A = mat(network.A.toarray()) / v[:, None] * v
    B = mat(network.B.toarray()) / v[:, None]
    W = torch.cat([A, B, (mat(network.state_bias) / v)[:, None]], dim=1)
    residual = ((W @ scaled.gram - 2 * scaled.cross_Z) * W).sum(1) + scaled.norms_Z
    assert free and "Rescaled" in note
    assert A.abs().sum(1).max() <= kappa
    assert residual.abs().max() <= 1e-9 * scaled.norms_Z.max()


def test_what_keeps_the_teachers_units_is_said():
    cases = [("mixed", 0.01, "sigmoid, tanh is not positively homogeneous", False),
             ("mlp", 0.0, "kappa must be > 0", False)]
    for name, kappa, words, wanted in cases:
        make, shape = TEACHERS[name]
        grams = gram_statistics(teacher := make(), [draw(0, 4, *shape)])
        network = states.teacher_as_matrices(teacher, grams)
        same, note, free = states.rescale(grams, network, kappa)
        assert same is grams and words in note and free is wanted
    shallow = mlp(3, 4, 2)
    grams = gram_statistics(shallow, [draw(0, 4, 3)])
    same, note, free = states.rescale(grams, states.teacher_as_matrices(shallow, grams), 0.5)
    assert same is grams and free and "costs nothing" in note


def test_the_teacher_is_left_as_it_was_found_also_after_an_error():
    teacher = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5),
                            nn.Linear(4, 2)).double()
    teacher[1].eval()
    teacher[0].weight.requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())

    def looks_the_same():
        assert [m.training for m in teacher] == [True, False, True, True, True]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())
        assert [p.requires_grad for p in teacher.parameters()] == [False] + 5 * [True]
        assert all(torch.equal(T, before[k]) for k, T in teacher.state_dict().items())
        assert all(p.grad is None for p in teacher.parameters())

    gram_statistics(teacher, [draw(0, 8, 3)])
    looks_the_same()
    with pytest.raises(RuntimeError, match="shapes"):
        gram_statistics(teacher, [draw(0, 8, 5)])
    looks_the_same()


def test_layers_are_chosen():
    teacher = nn.Sequential(Residual(5), Residual(5), nn.Linear(5, 2)).double()
    U = [draw(0, 4, 5)]
    names = lambda **kw: [block.name for block in gram_statistics(teacher, U, **kw).blocks]  # noqa: E731
    both = ["1.phi (ReLU)", "1.inner.1 (ReLU)", "0.phi (ReLU)", "0.inner.1 (ReLU)"]
    assert names() == both
    assert names(skip_layers=3) == both  # no module has more than three children
    assert names(skip_layers=2) == ["1.phi (ReLU)", "0.phi (ReLU)"]
    assert names(layers=["0.phi", "1.inner.1"]) == ["1.inner.1 (ReLU)", "0.phi (ReLU)"]
    everything, some = collect(teacher, U), collect(teacher, U, skip_layers=2)
    torch.testing.assert_close(
        some.X, torch.cat([everything.X[:, :5], everything.X[:, 10:15]], 1))


class Sine(nn.Module):
    def forward(self, s):
        return torch.sin(s)


def test_an_own_activation_named_is_a_layer():
    teacher = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), Sine()).double()
    (block,) = gram_statistics(teacher, [draw(0, 4, 3)], layers=["3"]).blocks
    assert block.name == "3 (Sine)" and block.activation.slope == pytest.approx(1)


def test_a_teacher_may_overwrite_its_input_and_the_callers_data_stay():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.phi = nn.Linear(3, 4, device="cpu"), nn.ReLU()

        def forward(self, x):
            x -= 3.0
            return self.phi(self.one(x))

    U = draw(0, 10, 3).float() + 3
    before = U.clone()
    states = collect(Shifted(), [U])
    assert torch.equal(U, before) and torch.equal(states.U, before)
