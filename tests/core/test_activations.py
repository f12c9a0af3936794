"""The built-in activations against numpy; users' own against what is known of them."""

import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU64, PHI, central_difference, draw, mat, rejects
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from idl_lab import networks
from idl_lab.activations import ACTIVATIONS, Activation, activation
from idl_lab.networks import blockwise

S = draw(0, 4, 5, scale=3)
floats = st.floats(-50, 50)


def test_there_are_exactly_the_promised_ones():
    assert set(ACTIVATIONS) == set(PHI)


@pytest.mark.parametrize("name", PHI)
def test_values_and_derivatives(name):
    phi = activation(name)
    assert phi(S).numpy() == pytest.approx(PHI[name](S.numpy()), abs=1e-12)
    wanted = central_difference(lambda s: PHI[name](s).sum(), S.numpy())
    assert phi.derivative(S).numpy() == pytest.approx(wanted, abs=1e-8)
    assert not phi.derivative(S).requires_grad


@pytest.mark.parametrize("name", PHI)
def test_calling_leaves_the_argument_alone_and_in_place_agrees(name):
    phi, before = activation(name), S.clone()
    value = phi(S)
    assert torch.equal(S, before) and value.data_ptr() != S.data_ptr()
    assert phi(S.float()).dtype == torch.float32
    if phi.in_place is not None:
        assert torch.equal(phi.in_place(S.clone()), value)


@pytest.mark.parametrize("name", PHI)
@given(s=floats, t=floats)
def test_lipschitz_with_the_declared_slope(name, s, t):
    phi = activation(name)
    distance = abs(float(phi(mat(s))) - float(phi(mat(t))))
    assert distance <= phi.slope * abs(s - t) + 1e-12
    assert phi.non_expansive


@pytest.mark.parametrize("name", PHI)
def test_declared_slope_is_attained(name):
    grid = torch.linspace(-8, 8, 100_000, **CPU64)
    attained = float(activation(name).derivative(grid).max())
    assert attained == pytest.approx(activation(name).slope, abs=1e-3)


@pytest.mark.parametrize("name", PHI)
def test_homogeneous_where_declared_and_only_there(name):
    phi, scales = activation(name), (0.0, 0.3, 7.0)
    same = all(np.allclose(phi(t * S), t * phi(S), atol=1e-12) for t in scales)
    assert same == phi.homogeneous


@pytest.mark.parametrize(("phi", "slope", "homogeneous"), [
    (lambda s: torch.clamp(s, 0, 6), 1.0, False),
    (lambda s: 0.5 * s.abs(), 0.5, True),
    (torch.atan, 1.0, False),
    (lambda s: F.leaky_relu(s, 0.2), 1.0, True),
    (nn.Softshrink(0.5), 1.0, False),
    (F.softsign, 1.0, False),
])
def test_users_own_are_measured(phi, slope, homogeneous):
    measured = activation(phi)
    assert measured.slope == pytest.approx(slope, abs=2e-3)
    assert measured.non_expansive and measured.homogeneous == homogeneous


@pytest.mark.parametrize(("phi", "slope"), [(F.silu, 1.0998), (F.gelu, 1.1289), (F.mish, 1.0885)])
def test_expansive_ones_are_accepted_with_a_warning(phi, slope):
    with pytest.warns(UserWarning, match="expansive") as caught:
        measured = activation(phi)
    assert measured.slope == pytest.approx(slope, abs=1e-3) and not measured.non_expansive
    message = str(caught[0].message)
    assert f"{slope:.3g}" in message and f"{1 / slope:.3g}" in message
    assert "no longer guarantees a unique equilibrium" in message
    assert caught[0].filename == __file__


@pytest.mark.parametrize("module", [
    nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(),
    nn.LeakyReLU(0.2), nn.LeakyReLU(-0.5), nn.ELU(), nn.ELU(0.5), nn.ELU(1.0, inplace=True),
    nn.Softplus(), nn.Softplus(2.0), nn.Hardtanh(), nn.Hardtanh(-2.0, 3.0)])
def test_the_table_of_modules_says_what_a_measurement_finds(module):
    known, measured = activation(module), activation(lambda s: module(s.clone()))
    assert torch.equal(known(S), module(S.clone()))
    for one, other in ((known.slope, measured.slope), (known.homogeneous, measured.homogeneous),
                       (known.increasing, measured.increasing)):
        assert one == pytest.approx(other, abs=1e-3)
    assert torch.equal(pickle.loads(pickle.dumps(known))(S), known(S))


def test_a_module_at_torchs_own_options_is_the_built_in_everywhere():
    for module, name in ((nn.ReLU(), "relu"), (nn.LeakyReLU(), "leaky_relu"), (nn.ELU(), "elu"),
                         (nn.Softplus(), "softplus"), (nn.Hardtanh(), "hardtanh")):
        assert activation(module) is ACTIVATIONS[name]
        net = nn.Sequential(nn.Linear(2, 3, device="cpu"), module)
        assert networks.as_matrices(net).blocks[0].activation is ACTIVATIONS[name]
    assert activation(nn.LeakyReLU(0.3)) is activation(nn.LeakyReLU(0.3))


def test_a_module_is_taken_in_eval_mode_and_left_alone():
    module = nn.RReLU()
    assert activation(module).homogeneous and module.training


def test_in_place_modules_do_not_spoil_value_or_derivative():
    elu = activation(nn.ELU(inplace=True))
    before = S.clone()
    assert torch.equal(elu(S), F.elu(S)) and torch.equal(S, before)
    assert torch.allclose(elu.derivative(S), activation("elu").derivative(S))


