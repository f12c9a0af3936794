"""The activations of torchidl's models, and how each keeps A well-posed."""

from __future__ import annotations

import torch
from torch import Tensor

from idl_lab.fixed_point.solution import ConvergenceWarning

ImplicitFunctionWarning = ConvergenceWarning  # under its name there, for who filters it


class ImplicitFunction:
    """An activation and how A is kept well-posed; here, not at all.

    A subclass sets ``phi``, and ``mitr``, ``grad_mitr``, ``tol`` and ``grad_tol`` if it likes.
    Its ``dphi`` is not used: the derivative comes from autograd.
    """

    constraint: str | None = None

    @staticmethod
    def phi(X: Tensor) -> Tensor:
        """The activation, ReLU.

        Parameters
        ----------
        X : Tensor, of any shape
        """
        return torch.relu(X)


class ImplicitFunctionInf(ImplicitFunction):
    """‖A‖∞ ≤ κ, by one factor for the whole matrix."""

    constraint = "scale"


class ImplicitFunctionTriu(ImplicitFunction):
    """A strictly upper triangular: a feed-forward net."""

    constraint = "triangular"
