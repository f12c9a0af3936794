"""A step that is replayed: no wait in it, short solves seen and reported, the eager step's numbers.

There is no GPU here: the graph is a stand-in that runs the step again. Everything else is real.
"""

import itertools

import numpy as np
import pytest
import torch
from helpers import draw
from pretend_device import device_waits, pretend_device
from torch import nn
from training_cases import StandIn, small_problem, stand_in

from idl_lab import capture, training, unwatched
from idl_lab.capture import Captured, as_cuda_graph, hindrance, hooks
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.training import fit

RTOL = 1e-8


def solve(f, x, watch):
    """Picard: with a test at each step, or so many steps and the residual left where it is."""
    if watch is None:
        for _ in range(500):
            x, before = f(x), x
            if float((x - before).abs().max()) <= RTOL:
                break
        return x
    for _ in range(watch.begin()):
        x, before = f(x), x
    watch.end((x - before).abs().max() / RTOL)
    return x


class _Equilibrium(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A, b):
        ctx.watch = unwatched.current()  # the backward pass may be another thread's
        x = solve(lambda x: torch.tanh(x @ A.mT + b), torch.zeros_like(b), ctx.watch)
        ctx.save_for_backward(A, x)
        return x

    @staticmethod
    def backward(ctx, g):
        A, x = ctx.saved_tensors
        slopes = 1 - x ** 2
        v = solve(lambda v: slopes * (v @ A + g), torch.zeros_like(g), ctx.watch)
        return v.mT @ x, v


class Toy(nn.Module):
    """x = tanh(Ax + Bu), y = Cx, its two solves as a solver that can go unwatched does them."""

    def __init__(self, size=0.5):
        super().__init__()
        A = draw(5, 6, 6)
        self.A = nn.Parameter(size * A / A.abs().sum(1).max())
        self.B, self.C = (nn.Parameter(draw(k, *shape)) for k, shape in ((6, (6, 4)), (7, (3, 6))))

    def forward(self, U):
        return _Equilibrium.apply(self.A, U @ self.B.mT) @ self.C.mT


