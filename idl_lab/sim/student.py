"""The model that SIM fits, ready to be trained on: its zeros stay, its steps fit its entries."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from idl_lab.model import ImplicitModel
from idl_lab.operators import Operator
from idl_lab.well_posedness import Certificate, certificate

NAMES = ("A", "B", "C", "D", "state_bias", "output_bias")


def _in_its_unit(name: str) -> property:
    def get(self: Student) -> Tensor | None:
        if (free := self._parameters.get(f"free_{name}")) is None:
            return self.__getattr__(name)  # torch's: the parameter, or an AttributeError
        return free * self._buffers[f"unit_{name}"]

    def put(self: Student, M: Tensor) -> None:
        with torch.no_grad():
            self._parameters[f"free_{name}"].copy_(_free(M, self._buffers[f"unit_{name}"]))

    return property(get, put, doc=f"``free_{name}`` ∘ ``unit_{name}``.")


class Student(ImplicitModel):
    """An implicit model whose entries are trained each in a unit of its own; `SIM.model` is one.

    A matrix M is ``free_M`` ∘ ``unit_M``, and an optimiser moves the first. SIM's unit of an
    entry is its own size: every entry that is not zero starts at ±1, a step of Adam at 1e-3
    changes it by a thousandth, and zeros stay zero. (In the units of the states entries differ
    by orders of magnitude, and steps of one size would overwrite the small ones.) A is kept in
    its ball row by row, Σ_j |A_ij| ≤ κ / max(1, L_i) with L_i the slope of φ_i; a rank is not
    kept. It is built as any `ImplicitModel`, and is one until `in_units`.
    """

    def in_units(self, units: dict[str, Tensor], slopes: Tensor) -> Student:
        """The same matrices, trained in units from now on; this object.

        Parameters
        ----------
        units : dict of Tensor
            For each matrix and bias that there is, by its name: of its shape, none negative.
            Entries of unit 0 become zero.
        slopes : Tensor, shape (n,)
            L_i.
        """
        self.register_buffer("slopes", slopes.to(self.C))
        for name, unit in units.items():
            M = self._parameters.pop("free_A" if name == "A" else name)
            self.register_buffer(f"unit_{name}", unit.to(M))
            self.register_parameter(f"free_{name}", nn.Parameter(_free(M.detach(), unit.to(M))))
        return self

    def moved(self) -> float:
        """By which part of itself an entry has changed since `in_units` was given |M|, at most."""
        frees = [(self._parameters[f"free_{name}"], self._buffers[f"unit_{name}"])
                 for name in NAMES if f"unit_{name}" in self._buffers]
        return max(float(((free.detach().abs() - 1) * (unit > 0)).abs().amax())
                   for free, unit in frees if unit.numel())

    def operator(self) -> Operator:
        """A in its ball."""
        if (unit := self._buffers.get("unit_A")) is None:
            return super().operator()
        steep = self.slopes.clamp(min=1)[:, None]
        return self.constrain(self.free_A * (unit * steep)) / steep

    A = property(ImplicitModel.A.fget, _in_its_unit("A").fset, doc=ImplicitModel.A.__doc__)
    B, C, D, state_bias, output_bias = (_in_its_unit(name) for name in NAMES[1:])

    def __setattr__(self, name: str, value: object) -> None:
        # A Parameter torch would register under a name that is computed from others.
        if isinstance(value, nn.Parameter) and f"free_{name}" in self._parameters:
            value = value.detach()
        super().__setattr__(name, value)

    def certificate(self) -> Certificate:
        """Which sufficient condition holds; where slopes differ, each weighs on its own row."""
        L = self._buffers.get("slopes")
        if L is None or (L == L[0]).all():
            return super().certificate()
        found = certificate(L[:, None] * self.A, replace(self.activation, slope=1.0))
        sentence = found.sentence.replace("‖A‖", "‖LA‖").replace("|A|", "|LA|")
        return replace(found, sentence=sentence.replace("(A + Aᵀ)", "(LA + AᵀL)"))


def _free(M: Tensor, unit: Tensor) -> Tensor:
    return torch.where(unit > 0, M / torch.where(unit > 0, unit, 1), 0)
