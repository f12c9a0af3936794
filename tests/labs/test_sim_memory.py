"""Summing SIM's statistics takes as much memory for many samples as for few."""

from __future__ import annotations

import pytest
import torch
from helpers import CPU64, draw, rejects
from pretend_device import pretend_device
from torch import nn

from idl_lab.labs.sim_at_scale.streams import Stream, peak_memory, peak_of_states, train_alone
from idl_lab.sim import SIM
from idl_lab.sim.solvers import ADMMSolver

SIZES = (64, 64, 32, 16, 10)
STATE = 4 * (64 + 2 * 112 + 10)  # bytes of U, Z, X and Y of a sample


@pytest.fixture(scope="module")
def streamed():
    # This process is then larger than the one that is measured, which must not show there.
    ballast = torch.ones(75_000_000, **CPU64)
    found = peak_of_states([20_000, 100_000], sizes=SIZES)
    return found, peak_memory(), ballast.nbytes


def test_peak_memory_does_not_grow_with_the_samples(streamed):
    (first, (few, many)), _, _ = streamed
    assert first > 0 and many <= 1.2 * few
    # The states that are not kept are most of what a ratio of whole processes leaves room for.
    assert many - few < 0.2 * 80_000 * STATE


def test_the_measure_sees_states_that_are_kept():
    first, (kept,) = peak_of_states([40_000], "collect", SIZES)
    assert kept - first > 40_000 * STATE


def test_a_process_is_measured_on_its_own(streamed):
    (_, (_, many)), here, ballast = streamed
    assert here > ballast and many < here - 0.5 * ballast
    assert peak_memory() > ballast  # which is gone by now


def test_training_alone_finds_what_training_here_does():
    cpu = {"bias": False, "device": "cpu"}
    teacher = nn.Sequential(nn.Linear(5, 4, **cpu), nn.ReLU(), nn.Linear(4, 3, **cpu))
    with torch.no_grad():
        for k, layer in enumerate(teacher[::2]):
            layer.weight.copy_(draw(k, *layer.weight.shape))
    U = draw(9, 60, 5).float()
    (few, many), sim = train_alone(teacher, U, [10, 1500], seed=3, lambda_z=0.1, lambda_y=0.2)
    here = SIM(lambda_z=0.1, lambda_y=0.2, device="cpu", progress=False).train(
        ADMMSolver(device="cpu", progress=False), teacher, Stream(U, 1500, seed=3))
    assert 0 < few <= many and sim.result.stats["samples"] == 1500
    for name in "ABCD":
        torch.testing.assert_close(getattr(sim.result, name), getattr(here.result, name))


def test_a_stream_is_what_it_says():
    U = draw(0, 5, 3)
    stream = Stream(U, 25, batch=10, noise=0.0)
    batches = list(stream)
    assert len(stream) == len(batches) == 3 and [len(b) for b in batches] == [10, 10, 5]
    assert all((row == U).all(dim=1).any() for batch in batches for row in batch)
    assert len({tuple(row.tolist()) for batch in batches for row in batch}) == 5
    again, other = list(stream), list(Stream(U, 25, batch=10, noise=0.0, seed=1))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not torch.equal(batches[0], other[0])


def test_its_batches_are_where_its_samples_are():
    U = draw(0, 5, 3)
    with pretend_device() as device:
        for here, there in zip(Stream(U, 25, batch=10), Stream(U.to(device), 25, batch=10),
                               strict=True):
            assert there.device == device and torch.equal(there.cpu(), here)


def test_a_process_of_its_own_computes_on_the_device_that_is_asked_for():
    teacher = nn.Sequential(nn.Linear(3, 2, bias=False, device="cpu"), nn.ReLU())
    rejects(lambda: train_alone(teacher, draw(0, 5, 3).float(), [9], device="cuda:7"), RuntimeError,
            "the process that was to read the states failed", "CUDA")


def test_its_noise_has_the_given_size():
    (noise,) = Stream(torch.zeros(1, 4, **CPU64), 5000, batch=5000, noise=0.3)
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(noise.mean())) < 0.02 and noise.dtype is torch.float64


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: Stream(draw(0, 5), 10), ValueError, ["U must have shape (r, p)"]),
    (lambda: Stream(draw(0, 5, 3), 0), ValueError, ["samples must be at least 1, got 0"]),
    (lambda: Stream(draw(0, 5, 3), 10, batch=0), ValueError, ["batch", "got 0"]),
    (lambda: Stream(draw(0, 5, 3), 10, noise=-1.0), ValueError, ["noise must be >= 0", "-1"]),
    (lambda: Stream(draw(0, 5, 3), 10, seed=-1), ValueError, ["seed", "-1"]),
    (lambda: peak_of_states([]), ValueError, ["rising numbers", "[]"]),
    (lambda: peak_of_states([20, 10]), ValueError, ["rising numbers", "[20, 10]"]),
    (lambda: peak_of_states([10], "gram_statistic"), ValueError,
     ["Did you mean 'gram_statistics'"]),
    (lambda: train_alone(nn.Linear(3, 2), draw(0, 5, 3), [9]), TypeError, ["Sequential", "Linear"]),
    (lambda: train_alone(nn.Sequential(nn.Linear(3, 2)), draw(0, 5, 3), [9]), TypeError,
     ["without biases"]),
    (lambda: peak_of_states([10], sizes=(3, 2)), ValueError, ["at least one hidden layer"]),
    (lambda: peak_of_states([10], sizes=(3, 0, 2)), ValueError, ["size", "got 0"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)
