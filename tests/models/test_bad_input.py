"""What is no dense finite tensor of the right kind is refused by this project, in a sentence."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
import torch
from torch import nn

from idl_lab import ImplicitModel, ImplicitRNNCell
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import fixed_point
from idl_lab.layer import EquilibriumLayer
from idl_lab.well_posedness import certificate

A, b, U = 0.5 * torch.eye(3, device="cpu"), torch.ones(2, 3, device="cpu"), torch.ones(
    2, 3, device="cpu")
SEED = {"device": "cpu", "generator": torch.Generator("cpu").manual_seed(0)}
MODEL, CELL = ImplicitModel(3, 2, 4, **SEED), ImplicitRNNCell(3, 4, 5, **SEED)


class Step(nn.Module):
    def forward(self, z, u):
        return 0.5 * torch.tanh(z) + u


LAYER = EquilibriumLayer(Step())
BAD = {
    "list": lambda: [[1.0, 2.0, 3.0]] * 2, "numpy": lambda: np.ones((2, 3), np.float32),
    "str": lambda: "ones", "dict": lambda: {"u": 1}, "float": lambda: 1.0,
    "generator": lambda: (x for x in [1]), "whole numbers": U.long, "bool": U.bool,
    "complex": lambda: U.to(torch.complex64), "coo": U.to_sparse, "csr": U.to_sparse_csr,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], device="cpu"),
    "mkldnn": U.to_mkldnn, "NaN": lambda: U * torch.nan, "infinite": lambda: U / 0,
    "0 dimensions": lambda: U.sum(),
}
CALLS = {
    "model": lambda v: MODEL(v), "model.equilibrium": lambda v: MODEL.equilibrium(v),
    "model.injection": lambda v: MODEL.injection(v), "model.output": lambda v: MODEL.output(v, U),
    "X0": lambda v: MODEL(U, X0=v), "A": lambda v: equilibrium(v, b),
    "injection": lambda v: equilibrium(A, v), "cell": lambda v: CELL(v),
    "from_matrices A": lambda v: ImplicitModel.from_matrices(v, U.mT, U),
    "from_matrices B": lambda v: ImplicitModel.from_matrices(A, v, U),
    "fixed_point": lambda v: fixed_point(torch.tanh, v), "layer": lambda v: LAYER(v),
    "layer z0": lambda v: LAYER(U, z0=v), "certificate": lambda v: certificate(v),
    "solver": lambda v: equilibrium(A, b, solver=v), "phi": lambda v: equilibrium(A, b, v),
    "adjoint": lambda v: equilibrium(A, b, adjoint=v), "f": lambda v: EquilibriumLayer(v),
    "kappa": lambda v: ImplicitModel(3, 2, 4, kappa=v),
    "network": lambda v: ImplicitModel.from_network(v),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype",
                            "ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("call", CALLS)
def test_a_bad_value_is_refused_in_a_sentence_of_this_project(call, bad):
    value = BAD[bad]()
    with pytest.raises((TypeError, ValueError)) as caught:
        CALLS[call](value)
    where = traceback.extract_tb(caught.value.__traceback__)[-1].filename
    assert "idl_lab" in where and len(str(caught.value)) > 15, (where, caught.value)
