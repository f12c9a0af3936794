"""What a checkpoint says of a model's constraint: its name and κ, beside the parameters."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from idl_lab.constraints import Constraint


class Constrained(nn.Module):
    """A module whose ``constrain`` and ``constraint`` (its name) belong to its checkpoints."""

    constrain: Constraint
    constraint: str | None

    @property
    def kappa(self) -> float:
        """Radius κ of the constraint; assigning it moves the constraint."""
        return self.constrain.kappa

    @kappa.setter
    def kappa(self, value: float) -> None:
        self.constrain = replace(self.constrain, kappa=value)

    def get_extra_state(self) -> Tensor:
        """The constraint's name and κ, which belong to a checkpoint, as the bytes of a text."""
        return to_bytes(self.constraint, self.kappa)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a checkpoint's κ.

        Parameters
        ----------
        state : Tensor
            What `get_extra_state` gave.
        """
        self.kappa = kappa_of(state, self.constraint)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        # Under another constraint the same free matrix is another A: refused before anything is
        # copied here. In a larger net, what torch loads before this part is copied already.
        if (saved := state_dict.get(f"{prefix}_extra_state")) is not None:
            kappa_of(saved, self.constraint)
        if (old := f"{prefix}parametrizations.A.original") in state_dict:
            raise ValueError(f"this checkpoint is of an older version and does not say its κ: its "
                             f"{old} is free_A of a model with the same constraint and kappa.")
        super()._load_from_state_dict(state_dict, prefix, *args)


def to_bytes(name: str | None, kappa: float) -> Tensor:
    """A constraint's name and κ as the bytes of a text, uint8, for a checkpoint.

    Parameters
    ----------
    name : str or None
    kappa : float
    """
    return torch.tensor(list(f"{name} {kappa!r}".encode()), dtype=torch.uint8, device="cpu")


def kappa_of(state: Tensor, name: str | None) -> float:
    """The κ in what `to_bytes` made.

    Parameters
    ----------
    state : Tensor of uint8
    name : str or None
        The constraint that it is wanted for.

    Raises
    ------
    ValueError
        If it is of another constraint, or of none: averaged or scaled along with the parameters.
    """
    try:
        saved, number = bytes(state.tolist()).decode().split()
        kappa = float(number)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError("_extra_state must be the bytes (uint8) of a constraint's name and κ, "
                         f"left as they are where parameters are averaged or cast; got {state}."
                         ) from error
    if saved != str(name):
        raise ValueError(f"this checkpoint is of a model with constraint={saved}, which makes "
                         f"another A of the same parameters than constraint={name} does: build "
                         f"the model with constraint={saved}, or assign model.A.")
    return kappa
