"""Every transform of torch × constraint × adjoint: right, or refused with a sentence.

The oracle is the same iteration written out in plain torch operations, which torch itself
transforms; the models have an active constraint.
"""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
from helpers import draw, rejects
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

from idl_lab import ImplicitModel
from idl_lab.equilibrium import Implicit, Neumann, OneStep, Phantom, Unrolled, equilibrium
from idl_lab.fixed_point import Anderson, PeacemanRachford, Picard
from idl_lab.operators import LowRank

# torch's own forward mode scripts some of its rules.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
CONSTRAINTS = {"scale": {}, "row": {}, "project": {}, "perron": {}, "triangular": {},
               "monotone": {"constraint": "monotone", "solver": PeacemanRachford(1e-13)},
               "none": {"constraint": None}, "rank": {"constraint": "scale", "rank": 2}}
EXACT = [Implicit(), Unrolled()]
BIASED = [OneStep(), Neumann(3), Phantom(3, 0.7)]
U = draw(20, 3, 2)
W = draw(21, 3, 2)


def model_with(name: str, adjoint=Implicit(), seed: int = 0, **more) -> ImplicitModel:
    options = {"constraint": name, "solver": Picard(1e-13), **CONSTRAINTS[name], **more}
    model = ImplicitModel(2, 2, 4, activation="tanh", kappa=0.8, bias=True, adjoint=adjoint,
                          dtype=torch.float64, device="cpu",
                          generator=torch.Generator("cpu").manual_seed(seed), **options)
    with torch.no_grad():
        for p in model._free():
            p.mul_(2.0 if name not in ("none", "monotone") else 0.5)
    return model


def values(model):
    return {k: v.detach() for k, v in model.named_parameters()}


def by_model(model):
    return lambda parameters, U=U: functional_call(model, parameters, (U,))


def by_hand(model):
    """The prediction with the fixed point iterated in plain operations of torch."""
    def predict(parameters, U=U):
        free = [parameters[k] for k in parameters if k.startswith("free_")]
        A = model.constrain(*free)
        A = A.L @ A.R.mT if isinstance(A, LowRank) else A
        b = U @ parameters["B"].mT + parameters["state_bias"]
        X = torch.zeros_like(b)
        # Small steps, which also find the equilibrium of a monotone A.
        beta, steps = (0.3, 250) if model.constraint == "monotone" else (1.0, 120)
        for _ in range(steps):
            X = (1 - beta) * X + beta * torch.tanh(X @ A.mT + b)
        return X @ parameters["C"].mT + U @ parameters["D"].mT + parameters["output_bias"]

    return predict


