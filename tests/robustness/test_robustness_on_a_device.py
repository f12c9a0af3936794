"""What is proven on a device is what is proven on the CPU: seen on the pretend device."""

import math

import pytest
import torch

from idl_lab.robustness import (
    bounds,
    certify,
    fgsm,
    interval_loss,
    lipschitz,
    pgd,
    sensitivity,
    sensitivity_attack,
    sensitivity_penalty,
    tightness,
)
from tests.helpers import draw
from tests.pretend_device import DEVICE, pretend_device
from tests.robustness_cases import KINDS, case


def on_both(kind, compute, near):
    """What is computed from a model, inputs and labels on the CPU, and on the device as well."""
    model, U = case(kind, 0), draw(0, 3, 4)
    labels = model(U).argmax(1).detach()
    here = compute(model, U, labels)
    with pretend_device():
        there = compute(case(kind, 0).to(DEVICE), U.to(DEVICE), labels.to(DEVICE))
        for a, b in zip(here, there, strict=True):
            if isinstance(a, torch.Tensor):
                assert b.device == DEVICE
                torch.testing.assert_close(b.cpu(), a, rtol=near, atol=near)
            else:
                assert a == pytest.approx(b, rel=near)
    return here


@pytest.mark.parametrize(("kind", "norm"), [("row", math.inf), ("monotone", 2), *(
    pytest.param(kind, norm, marks=pytest.mark.slow)
    for kind, norm in (("row", 2), ("monotone", math.inf), ("network", math.inf)))])
def test_bounds_and_certificates(kind, norm):
    def compute(model, U, labels):
        found = bounds(model, U, 0.1, norm=norm, method="lp", progress=False)
        proven = certify(model, U, labels, 0.2, norm=norm, progress=False, nodes=10)
        return [found.lower, found.upper, found.state_lower, found.state_upper, proven.certified,
                proven.margin, proven.correct, proven.broken]

    # The ascent is in float32, and what it finds decides where it stops.
    assert torch.isfinite(on_both(kind, compute, 1e-4)[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_attacks_and_closed_forms(kind):
    def compute(model, U, labels):
        given = torch.Generator().manual_seed(0)
        eps = torch.full_like(U, 0.1)
        done = [fgsm(model, U, labels, 0.1), pgd(
            model, U, labels, 0.1, norm=2, restarts=2, steps=4, generator=given, progress=False),
            pgd(model, U, labels, eps, steps=4, low=-9.0, high=9.0, progress=False),
            bounds(model, U, eps, low=-9.0, high=9.0, progress=False).lower, lipschitz(model)]
        if kind != "monotone":
            done += [sensitivity(model), tightness(model, U), sensitivity_penalty(model).detach(),
                     sensitivity_attack(model, U, labels, 0.1, 2),
                     interval_loss(model, U, labels, 0.1).detach()]
        return done

    on_both(kind, compute, 1e-9)
