"""A model travels: pickled, copied, saved, loaded, and trained by torch's own machinery."""

import copy
import gc
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers import draw, mat, rejects
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from idl_lab import ImplicitModel, ImplicitRNN
from idl_lab.constraints import CONSTRAINTS, Monotone, Row
from idl_lab.fixed_point import Picard

U = draw(1, 5, 3)
KINDS = [{"constraint": name} for name in (*CONSTRAINTS, None)]
KINDS += [{"constraint": name, "rank": 2} for name in ("scale", "row", None)]


def model_of(seed=0, constraint="scale", kappa=0.7, **options):
    generator = torch.Generator("cpu").manual_seed(seed)
    model = ImplicitModel(3, 2, 6, constraint=constraint, kappa=kappa, generator=generator,
                          device="cpu", dtype=torch.float64, bias=True, **options)
    with torch.no_grad():
        for name, M in model.named_parameters():
            if "free" in name and constraint != "monotone":
                M.mul_(5.0 if constraint else 0.3)  # so that the constraint is active
    return model


def thin_model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the layout young
        A = mat([[0, 0.5, 0], [0, 0, 0], [0.3, 0, 0]]).to_sparse_csr()
        B = mat([[1, 0, 0], [0, 0, 2], [0, 0, 0]]).to_sparse_csr()
    return ImplicitModel.from_matrices(A, B, draw(2, 2, 3))


MODELS = [*(lambda kind=kind: model_of(**kind) for kind in KINDS), thin_model,
          lambda: model_of(activation=nn.LeakyReLU(0.2), solver=Picard(1e-9))]


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("travel", [
    lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy,
    lambda m: torch.load(saved(m), weights_only=False)], ids=["pickle", "copy", "torch.save"])
def test_a_whole_model_travels(make, travel):
    model = make()
    twin = travel(model)
    assert type(twin) is type(model) and type(model).__name__ == "ImplicitModel"
    assert torch.equal(twin(U), model(U)) and repr(twin) == repr(model)
    with torch.no_grad():
        for M in twin.parameters():
            M.zero_()
    assert model(U).abs().max() > 0 and twin(U).abs().max() == 0


def test_a_recurrent_model_is_pickled_too():
    model = ImplicitRNN(3, 2, 4, 5, device="cpu", dtype=torch.float64)
    assert torch.equal(pickle.loads(pickle.dumps(model))(U[None]), model(U[None]))


@pytest.mark.parametrize("make", MODELS)
def test_a_state_dict_holds_tensors_alone(make):
    model, other = make(), make()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for M in other.parameters():
            M.mul_(0.5)
    other.load_state_dict(torch.load(saved(state), weights_only=True))
    assert torch.equal(other(U), model(U))


@pytest.mark.parametrize("saver", KINDS[:7])
@pytest.mark.parametrize("loader", KINDS[:7])
def test_a_checkpoint_of_another_constraint_is_refused_before_anything_is_copied(saver, loader):
    state, model = model_of(1, **saver).state_dict(), model_of(2, **loader)
    before = copy.deepcopy(model.state_dict())
    if saver == loader:
        model.load_state_dict(state)
        return
    rejects(lambda: nn.Sequential(model).load_state_dict({f"0.{k}": v for k, v in state.items()}),
            ValueError, f"constraint={saver['constraint']}", f"constraint={loader['constraint']}")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("kappa", [0.1, 0.3, 1 - 1e-15, 0.0])
def test_kappa_comes_with_a_checkpoint_to_the_last_digit_whatever_the_dtype(kappa):
    model, other = model_of(kappa=kappa).float(), model_of(1, kappa=0.9).float()
    other.load_state_dict(model.state_dict())
    assert other.kappa == kappa and torch.equal(other.A, model.A)


def test_a_checkpoint_without_its_constraint_is_incomplete():
    state = model_of().state_dict()
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        model_of().load_state_dict(state)
    assert model_of(kappa=0.4).load_state_dict(state, strict=False).missing_keys
    state["parametrizations.A.original"] = state.pop("free_A")
    for strict in (True, False):
        rejects(lambda strict=strict: model_of().load_state_dict(state, strict=strict), ValueError,
                "older version", "parametrizations.A.original is free_A")


@pytest.mark.parametrize("change", [lambda v: v.float() / 2, lambda v: v // 2, lambda v: None,
                                    lambda v: v[:3], lambda v: v.new_full((4,), 255)])
def test_a_constraint_that_was_averaged_with_the_parameters_is_refused_in_words(change):
    state = model_of().state_dict()
    state["_extra_state"] = change(state["_extra_state"])
    rejects(lambda: model_of().load_state_dict(state), ValueError, "_extra_state", "κ")


@pytest.mark.parametrize("use_buffers", [False, True])
def test_torchs_averaged_model_averages_the_free_parameters(use_buffers):
    one, two = model_of(0), model_of(1)
    mean = AveragedModel(one, use_buffers=use_buffers)
    for model in (one, two):
        mean.update_parameters(model)
    assert torch.allclose(mean.module.free_A, (one.free_A + two.free_A) / 2)
    other = AveragedModel(model_of(2, kappa=0.3))
    other.load_state_dict(mean.state_dict())
    assert torch.equal(other(U), mean(U)) and other.module.kappa == 0.7


