"""A model without feedback, and what is claimed of it, as files for an outside verifier."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idl_lab import optional, validation
from idl_lab.activations import Activation
from idl_lab.model import ImplicitModel
from idl_lab.networks.blocks import parts, select
from idl_lab.robustness.system import Ball, System, double

_OPSET, _IR = 15, 8  # of 2021: old enough for the runtimes that verifiers come with
_NODES = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "identity": "Identity",
          "softplus": "Softplus", "elu": "Elu"}


def _layers(A: np.ndarray) -> list[np.ndarray]:
    """The states in layers, each of which reads states of earlier ones alone."""
    reads, left, found = A != 0, np.ones(len(A), dtype=bool), []
    while left.any():
        ready = left & ~reads[:, left].any(1)
        if not ready.any():
            loop = [int(left.argmax())]
            while loop[-1] not in loop[:-1]:
                loop.append(int((reads[loop[-1]] & left).argmax()))
            loop = loop[loop.index(loop[-1]):]
            raise ValueError(f"the model has feedback, which no feed-forward graph holds: state "
                             f"{' reads state '.join(map(str, loop))}. ImplicitModel.from_network "
                             f"and SIM(feedback=False) give none; robustness.certify takes any.")
        found.append(np.flatnonzero(ready))
        left &= ~ready
    return found


class _Graph:
    """The nodes and the numbers of an ONNX graph, in a model's dtype."""

    def __init__(self, onnx: Any, dtype: torch.dtype) -> None:
        self.onnx, self.dtype, self.nodes, self.numbers = onnx, dtype, [], []

    def constant(self, name: str, value: Tensor | float) -> str:
        array = torch.as_tensor(value, dtype=self.dtype).cpu().contiguous().numpy()
        self.numbers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, inputs: list[str], output: str, **options: float) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], output, **options))
        return output

    def affine(self, name: str, terms: list[tuple[str, Tensor]], bias: Tensor) -> str:
        """The bias and W times each source, those left out that have no weight."""
        (first, W), *rest = [term for term in terms if bool(term[1].any())] or terms[:1]
        total = self.add("Gemm", [first, self.constant(f"{name}_{first}", W), self.constant(
            f"{name}_bias", bias)], f"{name}_0" if rest else name, transB=1)
        for k, (source, W) in enumerate(rest, 1):
            product = self.add("MatMul", [source, self.constant(f"{name}_{source}", W.mT)],
                               f"{name}_of_{source}")
            total = self.add("Add", [total, product], f"{name}_{k}" if k < len(rest) else name)
        return total

    def activate(self, phi: Activation, z: str, x: str) -> str:
        kind = phi.name.partition("(")[0]
        args, options = getattr(phi.fn, "args", ()), getattr(phi.fn, "keywords", {})
        if kind in _NODES and not options:
            return self.add(_NODES[kind], [z], x)
        if kind == "leaky_relu" and self.dtype == torch.float32:
            return self.add("LeakyRelu", [z], x, alpha=options.get("negative_slope", 0.01))
        if kind in ("leaky_relu", "prelu"):  # LeakyRelu would round its slope to float32
            slope = args[0] if kind == "prelu" else options.get("negative_slope", 0.01)
            return self.add("PRelu", [z, self.constant(f"{x}_slope", slope)], x)
        raise ValueError(f"the activation {phi.name!r} is not written as ONNX; these are: "
                         f"{', '.join([*_NODES, 'leaky_relu', 'prelu'])}.")


def to_onnx(model: ImplicitModel, path: str | PathLike[str]) -> None:
    """Write a model without feedback as an ONNX file, u (m, p) to y (m, q), in its own dtype.

    A layer is what reads earlier layers alone, by the zeros of A in any order of the states.

    Parameters
    ----------
    model : ImplicitModel
    path : path

    Raises
    ------
    TypeError, ValueError
        If it is none or of half precision; if a state reaches itself through A, or an activation
        has no node.
    ModuleNotFoundError
        Without the package onnx.
    """
    onnx, system = optional.need("onnx", "verify"), System.of(model)
    if model.B.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"verifiers take float32 or float64, got {model.B.dtype}: model.float().")
    graph, pieces = _Graph(onnx, model.B.dtype), parts(system.phi, len(system.A))
    ends, known = np.cumsum([0, *(size for _, size in pieces)]), []
    for depth, layer in enumerate(_layers(system.A.cpu().numpy())):
        made = []
        for k, (phi, _) in enumerate(pieces):
            mine = layer[(layer >= ends[k]) & (layer < ends[k + 1])]
            if len(mine):
                at = torch.as_tensor(mine, device=system.A.device)
                terms = [("u", system.B[at]), *((x, system.A[at][:, those]) for x, those in known)]
                z = graph.affine(f"z{depth}_{k}", terms, system.a[at])
                phi = select(phi, torch.as_tensor(mine - ends[k]))
                made.append((graph.activate(phi, z, f"x{depth}_{k}"), at))
        known += made
    graph.affine("y", [("u", system.D), *((x, system.C[:, at]) for x, at in known)], system.c)
    helper, kind = onnx.helper, onnx.TensorProto.DataType.Value(
        "FLOAT" if graph.dtype == torch.float32 else "DOUBLE")
    u, y = (helper.make_tensor_value_info(name, kind, ["m", len(T)]) for name, T in
            (("u", system.B.mT), ("y", system.C)))
    whole = helper.make_model(
        helper.make_graph(graph.nodes, "idl_lab", [u], [y], graph.numbers), ir_version=_IR,
        opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="idl_lab")
    onnx.checker.check_model(whole)
    onnx.save(whole, str(path))


def to_vnnlib(model: ImplicitModel, u: Tensor, label: int, eps: float | Tensor,
              path: str | PathLike[str], *, low: float | None = None, high: float | None = None
              ) -> None:
    """Write as VNN-LIB: is there an input within ε (∞-norm) where another class ties or wins?

    "unsat" is what `certify` proves; "sat" comes with a counterexample.

    Parameters
    ----------
    model : ImplicitModel
        Of the scores Y_0, Y_1, …
    u : Tensor, shape (p,)
        X_0, X_1, … at the center.
    label : int
    eps, low, high
        As for `bounds`.
    path : path

    Raises
    ------
    TypeError, ValueError
        As `certify`.
    """
    system = System.of(model)
    (q, _), p = system.C.shape, system.B.shape[1]
    Ball.of(system, validation.tensor("u", u, "p", p=p)[None], eps, low=low, high=high)  # checks
    if validation.integer("label", label, 0) >= q or q == 1:
        raise ValueError(f"label must be in [0, {q - 1}] and one of two at least, got {label}.")
    center, radius = double(u).cpu(), double(eps).cpu() if isinstance(eps, Tensor) else eps
    least = (center - radius).clamp(min=-math.inf if low is None else low)
    most = (center + radius).clamp(max=math.inf if high is None else high)
    lines = [f"; sat: an input of the box whose class is not {label}",
             *(f"(declare-const X_{k} Real)" for k in range(p)),
             *(f"(declare-const Y_{k} Real)" for k in range(q))]
    for sign, ends in ((">=", least), ("<=", most)):  # SMT-LIB's reals have no exponent
        lines += [f"(assert ({sign} X_{k} {np.format_float_positional(end, trim='0')}))"
                  for k, end in enumerate(ends.tolist())]
    others = " ".join(f"(and (>= Y_{j} Y_{label}))" for j in range(q) if j != label)
    Path(path).write_text("\n".join([*lines, f"(assert (or {others}))", ""]), encoding="utf-8")
