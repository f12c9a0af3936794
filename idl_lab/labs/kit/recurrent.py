"""Torch's own recurrent layers, to compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.networks import redraw


class TorchRNN(nn.Module):
    """One of torch's recurrent layers and a Linear of its last output, to compare with.

    Parameters
    ----------
    kind : {"RNN", "GRU", "LSTM"}
    input_dim, output_dim : int
    parameters : int
        The size allowed: it takes the most hidden units that have no more parameters.
    bias : bool
        Whether the recurrent layer has biases; the Linear always has one.
    device : torch.device or str
    generator : torch.Generator, optional
        Draws the parameters.
    **options
        Of torch's layer, such as ``nonlinearity="relu"`` of an RNN.
    """

    def __init__(self, kind: str, input_dim: int, output_dim: int, parameters: int, *,
                 bias: bool = True, device: torch.device | str = "cpu",
                 generator: torch.Generator | None = None, **options) -> None:
        super().__init__()
        gates = {"RNN": 1, "GRU": 3, "LSTM": 4}
        g, k = gates[validation.choice("kind", kind, gates)], 0
        while g * (k + 1) * (k + 1 + 2 * bias + input_dim) + output_dim * (k + 2) <= parameters:
            k += 1
        if k == 0:
            raise ValueError(f"parameters must allow one hidden unit, got {parameters}.")
        self.recurrent = getattr(nn, kind)(input_dim, k, bias=bias, batch_first=True,
                                           device=device, **options)
        self.linear = nn.Linear(k, output_dim, device=device)
        redraw(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions (m, output) of sequences (m, time, input).

        Parameters
        ----------
        x : Tensor, shape (m, time, input)
        """
        return self.linear(self.recurrent(x)[0][:, -1])
