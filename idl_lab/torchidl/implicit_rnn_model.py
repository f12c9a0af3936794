"""torchidl's ImplicitRNN: a cell over time, whose step is an implicit model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from idl_lab import rnn
from idl_lab.torchidl.implicit_base_model import ImplicitModel


class ImplicitRNN(nn.Module):
    """`idl_lab.ImplicitRNN` with torchidl's arguments.

    Parameters
    ----------
    input_dim, output_dim, implicit_hidden_dim, hidden_dim : int
    **kwargs
        ``kappa``, ``bias``, and so on, as for `ImplicitModel`.
    """

    def __init__(self, input_dim: int, output_dim: int, implicit_hidden_dim: int,
                 hidden_dim: int, **kwargs: Any) -> None:
        super().__init__()
        self.recurrent = ImplicitRNNCell(input_dim, implicit_hidden_dim, hidden_dim, **kwargs)
        self.linear = nn.Linear(hidden_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (batch, output_dim) from the last hidden state of x (batch, time, p).

        Parameters
        ----------
        x : Tensor, shape (batch, time, input_dim)
        """
        return self.linear(self.recurrent(x)[1])


class ImplicitRNNCell(rnn.ImplicitRNNCell):
    """`idl_lab.ImplicitRNNCell` with torchidl's order of arguments.

    Parameters
    ----------
    input_dim, implicit_hidden_dim, hidden_dim : int
    **kwargs
        As for `ImplicitModel`.
    """

    def __init__(self, input_dim: int, implicit_hidden_dim: int, hidden_dim: int,
                 **kwargs: Any) -> None:
        super().__init__(input_dim, hidden_dim, implicit_hidden_dim)
        self.layer = ImplicitModel(input_dim + hidden_dim, hidden_dim, implicit_hidden_dim,
                                   **kwargs)