@pytest.mark.parametrize("make", MODELS[:1] + MODELS[7:])
def test_a_parameter_is_assigned_as_a_tensor_is(make):
    model, other = make(), make()
    model.A = nn.Parameter(0.5 * model.A.detach())
    other.A = 0.5 * other.A.detach()
    assert model.state_dict().keys() == other.state_dict().keys()
    assert torch.equal(model(U), other(U))


# ---- the free parameter ---------------------------------------------------------------------


def test_initialising_the_free_parameter_changes_the_matrix_in_use():
    model = model_of(constraint="row")
    nn.init.constant_(model.free_A, 0.01)
    assert torch.equal(model.A, mat(np.full((6, 6), 0.01)))
    nn.init.constant_(model.free_A, 3.0)
    assert torch.equal(model.A, Row(0.7)(mat(np.full((6, 6), 3.0))))
    assert [name for name, _ in model.named_parameters()] == [
        "free_A", "B", "C", "D", "state_bias", "output_bias"]


def test_without_a_constraint_a_is_the_parameter_itself():
    model = model_of(constraint=None)
    assert model.A is model.free_A
    model(U).sum().backward()
    assert model.A.grad is not None


def test_an_optimizer_keeps_its_parameter_through_an_assignment():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.A = 0.01 * draw(3, 6, 6)
    before = model.A.detach().clone()
    model(U).sum().backward()
    optimizer.step()
    assert not torch.equal(model.A, before)


def test_resetting_draws_what_a_new_model_draws():
    for kind in KINDS:
        model = ImplicitModel(3, 2, 6, device="cpu", **kind)
        again = ImplicitModel(3, 2, 6, device="cpu", **kind,
                              generator=torch.Generator("cpu").manual_seed(7))
        model.reset_parameters(torch.Generator("cpu").manual_seed(7))
        assert all(torch.equal(M, N) for M, N in
                   zip(model.parameters(), again.parameters(), strict=True))


def test_building_from_matrices_leaves_the_global_random_numbers_alone():
    before = torch.random.get_rng_state()
    ImplicitModel.from_matrices(0.1 * draw(0, 6, 6), draw(1, 6, 3), draw(2, 2, 6))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture(scope="module")
def one_rank():
    """A process group of this process alone.

    It outlives every DistributedDataParallel: one that is the last to hold a group waits, when it
    is deleted, for the group's thread, which waits for Python's lock.
    """
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    gc.collect()
    dist.destroy_process_group()


@pytest.mark.parametrize("constraint", [*CONSTRAINTS, None])
def test_it_trains_under_ddp(constraint, one_rank):
    alone, model = model_of(constraint=constraint), model_of(constraint=constraint)
    for net in (alone, DistributedDataParallel(model)):
        net(U).square().sum().backward()
    for one, other in zip(alone.parameters(), model.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad)


# ---- a monotone A is kept -------------------------------------------------------------------


def monotone_matrix(seed, n, kappa, spread, skew):
    """Symmetric part with eigenvalues from κ, where κI − sym(A) is singular, down to κ − spread."""
    Q = np.linalg.qr(draw(seed, n, n).numpy())[0]
    top = kappa - np.concatenate([[0.0, 0.0], np.geomspace(1e-12, 1, n - 2)]) * spread
    K = skew * draw(seed + 1, n, n).numpy()
    return mat((Q * top) @ Q.T + K - K.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("skew", [0.0, 1.0, 1e6])
def test_a_monotone_matrix_is_kept_to_rounding(dtype, spread, skew):
    A = monotone_matrix(3, 20, 0.8, spread, skew).to(dtype)
    model = ImplicitModel.from_matrices(A, draw(1, 20, 3).to(dtype), draw(2, 2, 20).to(dtype),
                                        constraint="monotone", kappa=0.8)
    assert model.A.dtype == dtype
    size = float(A.abs().max()) + 1
    assert float((model.A - A).detach().abs().max()) <= 40 * torch.finfo(dtype).eps * size
    again = Monotone(0.8)(*Monotone(0.8).free(model.A.detach()))
    assert float((again - A).abs().max()) <= 80 * torch.finfo(dtype).eps * size


@pytest.mark.parametrize("seed", range(5))
def test_a_monotone_model_computes_what_its_matrices_say(seed):
    A = monotone_matrix(seed, 8, 0.5, 2.0, 1.0)
    B, C = draw(seed + 5, 8, 3), draw(seed + 6, 2, 8)
    given = ImplicitModel.from_matrices(A, B, C, constraint="monotone", kappa=0.5)
    x = given.equilibrium(U).value.detach().numpy()
    assert np.maximum(x @ A.numpy().T + U.numpy() @ B.numpy().T, 0) == pytest.approx(x, abs=1e-5)