def step_of(model, optimizer):
    def step(U, target, count=True):
        loss = nn.functional.cross_entropy(model(U), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [loss.detach()]

    return step


def run(device, batches, size=0.5, captured=True, change=None):
    """The losses of some steps, the model, and what took them."""
    model = Toy(size).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = take = step_of(model, optimizer)
    if captured:
        take = Captured(step, optimizer, record=stand_in)
    losses = []
    for k, (U, y) in enumerate(batches, start=1):
        if k == change:
            optimizer.param_groups[0]["lr"] = 0.5
        losses += take(U.to(device), y.to(device))
    return torch.stack(losses), [*model.parameters()], take


def batches_of(*sizes):
    U, y = draw(0, 60, 4), torch.arange(60, device="cpu") % 3
    return [(U[:m], y[:m]) for m in sizes]


def close(found, wanted, rtol=1e-6):
    return all(torch.allclose(getattr(a, "held", a), b, rtol=rtol, atol=1e-9)
               for a, b in zip(found, wanted, strict=True))


def test_the_numbers_are_the_eager_steps_and_no_step_waits():
    given = batches_of(*[20] * 12)
    wanted, parameters, _ = run("cpu", given, captured=False)
    with pretend_device() as device:
        losses, found, take = run(device, given)
        device_waits()
        take(*(T.to(device) for T in given[0]))
        assert not device_waits(), "from the batch to the sent residual"
    assert take.replayed == 12 and take.failure is None
    assert take.unwatched.steps[0] > 8, "eight steps are too few here, and they grew"
    assert take.recorded > 1
    wanted, parameters, _ = run("cpu", [*given, given[0]], captured=False)
    assert close(found, parameters, 1e-4) and close(losses, wanted[:12], 1e-4)


def test_what_was_short_is_seen_two_batches_later_grows_and_is_reported():
    _, _, take = run("cpu", batches_of(*[20] * 2), size=0.9)
    assert take.replayed == 1 and take.unwatched.steps == [8, 8]
    U, y = batches_of(20)[0]
    take(U, y)
    assert take.recorded == 1 and take.unwatched.steps == [8, 8], "nothing was read so far"
    take(U, y)
    assert take.recorded == 2 and take.unwatched.steps == [13, 13]
    for _ in range(30):
        take(U, y)
    assert take.recorded < 12
    with pytest.warns(ConvergenceWarning, match=r"\d+ captured training steps were short"):
        take.report()
    steps, short = list(take.unwatched.steps), take.short
    take(U, y)
    take.report()  # all is well by now
    assert take.short == short
    assert take.unwatched.steps == steps and take.failure is None


@pytest.mark.parametrize("by", [0.5, 1.5, 9.0, 11.0, torch.nan])
def test_only_what_is_far_from_its_tolerance_is_warned_of(by):
    """The numbers are as a graph would leave them: the step reports what it is told to."""
    U, y = batches_of(20)[0]

    def replay():
        return None

    take = Captured(lambda U, y, count=True: [torch.zeros(())], torch.optim.SGD([U.clone()], 0.1),
                    record=lambda body: (replay, ([], torch.tensor([by, 0.1]))))
    take.unwatched.steps = [8, 8]
    take(U, y)
    take(U, y)
    if by > 10 or by != by:
        with pytest.warns(ConvergenceWarning, match="1 captured training steps were short"):
            take.report()
    else:
        take.report()
    assert take.short == int(not by <= 1) and take.unwatched.steps[0] == (8 if by <= 1 else 13)


def test_a_solve_that_needs_too_much_is_left_to_the_eager_step(monkeypatch):
    monkeypatch.setattr(capture, "MOST", 12)
    given = batches_of(*[20] * 30)
    losses, found, take = run("cpu", given, size=0.9)
    assert "more than 12 steps" in str(take.failure) and take.replayed < 30
    wanted, parameters, _ = run("cpu", given, size=0.9, captured=False)
    assert close(losses, wanted, 1e-3) and close(found, parameters, 1e-2)


def test_batches_of_another_shape_are_taken_by_the_eager_step():
    given = batches_of(20, 20, 7, 20, 7, 20)
    losses, found, take = run("cpu", given)
    assert take.replayed == 3
    wanted, parameters, _ = run("cpu", given, captured=False)
    assert close(losses, wanted, 1e-4) and close(found, parameters, 1e-4)


def test_a_setting_that_changes_is_recorded_anew():
    """A graph holds the learning rate as a number."""
    given = batches_of(*[20] * 6)
    losses, found, take = run("cpu", given, size=0.1, change=5)
    wanted, parameters, _ = run("cpu", given, size=0.1, captured=False, change=5)
    assert close(losses, wanted) and close(found, parameters)
    assert take.recorded == 2 and take.unwatched.steps == [8, 8]


def test_a_step_that_cannot_be_recorded_is_taken_eagerly():
    def refuses(body):
        raise RuntimeError("operation not permitted when stream is capturing")

    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    take = Captured(step_of(model, optimizer), optimizer, record=refuses)
    given = batches_of(*[20] * 4)
    losses = torch.stack([loss for U, y in given for loss in take(U, y)])
    wanted, parameters, _ = run("cpu", given, captured=False)
    assert torch.equal(losses, wanted) and "not permitted" in str(take.failure)
    assert take.replayed == 0 and all(map(torch.equal, model.parameters(), parameters))
    assert take.failure.__traceback__ is None, "its frames hold what was begun while recording"


def test_labels_are_looked_at_before_they_reach_a_graph():
    seen = []
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    take = Captured(step_of(model, optimizer), optimizer, seen.append, stand_in)
    for U, y in batches_of(20, 20, 20):
        take(U, y)
    assert len(seen) == 2  # the eager step looks itself


@pytest.mark.filterwarnings("ignore:.*captured training steps were short")
def test_fit_takes_its_steps_from_it(monkeypatch):
    monkeypatch.setattr(training, "Captured", StandIn)
    monkeypatch.setattr(training, "hindrance", hooks)

    def run(device, capture, epochs):
        model = Toy(0.1).to(device)
        batches = [(U.to(device), y.to(device)) for U, y in batches_of(*[20] * 10)]
        device_waits()
        table = fit(model, batches, epochs=epochs, capture=capture, progress=False,
                    optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        return table, model, device_waits().total()

    wanted, twin, _ = run("cpu", None, 3)
    with pretend_device() as device:
        table, model, waits = run(device, "auto", 3)
    assert table.attrs["captured"] == 29 and wanted.attrs["captured"] == 0
    assert np.allclose(table["train_loss"], wanted["train_loss"], rtol=1e-5)
    assert close(model.parameters(), twin.parameters(), 1e-4)
    assert waits == 1, "since the last replay: the losses, read once an epoch"


def hooked(kind):
    model = small_problem()[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    owner = {"optimizer": optimizer, "model": model, "parameter": model.weight}[kind.split()[0]]
    getattr(owner, kind.split()[1])(lambda *_: None)
    return hooks(model, optimizer)


@pytest.mark.parametrize(("kind", "why"), [
    ("optimizer register_step_post_hook", "the optimizer has hooks"),
    ("optimizer register_step_pre_hook", "the optimizer has hooks"),
    ("model register_forward_hook", "the model has hooks"),
    ("model register_forward_pre_hook", "the model has hooks"),
    ("model register_full_backward_hook", "the model has hooks"),
    ("parameter register_hook", "weight has hooks"),
    ("parameter register_post_accumulate_grad_hook", "weight has hooks"),
])
def test_hooks_are_found(kind, why):
    assert hooked(kind) == why


def test_what_is_not_on_a_gpu_is_not_captured():
    model, batches = small_problem()
    assert hooks(model, torch.optim.SGD(model.parameters())) is None
    assert "CUDA" in hindrance(model, torch.optim.SGD(model.parameters()))
    tables = []
    for how in (None, "auto"):
        model, _ = small_problem()
        tables.append(fit(model, batches, epochs=2, capture=how, progress=False))
        assert tables[-1].attrs["captured"] == 0
    assert tables[0]["train_loss"].tolist() == tables[1]["train_loss"].tolist()
    with pytest.raises(ValueError, match="capture='always'"):
        fit(model, batches, capture="always", progress=False)


def test_solves_are_told_apart_by_their_order():
    watch = unwatched.Unwatched(start=4)
    for lap in itertools.count():
        with watch.pass_through():
            assert unwatched.current() is watch
            steps = []
            for worst in (0.5, 3.0, torch.nan):
                steps.append(watch.begin())
                watch.end(torch.tensor(worst))
        assert unwatched.current() is None and len(watch.worst) == 3
        if lap == 1:
            break
        assert steps == [4, 4, 4]
        watch.grow([k for k, w in enumerate(watch.worst) if not w <= 1])
    assert steps == [4, 7, 7] == watch.steps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_graph_is_real():
    given = batches_of(*[20] * 20)
    wanted, parameters, _ = run("cpu", given, captured=False)
    model = Toy().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    take = Captured(step_of(model, optimizer), optimizer, record=as_cuda_graph)
    losses = torch.stack([loss for U, y in given for loss in take(U.cuda(), y.cuda())])
    assert take.failure is None and take.replayed == 19
    assert close([losses.cpu()], [wanted], 1e-3)
    assert close([p.cpu() for p in model.parameters()], parameters, 1e-3)