def same(one, other, rtol=1e-7, atol=1e-9):
    for a, b in zip(torch.utils._pytree.tree_leaves(one), torch.utils._pytree.tree_leaves(other),
                    strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def loss(predict):
    return lambda *given: (predict(*given) * W).sin().sum()


def change(parameters):
    return {k: draw(30 + i, *v.shape) for i, (k, v) in enumerate(parameters.items())}


def by_forward_ad(f, parameters):
    with forward_ad.dual_level():
        dual = {k: forward_ad.make_dual(v, d) for (k, v), d in
                zip(parameters.items(), change(parameters).values(), strict=True)}
        return forward_ad.unpack_dual(f(dual)).tangent


def twice_by_autograd(f, parameters):
    parameters = {k: v.clone().requires_grad_() for k, v in parameters.items()}
    first = torch.autograd.grad(f(parameters), [*parameters.values()], create_graph=True)
    inner = sum((g * d).sum() for g, d in zip(first, change(parameters).values(), strict=True))
    return torch.autograd.grad(inner, [*parameters.values()], allow_unused=True,
                               materialize_grads=True)


def by_free(transform):
    """A transform with respect to the free matrix alone, whose Hessian is not too large."""
    def run(f, parameters):
        name = next(k for k in parameters if k.startswith("free_"))
        return transform(lambda M: f(parameters | {name: M}))(parameters[name])

    return run


FIRST = {
    "grad": lambda f, p: grad(loss(f))(p),
    "vjp": lambda f, p: vjp(f, p)[1](W),
    "jacrev": lambda f, p: jacrev(f)(p),
    "vmap over inputs": lambda f, p: vmap(lambda u: f(p, u))(draw(22, 5, 3, 2)),
    "gradients of samples": lambda f, p: vmap(
        grad(lambda p, u: f(p, u[None]).square().sum()), (None, 0))(p, U),
    "gradient of the input": lambda f, p: grad(lambda u: loss(f)(p, u))(U),
    "vmap in vmap": lambda f, p: vmap(vmap(lambda u: f(p, u[None])[0]))(draw(23, 2, 3, 2)),
}
FORWARD = {
    "jvp": lambda f, p: jvp(f, (p,), (change(p),)),
    "forward_ad": lambda f, p: by_forward_ad(f, p),
    "jacfwd": lambda f, p: jacfwd(f)(p),
    "jvp of the input": lambda f, p: jvp(lambda u: f(p, u), (U,), (W,)),
}
SECOND = {
    "double backward": lambda f, p: twice_by_autograd(loss(f), p),
    "hessian": lambda f, p: by_free(hessian)(loss(f), p),
    "jacrev of jacrev": lambda f, p: by_free(lambda g: jacrev(jacrev(g)))(loss(f), p),
    "jacrev of jacfwd": lambda f, p: by_free(lambda g: jacrev(jacfwd(g)))(loss(f), p),
    "forward over reverse": lambda f, p: jvp(grad(loss(f)), (p,), (change(p),)),
}


SOLVED_UNDER_VMAP = {"vmap over inputs", "gradients of samples", "vmap in vmap", "jacfwd",
                     "hessian", "jacrev of jacfwd"}


@pytest.mark.parametrize("adjoint", EXACT, ids=repr)
@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("transform", [*FIRST, *FORWARD, *SECOND])
def test_a_transform_is_right(transform, name, adjoint):
    more = {"solver": Anderson(1e-13)} if name == "row" else {}  # the others have Picard
    model = model_with(name, adjoint, **more)
    run = (FIRST | FORWARD | SECOND)[transform]
    if isinstance(adjoint, Unrolled) and transform in SOLVED_UNDER_VMAP:
        rejects(lambda: run(by_model(model), values(model)), RuntimeError, "Unrolled()", "vmap")
        return
    same(run(by_model(model), values(model)), run(by_hand(model), values(model)))


@pytest.mark.parametrize("adjoint", BIASED, ids=repr)
@pytest.mark.parametrize("name", ["scale", "rank", "triangular"])
def test_a_biased_adjoint_is_what_it_says_under_transforms_and_never_more(name, adjoint):
    model = model_with(name, adjoint)
    f, p = by_model(model), values(model)
    for transform in FORWARD:
        same(FORWARD[transform](f, p), FORWARD[transform](by_hand(model), p))
    plain = {k: v.clone().requires_grad_() for k, v in p.items()}
    wanted = torch.autograd.grad(loss(f)(plain), [*plain.values()])
    same([*FIRST["grad"](f, p).values()], wanted)
    samples = FIRST["gradients of samples"](f, p)["free_L" if name == "rank" else "free_A"]
    one = grad(lambda p: f(p, U[:1]).square().sum())(p)
    same(samples[0], one["free_L" if name == "rank" else "free_A"])
    rejects(lambda: SECOND["double backward"](f, p), RuntimeError, "no second derivatives")


@pytest.mark.parametrize("adjoint", [Implicit(), OneStep()], ids=repr)
def test_what_torch_cannot_follow_is_refused(adjoint):
    model = model_with("scale", adjoint)
    f, p = loss(by_model(model)), values(model)
    rejects(lambda: by_free(lambda g: jacfwd(jacfwd(g)))(f, p), RuntimeError,
            "forward mode over forward mode", "jacfwd(torch.func.jacrev")
    Y = model(U)
    rejects(lambda: torch.autograd.grad(Y, [*model.parameters()], torch.stack([W, W]),
                                        is_grads_batched=True), RuntimeError, "torch.vmap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit is deprecated, and says so
        rejects(lambda: torch.jit.trace(model, (U,)), RuntimeError, "cannot be traced")


def test_an_ensemble_is_its_members():
    models = [model_with("scale", seed=k) for k in range(3)]
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0])
    one = lambda p, u: functional_call(base, p, (u,))  # noqa: E731
    same(vmap(one, (0, None))(parameters, U), torch.stack([m(U) for m in models]))
    grads = vmap(grad(lambda p, u: (one(p, u) * W).sum()), (0, None))(parameters, U)
    for k, model in enumerate(models):
        model.zero_grad()
        (model(U) * W).sum().backward()
        same(grads["free_A"][k], model.free_A.grad)


def test_checkpointing_gives_the_gradient():
    from torch.utils.checkpoint import checkpoint
    model = model_with("scale")
    (model(U) * W).sum().backward()
    wanted = model.free_A.grad
    model.zero_grad()
    (checkpoint(model, U, use_reentrant=False) * W).sum().backward()
    same(model.free_A.grad, wanted)


def test_backward_in_threads_leaves_the_warnings_as_they_are():
    A, b = 0.9 * torch.eye(3).double(), torch.ones(2, 3).double()
    before = list(warnings.filters)

    def work():
        for _ in range(20):
            M = A.clone().requires_grad_()
            equilibrium(M, b, adjoint=Implicit(Anderson(1e-10))).value.sum().backward()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert warnings.filters == before


# ---- autocast -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
@pytest.mark.parametrize("name", ["scale", "project", "monotone", "rank"])
@pytest.mark.parametrize("larger", [True, False], ids=["in a larger net", "alone"])
def test_autocast_solves_in_float32(dtype, inside, name, larger):
    solver = {"solver": PeacemanRachford(1e-5) if name == "monotone" else Picard(1e-5)}
    model = model_with(name, **solver).float()
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), model, torch.nn.Linear(2, 2)) if larger \
        else model
    exact = copy.deepcopy(net)
    u, w = U.float(), W.float()
    (exact(u) * w).sum().backward()
    with torch.autocast("cpu", dtype=dtype):
        Y = net(u)
        value = (Y.float() * w).sum()
        if inside:
            value.backward()
    if not inside:
        value.backward()
    assert Y.dtype == dtype
    for a, b in zip(net.parameters(), exact.parameters(), strict=True):
        assert a.grad.dtype == torch.float32
        torch.testing.assert_close(a.grad, b.grad, rtol=0.1, atol=0.05 * float(b.grad.abs().max()))
    with torch.autocast("cpu", dtype=dtype):
        solution = model.equilibrium(u)
    assert solution.value.dtype == torch.float32 and solution.status.ok
    torch.testing.assert_close(solution.value, model.equilibrium(u).value, rtol=1e-4, atol=1e-5)