def test_known_callables_are_recognised_quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for phi in (torch.relu, F.relu, torch.tanh, F.tanh, F.elu, F.softplus, torch.sigmoid):
            assert activation(phi) is ACTIVATIONS[phi.__name__]
    assert activation(ACTIVATIONS["elu"]) is ACTIVATIONS["elu"]


@pytest.mark.parametrize(("phi", "error", "fragments"), [
    ("rlu", ValueError, ["'rlu'", "leaky_relu", "Did you mean 'relu'?"]),
    ("Tanh", ValueError, ["Did you mean 'tanh'?"]),
    (3, TypeError, ["a name, an Activation or a callable", "3"]),
    (None, TypeError, ["None"]),
    (lambda s: s.sum(), ValueError, ["elementwise", "(61000,)", "torch.Size([])"]),
    (lambda s: 1.0, ValueError, ["elementwise", "float"]),
    (lambda s: s.flip(0), ValueError, ["each component alone"]),
    (lambda s: torch.softmax(s, dim=0).cumsum(0), ValueError, ["each component alone"]),
    (lambda s: s / (1 + s.std()), ValueError, ["each component alone"]),
    (nn.PReLU(device="cpu"), ValueError, ["parameters of its own"]),
    (nn.Softplus(1.0, 2.0), ValueError, ["not continuous"]),
    (lambda s: F.dropout(s), ValueError, ["the same answer every time"]),
    (torch.log, ValueError, ["finite on the real line"]),
    (torch.sqrt, ValueError, ["finite"]),
    (lambda s: torch.from_numpy(np.tanh(s.detach().numpy())), ValueError, ["autograd can follow"]),
    (lambda s: torch.from_numpy(np.tanh(s.numpy())), ValueError, ["autograd can follow"]),
    (torch.zeros_like, ValueError, ["autograd can follow"]),
])
def test_refusals(phi, error, fragments):
    rejects(lambda: activation(phi), error, *fragments)


def test_measuring_looks_at_values_not_only_slopes():
    """A jump has derivative zero on both sides; the secant sees it."""
    with pytest.warns(UserWarning, match="expansive"):
        assert activation(lambda s: torch.sign(s) + 0 * s).slope > 100


def test_an_activation_is_a_frozen_value():
    with pytest.raises(AttributeError):
        activation("relu").slope = 2.0
    assert Activation("double", lambda s: 2 * s, slope=2.0).non_expansive is False


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_of_value_is_the_derivative(name):
    phi, S = ACTIVATIONS[name], mat(np.linspace(-3, 3, 50))
    assert torch.allclose(phi.slope_of_value(phi(S)), phi.derivative(S), atol=1e-12)


def test_built_in_activations_are_pickled_by_name():
    assert all(pickle.loads(pickle.dumps(phi)) is phi for phi in ACTIVATIONS.values())


def test_blockwise_acts_on_each_run_of_components():
    parts = [(ACTIVATIONS["relu"], 2), (ACTIVATIONS["relu"], 1), (ACTIVATIONS["tanh"], 2)]
    phi, S = blockwise(parts), draw(0, 4, 5)
    wanted = torch.cat([S[:, :3].clamp(min=0), S[:, 3:].tanh()], dim=1)
    assert torch.allclose(phi(S), wanted) and torch.allclose(phi.in_place(S.clone()), wanted)
    assert torch.allclose(phi.slope_of_value(phi(S)), phi.derivative(S), atol=1e-12)
    assert (phi.name, phi.slope, phi.homogeneous) == ("relu ×3, tanh ×2", 1.0, False)
    assert blockwise(parts[:2]) is ACTIVATIONS["relu"]
    assert torch.allclose(pickle.loads(pickle.dumps(phi))(S), wanted)
    leaky = blockwise([(ACTIVATIONS["sigmoid"], 1), (Activation("half", lambda S: S / 2, 0.5), 2)])
    assert leaky.slope == 0.5 and leaky.slope_of_value is None


def test_blocks_of_blocks_are_taken_apart():
    two = blockwise([(ACTIVATIONS["relu"], 2), (ACTIVATIONS["tanh"], 3)])
    S = draw(0, 4, 10)
    wanted = torch.cat([S[:, :2].relu(), S[:, 2:5].tanh(), S[:, 5:7].relu(), S[:, 7:].tanh()], 1)
    assert torch.allclose(blockwise([(two, 5), (two, 5)])(S), wanted)
    assert torch.equal(blockwise([(two, 0), (ACTIVATIONS["relu"], 10)])(S), S.relu())
    assert blockwise([(two, 5), (ACTIVATIONS["tanh"], 1)]).name == "relu ×2, tanh ×4"


@pytest.mark.parametrize(("call", "fragments"), [
    (lambda: blockwise([]), ["at least one component"]),
    (lambda: blockwise([(blockwise([("relu", 2), ("tanh", 3)]), 4)]), ["acts on 5", "given 4"]),
    (lambda: blockwise([(ACTIVATIONS["relu"], -1)]), ["size", "-1"]),
    (lambda: blockwise([(ACTIVATIONS["relu"], 2), (ACTIVATIONS["tanh"], 3)])(draw(0, 4, 4)),
     ["2, 3", "5 in all", "(4, 4)"]),
])
def test_blockwise_refusals(call, fragments):
    rejects(call, ValueError, *fragments)
