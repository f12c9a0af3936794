"""The loop over time under torch's transforms: its own backward pass, and the recorded one."""

import warnings

import pytest
import torch
from helpers import draw, rejects
from rnn_cases import cell_with, close, leaves, reference, rnn_with, stack_with
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from idl_lab.equilibrium import OneStep, Unrolled
from idl_lab.fixed_point import Anderson, Picard
from idl_lab.rnn import recurrence

# Once a process torch.func's forward mode loads decompositions that torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
PATHS = {
    "one layer": {}, "no feedthrough": {"feedthrough": False, "bias": True},
    "rank": {"rank": 2}, "Anderson": {"solver": Anderson(1e-13)},
    "layers and directions": {"num_layers": 2, "bidirectional": True},
}


def smooth(**options):
    """Small, with an activation that has second derivatives."""
    return rnn_with(p=2, q=2, hidden=2, n=3, activation="tanh", kappa=0.5, **options)


def as_function(model):
    """The prediction as a function of the parameters and the input, and where they stand."""
    names = [name for name, _ in model.named_parameters()]

    def call(x, *parameters):
        return functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    return call, [M.detach().clone().requires_grad_() for M in model.parameters()]


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_first_and_second_derivatives(options):
    call, P = as_function(smooth(**options))
    x = draw(0, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *P), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, *P), fast_mode=True)


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_forward_mode_is_the_derivative(options):
    call, P = as_function(smooth(**options))
    point = (draw(0, 2, 3, 2), *(M.detach() for M in P))
    change = tuple(draw(k + 1, *T.shape) for k, T in enumerate(point))
    moved = jvp(call, point, change)[1]
    step = 1e-5
    ahead, behind = (call(*(T + s * step * v for T, v in zip(point, change, strict=True)))
                     for s in (1, -1))
    assert torch.allclose(moved, (ahead - behind) / (2 * step), atol=1e-8)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(point, change, strict=True)]
        assert close([forward_ad.unpack_dual(call(*duals)).tangent], [moved], 1e-11)


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_jacobians_and_hessians(options):
    model, x = smooth(**options), draw(0, 2, 3, 2)
    wanted = torch.autograd.functional.jacobian(model, x)
    assert close([jacrev(model)(x), jacfwd(model)(x)], [wanted, wanted], 1e-10)

    def loss(x):
        return model(x).square().sum()

    assert close([hessian(loss)(x)], [torch.autograd.functional.hessian(loss, x)], 1e-9)


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_gradients_of_each_sample(options):
    model, x = smooth(**options), draw(0, 4, 3, 2)
    names, P = zip(*((k, M.detach()) for k, M in model.named_parameters()), strict=True)

    def loss(P, x):
        return functional_call(model, dict(zip(names, P, strict=True)), (x,)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(P, x)
    for k in range(4):
        alone = torch.autograd.grad(model(x[k:k + 1]).square().sum(), list(model.parameters()))
        assert close([T[k] for T in found], alone, 1e-10)


def test_models_of_an_ensemble():
    models, x = [smooth(seed=k) for k in range(3)], draw(0, 4, 3, 2)
    P, _ = torch.func.stack_module_state(models)
    found = vmap(lambda P: functional_call(models[0], P, (x,)))(P)
    assert close(found, [model(x) for model in models], 1e-10)


@pytest.mark.parametrize("adjoint", [Unrolled(), OneStep()])
def test_other_adjoints_keep_their_gradient(adjoint):
    """The loop's own backward pass is of the exact gradient alone."""
    cell, u = cell_with(adjoint=adjoint, activation="tanh"), draw(0, 2, 4, 2)
    with torch.no_grad():
        wanted = cell(u)[0]
    outputs = cell(u)[0]
    assert close([outputs], [wanted], 1e-10)
    found = torch.autograd.grad(outputs.sum(), list(cell.parameters()))
    P = leaves(cell)
    exact = torch.autograd.grad(reference(P, u, draw(0, 2, 3) * 0, "tanh", 0.8)[0].sum(),
                                list(P.values()))
    assert close(found, exact) == isinstance(adjoint, Unrolled)


def test_a_batch_of_gradients_is_refused_in_a_sentence():
    cell = cell_with()
    outputs = cell(draw(0, 2, 3, 2))[0]
    with pytest.raises(RuntimeError, match="torch.func.vjp"):
        torch.autograd.grad(outputs, cell.layer.B, torch.ones(4, *outputs.shape, device="cpu")
                            .double(), is_grads_batched=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a net"])
def test_autocast_computes_the_recurrence_in_full(dtype, inside):
    recurrent = stack_with(num_layers=2, bidirectional=True, solver=Picard(1e-6)).float()
    net = nn.Sequential(nn.Linear(2, 2, device="cpu"), recurrent) if inside else recurrent
    x = draw(0, 3, 4, 2).float()

    def gradients():
        outputs = net(x)[0]
        return outputs, *torch.autograd.grad(outputs.square().sum(), list(net.parameters()))

    plain = gradients()
    with torch.autocast("cpu", dtype=dtype):
        found = gradients()
    assert found[0].dtype == torch.float32
    # What goes wrong is the Linear's rounding alone, and of the recurrence nothing.
    assert close(found, plain, 0.05 if inside else 1e-6)


def test_a_step_at_a_time_under_autocast():
    cell, u, h = cell_with(solver=Picard(1e-6)).float(), draw(0, 3, 4, 2).float(), None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for now in u.bfloat16().unbind(dim=1):
            h = cell(now, h)
        assert h.dtype == torch.float32 and close([h], [cell(u.bfloat16())[1]], 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_rounded_at_the_end_alone(dtype):
    recurrent = stack_with(num_layers=2, solver=Picard(1e-5)).to(dtype)
    x, exact = draw(0, 3, 4, 2).to(dtype), stack_with(num_layers=2).double()
    exact.load_state_dict(recurrent.state_dict())
    outputs, h_n = recurrent(x)
    wanted = exact(x.double())[0]
    assert outputs.dtype == h_n.dtype == dtype
    assert close([outputs.double()], [wanted], 4 * torch.finfo(dtype).eps)
    outputs.square().sum().backward()
    wanted.square().sum().backward()
    for M, own in zip(recurrent.parameters(), exact.parameters(), strict=True):
        scale = float(own.grad.abs().max())
        assert close([M.grad.double()], [own.grad], 30 * torch.finfo(dtype).eps * scale)


def test_the_shapes_of_a_model_without_numbers():
    with torch.device("meta"):
        model = rnn_with(num_layers=2, bidirectional=True, device=None, generator=None)
    assert {M.device.type for M in model.parameters()} == {"meta"}


def test_a_compiled_model_is_the_model():
    model, x = smooth(num_layers=2), draw(0, 2, 3, 2)
    wanted = [model(x), *torch.autograd.grad(model(x).sum(), list(model.parameters()))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        found = torch.compile(model, backend="aot_eager")(x)
        found = [found, *torch.autograd.grad(found.sum(), list(model.parameters()))]
    assert close(found, wanted, 1e-12)


@pytest.mark.parametrize("export", [
    lambda model, x: torch.jit.trace(model, x, check_trace=False),
    lambda model, x: torch.export.export(model, (x,), strict=False),
], ids=["trace", "export"])
@pytest.mark.parametrize("call", [smooth(), smooth().recurrent, smooth().recurrent.cells[0]],
                         ids=["model", "stack", "cell"])
@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_what_would_be_a_program_of_one_input_is_refused(export, call):
    rejects(lambda: export(call, draw(0, 2, 3, 2)), RuntimeError, "cannot be traced, exported")


def test_the_record_and_the_loop_of_its_own_agree(monkeypatch):
    built = stack_with(num_layers=2, bidirectional=True, bias=True, activation="tanh")
    u, h0, results = draw(1, 4, 6, 2).requires_grad_(), draw(2, 4, 4, 3).requires_grad_(), []
    for recorded in (False, True):
        if recorded:
            monkeypatch.setattr(recurrence._OverTime, "apply", lambda steps, *given:
                                steps.recorded(*given[:5], recurrence._operator(given[5:])))
        outputs, h_n = built(u, h0, lengths=[3, 6, 1, 6])
        results.append([outputs, h_n, *torch.autograd.grad(
            outputs.square().sum() + h_n.sum(), [*built.parameters(), u, h0])])
    assert close(*results, 1e-10)
