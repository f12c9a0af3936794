"""Recurrent models for the tests, and an oracle: plain torch, one loop inside another."""

from __future__ import annotations

import torch

from idl_lab import ImplicitRNN, ImplicitRNNCell
from idl_lab.fixed_point import Picard
from idl_lab.rnn import ImplicitRNNStack

TORCH = {"relu": torch.relu, "tanh": torch.tanh}


def options_with(seed=0, **options):
    return {"device": "cpu", "dtype": torch.float64, "solver": Picard(rtol=1e-13),
            "generator": torch.Generator("cpu").manual_seed(seed), "kappa": 0.8, **options}


def cell_with(seed=0, p=2, hidden=3, n=5, **options):
    return ImplicitRNNCell(p, hidden, n, **options_with(seed, **options))


def rnn_with(seed=0, p=2, q=2, hidden=3, n=5, **options):
    return ImplicitRNN(p, q, hidden, n, **options_with(seed, **options))


def stack_with(seed=0, p=2, hidden=3, n=5, **options):
    return ImplicitRNNStack(p, hidden, n, **options_with(seed, **options))


def leaves(module):
    """Copies of the parameters, by the letter they have in the equations."""
    return {name.replace("free_A", "A").split(".")[-1]:
            M.detach().clone().requires_grad_() for name, M in module.named_parameters()}


def reference(P, u, h, phi, kappa, steps=200):
    """Plain torch, all of it in autograd: time outside, Picard's steps inside."""
    A = P["A"] * torch.clamp(kappa / P["A"].abs().sum(dim=1).amax(), max=1)
    outputs = []
    for t in range(u.shape[1]):
        v = torch.cat([u[:, t], h], dim=1)
        x = torch.zeros(len(u), len(A), device="cpu", dtype=u.dtype)
        for _ in range(steps):
            x = TORCH[phi](x @ A.T + v @ P["B"].T + P.get("state_bias", 0))
        h = x @ P["C"].T + P.get("output_bias", 0)
        h = h + v @ P["D"].T if "D" in P else h
        outputs.append(h)
    return torch.stack(outputs, dim=1), h


def gradients(loss, tensors):
    return torch.autograd.grad(loss, list(tensors))


def close(one, two, atol=1e-9):
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in zip(one, two, strict=True))
