"""Every refusal says what was given and what is wanted."""

import numpy as np
import pytest
import torch
from helpers import CPU64, draw, rejects

from idl_lab import validation

A = draw(0, 2, 3)
NAN = torch.full((2, 2), float("nan"), **CPU64)
INTS = torch.zeros(2, 2, device="cpu", dtype=torch.int64)


@pytest.mark.parametrize(("call", "error", "fragments"), [
    (lambda: validation.tensor("A", [[1.0]]), TypeError, ["A must be a torch.Tensor", "list"]),
    (lambda: validation.tensor("A", np.eye(2)), TypeError, ["ndarray", "torch.as_tensor(A)"]),
    (lambda: validation.tensor("A", INTS), TypeError, ["int64", "A.float()"]),
    (lambda: validation.tensor("A", INTS.to(torch.complex64)), TypeError, ["complex64"]),
    (lambda: validation.tensor("A", A, "n n"), ValueError, ["(n, n)", "(2, 3)"]),
    (lambda: validation.tensor("A", A, "n"), ValueError, ["(n)", "(2, 3)"]),
    (lambda: validation.tensor("A", A, "... p", p=4), ValueError, ["(..., p=4)", "(2, 3)"]),
    (lambda: validation.tensor("A", A.sum(), "... p"), ValueError, ["(..., p)", "()"]),
    (lambda: validation.tensor("A", A, like=A.float()), TypeError, ["float64", "wanted torch.f"]),
    (lambda: validation.tensor("A", A, like=torch.empty(1, device="meta", dtype=A.dtype)),
     ValueError, ["on cpu", "wanted on meta"]),
    (lambda: validation.tensor("A", NAN), ValueError, ["finite", "4 NaN or infinite of 4"]),
    (lambda: validation.square("A", A), ValueError, ["(n, n)", "(2, 3)"]),
    (lambda: validation.square("A", A[:0, :0]), ValueError, ["at least one row", "(0, 0)"]),
    (lambda: validation.integer("n", 2.0), TypeError, ["n must be a whole number", "2.0"]),
    (lambda: validation.integer("n", True), TypeError, ["True"]),
    (lambda: validation.integer("n", 0), ValueError, ["at least 1", "0"]),
    (lambda: validation.real("tol", "1"), TypeError, ["tol must be a number", "'1'"]),
    (lambda: validation.real("tol", True), TypeError, ["True"]),
    (lambda: validation.real("tol", float("nan")), ValueError, ["finite", "nan"]),
    (lambda: validation.real("tol", float("inf"), at_least=0), ValueError, [">= 0", "inf"]),
    (lambda: validation.real("lr", 0.0, above=0.0), ValueError, ["> 0", "0.0"]),
    (lambda: validation.real("beta", 1.5, above=0, at_most=1), ValueError, ["> 0 and <= 1", "1.5"]),
    (lambda: validation.kappa(1.0), ValueError, ["kappa", ">= 0 and < 1", "1.0"]),
    (lambda: validation.kappa(-0.1), ValueError, [">= 0 and < 1", "-0.1"]),
    (lambda: validation.choice("constraint", "projekt", ["scale", "project"]), ValueError,
     ["'projekt'", "scale, project", "Did you mean 'project'?"]),
    (lambda: validation.choice("constraint", 5, ["scale"]), ValueError, ["constraint=5", "scale"]),
    (lambda: validation.resolve_device("cudda"), ValueError, ["'cudda'", "Did you mean 'cuda'?"]),
    (lambda: validation.resolve_device("cuda:x"), ValueError, ["'cuda:x'", "'cuda:0'"]),
    (lambda: validation.resolve_device("cuda:99"), ValueError, ["cuda:99", "torch sees"]),
])
def test_refusals(call, error, fragments):
    rejects(call, error, *fragments)


def test_a_name_far_from_all_gets_no_hint():
    with pytest.raises(ValueError, match=r"there is scale\.$"):
        validation.choice("constraint", "zzz", ["scale"])


def test_missing_accelerators_are_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "mps"):
        rejects(lambda name=name: validation.resolve_device(name), ValueError, f"'{name}'",
                "device='cpu'")
    assert validation.resolve_device("auto") == torch.device("cpu")


def test_auto_prefers_cuda_then_mps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert validation.resolve_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert validation.resolve_device().type == "mps"


def test_what_is_right_passes_unchanged():
    assert validation.tensor("A", A, "... p", like=A, p=3) is A
    assert validation.tensor("x", A[0], "... p") .shape == (3,)
    assert validation.integer("n", np.int64(3)) == 3
    assert validation.real("tol", np.float32(0.5), at_least=0) == 0.5
    assert validation.kappa(0) == 0.0
    assert validation.choice("c", "row", ["scale", "row"]) == "row"
    assert validation.resolve_device(torch.device("cpu")) == torch.device("cpu")
