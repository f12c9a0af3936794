"""torchidl's ImplicitModel: this project's, with its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from idl_lab import model
from idl_lab.equilibrium import Implicit
from idl_lab.fixed_point import Picard
from idl_lab.norms import largest_sum, shrink
from idl_lab.torchidl.implicit_function import ImplicitFunction, ImplicitFunctionInf


class ImplicitModel(model.ImplicitModel):
    """`idl_lab.ImplicitModel` with torchidl's arguments.

    It also loads a ``state_dict`` that torchidl saved; the κ, which that does not say, is its own.

    Parameters
    ----------
    input_dim, output_dim, hidden_dim : int
    f : type of ImplicitFunction
        Activation and constraint.
    no_D, bias : bool
    mitr, grad_mitr : int
        Steps at most, forward and backward.
    tol, grad_tol : float
        Tolerances: of the state absolute, of the gradient relative to its size.
    kappa : float
    is_low_rank : bool
    rank : int, optional
        Needed where ``is_low_rank``.

    Raises
    ------
    TypeError, ValueError
        If f is no subclass, a low rank has no rank, or as `idl_lab.ImplicitModel`.
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int,
                 f: type[ImplicitFunction] = ImplicitFunctionInf, no_D: bool = False,
                 bias: bool = False, mitr: int = 300, grad_mitr: int = 300, tol: float = 3e-6,
                 grad_tol: float = 3e-6, kappa: float = 0.99, is_low_rank: bool = False,
                 rank: int | None = None) -> None:
        if is_low_rank and rank is None:
            raise ValueError("is_low_rank=True needs a rank, got None.")
        if not (isinstance(f, type) and issubclass(f, ImplicitFunction)):
            raise TypeError(f"f must be a subclass of ImplicitFunction, got {f!r}.")
        super().__init__(
            input_dim, output_dim, hidden_dim, kappa=kappa,
            activation="relu" if f.phi is ImplicitFunction.phi else f.phi,
            constraint=f.constraint, rank=rank if is_low_rank else None, bias=bias,
            feedthrough=not no_D,
            solver=Picard(0.0, atol=getattr(f, "tol", tol), max_steps=getattr(f, "mitr", mitr)),
            adjoint=Implicit(Picard(getattr(f, "grad_tol", grad_tol),
                                    max_steps=getattr(f, "grad_mitr", grad_mitr))))

    def forward(self, U: Tensor, X0: Tensor | None = None) -> Tensor:
        """Predictions (m, q); an input of three dimensions is flattened to two.

        Parameters
        ----------
        U : Tensor, shape (m, p) or (m, h, w) with h · w = p
        X0 : Tensor, shape (m, n), optional
        """
        return super().forward(U.flatten(1) if U.dim() == 3 else U, X0)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        theirs = {name: state_dict[prefix + name] for name in "ALRBCD"
                  if prefix + name in state_dict}
        if {"A", "L"} & theirs.keys():  # a checkpoint of torchidl's, which does not say its κ
            for name in theirs:
                del state_dict[prefix + name]
            ours = self._of_theirs(theirs) | {"_extra_state": self.get_extra_state()}
            state_dict.update({prefix + name: value for name, value in ours.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _of_theirs(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {f"free_{name}" if name in "ALR" else name: M for name, M in theirs.items()}
        if "L" in theirs:  # each factor was scaled by itself, L and Rᵀ to ‖·‖∞ ≤ κ
            found["free_L"] = shrink(theirs["L"], self.kappa, largest_sum)
            found["free_R"] = shrink(theirs["R"].mT, self.kappa, largest_sum).mT
        if self.state_bias is not None:  # the bias was the weight of a last input, of ones
            found["output_bias"] = torch.zeros_like(self.output_bias)
            for name, bias in [("B", "state_bias"), ("D", "output_bias")]:
                if name in theirs:
                    found[name], found[bias] = theirs[name][:, :-1], theirs[name][:, -1]
        return found
