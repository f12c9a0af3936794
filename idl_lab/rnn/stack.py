"""Layers and directions of implicit cells, and a prediction from their last hidden states."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from idl_lab import validation
from idl_lab.extras import never_compiled, refuse_traced, unless_autocast
from idl_lab.fixed_point.solution import one_warning
from idl_lab.networks import redraw
from idl_lab.rnn import sequences
from idl_lab.rnn.cell import ImplicitRNNCell
from idl_lab.well_posedness import Certificate


class ImplicitRNNStack(nn.Module):
    """Layers of `ImplicitRNNCell` over time: to the cell what `torch.nn.RNN` is to its cell.

    Arguments, shapes and the order of outputs are torch's, save that the batch comes first by
    default. Layer k reads the hidden states of layer k − 1; a second direction has cells of its
    own, which read each sequence from its own end, and its hidden states stand beside the first's.

    Parameters
    ----------
    input_dim, hidden_dim, implicit_hidden_dim : int
        Sizes of u and, in each layer and direction, of h and x.
    num_layers : int
    bidirectional : bool
        Read in both directions.
    dropout : float
        Share 0 ≤ p ≤ 1 of the hidden states between two layers that is dropped in training.
    batch_first : bool
        Inputs and outputs are (batch, time, features), not (time, batch, features); h0 and h_n are
        the same in both.
    **options
        Of every step, as for `ImplicitModel`: activation, kappa, constraint, bias, solver, …;
        ``generator`` draws all cells, one after the other.

    Attributes
    ----------
    cells : torch.nn.ModuleList of ImplicitRNNCell
        In the order of h_n: a layer's forward direction, its backward one, the next layer's.

    Raises
    ------
    TypeError, ValueError
        On a number of layers below 1, a dropout outside [0, 1], flags that are none, or as
        `ImplicitModel`.

    Warns
    -----
    UserWarning
        If there is a dropout and only one layer, where nothing is dropped.
    """

    def __init__(self, input_dim: int, hidden_dim: int, implicit_hidden_dim: int, *,
                 num_layers: int = 1, bidirectional: bool = False, dropout: float = 0.0,
                 batch_first: bool = True, **options) -> None:
        super().__init__()
        self.input_dim = validation.integer("input_dim", input_dim)
        self.hidden_dim = validation.integer("hidden_dim", hidden_dim)
        self.num_layers = validation.integer("num_layers", num_layers)
        self.dropout = validation.real("dropout", dropout, at_least=0.0, at_most=1.0)
        for name, flag in {"bidirectional": bidirectional, "batch_first": batch_first}.items():
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, got {flag!r}.")
        self.bidirectional, self.batch_first = bidirectional, batch_first
        if self.dropout and num_layers == 1:
            warnings.warn(f"dropout acts between layers: dropout={dropout:g} with num_layers=1 "
                          f"drops nothing.", UserWarning, stacklevel=2)
        self.cells = nn.ModuleList(
            ImplicitRNNCell(self.directions * hidden_dim if layer else input_dim, hidden_dim,
                            implicit_hidden_dim, **options)
            for layer in range(num_layers) for _ in range(self.directions))

    @property
    def directions(self) -> int:
        """How many directions a layer reads in, 1 or 2."""
        return 2 if self.bidirectional else 1

    @never_compiled
    def forward(self, x: Tensor | PackedSequence, h0: Tensor | None = None, *,
                lengths: Tensor | Sequence[int] | None = None
                ) -> tuple[Tensor | PackedSequence, Tensor]:
        """The hidden states of the last layer at every time step, and the last of every layer.

        Parameters
        ----------
        x : Tensor or PackedSequence
            Shape (batch, time, input), or (time, batch, input) without ``batch_first``; or
            (time, input) for one sequence; or packed.
        h0 : Tensor, shape (num_layers · directions, batch, hidden), optional
            The hidden states before the first step, in the order of ``cells`` and of a packed
            batch before packing; (num_layers · directions, hidden) for one sequence; zero by
            default.
        lengths : sequence or Tensor of int, shape (batch,), optional
            Of padded sequences: what is past a length is not read, in no direction.

        Returns
        -------
        outputs : Tensor or PackedSequence
            Of the shape of x, with directions · hidden features; zero past a length.
        h_n : Tensor, shape (num_layers · directions, batch, hidden)
            After the last (valid) step of a direction; (num_layers · directions, hidden) for one
            sequence.

        Raises
        ------
        TypeError, ValueError
            If x, h0 or lengths does not fit.
        FloatingPointError
            If a hidden state overflows: the recurrence over time is unstable.
        RuntimeError
            Where torch traces or exports.

        Warns
        -----
        ConvergenceWarning
            Once a call, if solves stop early.
        """
        refuse_traced()
        if isinstance(x, Tensor) and x.dim() not in (2, 3):
            axes = "batch, time" if self.batch_first else "time, batch"
            raise ValueError(f"x must have shape ({axes}, input), or (time, input) for one "
                             f"sequence, got {tuple(x.shape)}.")
        if isinstance(x, Tensor) and x.dim() == 2:
            if lengths is not None:
                raise ValueError("lengths belongs to padded sequences, got x of one, shape "
                                 f"{tuple(x.shape)}.")
            axis = 0 if self.batch_first else 1
            h0 = self._check_h0(h0, ())
            outputs, h_n = self(x.unsqueeze(axis), None if h0 is None else h0.unsqueeze(1))
            return outputs.squeeze(axis), h_n.squeeze(1)
        like = self.cells[0].layer.C
        packed = sequences.pack("x", x, lengths, like=like, p=self.input_dim,
                                batch_first=self.batch_first)
        sizes = packed.batch_sizes.tolist()
        h0 = self._check_h0(h0, sizes[:1])
        if h0 is None:
            h0 = like.new_zeros(len(self.cells), sizes[0], self.hidden_dim)
        starts = sequences.ordered(h0, packed.sorted_indices, dim=1).unbind()
        data, ends = packed.data, []
        with one_warning("the time steps of a sequence"):
            for first in range(0, len(self.cells), self.directions):
                if first:
                    data = nn.functional.dropout(data, self.dropout, self.training)
                sides = [self.cells[first + k]._run(data, sizes, starts[first + k], bool(k))
                         for k in range(self.directions)]
                data = torch.cat([outputs for outputs, _ in sides], dim=1)
                ends += [h for _, h in sides]
        h_n = sequences.ordered(torch.stack(ends), packed.unsorted_indices, dim=1)
        return sequences.unpack(data, packed, x, self.batch_first), h_n

    def _check_h0(self, h0: Tensor | None, batch: Sequence[int]) -> Tensor | None:
        if h0 is None:
            return None
        h0 = unless_autocast(h0, self.cells[0].layer.C)
        validation.tensor("h0", h0, like=self.cells[0].layer.C)
        wanted = (len(self.cells), *batch, self.hidden_dim)
        if h0.shape != wanted:
            raise ValueError(f"h0 must have shape {wanted}, (num_layers · directions"
                             f"{', batch' * len(batch)}, hidden), got {tuple(h0.shape)}.")
        return h0

    def certificate(self) -> Certificate:
        """Of the cell with the least margin, which condition for a unique x it meets, in words."""
        return min((cell.certificate() for cell in self.cells), key=lambda found: found.margin)

    def extra_repr(self) -> str:
        """What the cells do not say."""
        return (f"num_layers={self.num_layers}, bidirectional={self.bidirectional}, "
                f"dropout={self.dropout:g}, batch_first={self.batch_first}")


class ImplicitRNN(nn.Module):
    """Prediction from sequences: an `ImplicitRNNStack`, then a Linear of its last hidden state.

    That state is the last layer's after the last step; with two directions, the forward one's
    after the last step beside the backward one's after the first, so both have read it all.
    For the hidden states at every step, as `torch.nn.RNN` gives them, call ``recurrent``.

    Parameters
    ----------
    input_dim, output_dim, hidden_dim, implicit_hidden_dim : int
        Sizes of u, of the prediction, of h and of x. (torchidl has the last two the other way
        round: give their names.)
    num_layers, bidirectional, dropout, batch_first
        As for `ImplicitRNNStack`, and so as for `torch.nn.RNN`; the batch comes first by default.
    **options
        Of every step, as for `ImplicitModel`; ``generator`` draws the Linear too.

    Attributes
    ----------
    recurrent : ImplicitRNNStack
        Gives h at every time step and h_n: ``outputs, h_n = model.recurrent(x)``.
    linear : torch.nn.Linear

    Raises
    ------
    TypeError, ValueError
        As `ImplicitRNNStack`.

    References
    ----------
    Decugis et al. 2024, The Extrapolation Power of Implicit Models, arXiv 2407.14430.
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int,
                 implicit_hidden_dim: int, *, num_layers: int = 1, bidirectional: bool = False,
                 dropout: float = 0.0, batch_first: bool = True, **options) -> None:
        super().__init__()
        output_dim = validation.integer("output_dim", output_dim)
        self.recurrent = ImplicitRNNStack(
            input_dim, hidden_dim, implicit_hidden_dim, num_layers=num_layers,
            bidirectional=bidirectional, dropout=dropout, batch_first=batch_first, **options)
        C = self.recurrent.cells[0].layer.C
        self.linear = nn.Linear(self.recurrent.directions * hidden_dim, output_dim,
                                device=C.device, dtype=C.dtype)
        if options.get("generator") is not None:
            redraw(self.linear, options["generator"])

    def forward(self, x: Tensor | PackedSequence, h0: Tensor | None = None, *,
                lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Predict from the last hidden state, the last valid one of a shorter sequence.

        Parameters
        ----------
        x : Tensor or PackedSequence
            Shape (batch, time, input), or (time, batch, input) without ``batch_first``; or
            (time, input) for one sequence; or packed.
        h0 : Tensor, shape (num_layers · directions, batch, hidden), optional
            The hidden states before the first step, without the axis of the batch for one
            sequence; zero by default.
        lengths : sequence or Tensor of int, shape (batch,), optional
            Of padded sequences.

        Returns
        -------
        Tensor, shape (batch, output) or (output,)

        Raises
        ------
        TypeError, ValueError
            If x, h0 or lengths does not fit.
        FloatingPointError
            If a hidden state overflows.
        """
        h_n = self.recurrent(x, h0, lengths=lengths)[1]
        return self.linear(torch.cat(tuple(h_n[-self.recurrent.directions:]), dim=-1))

    def certificate(self) -> Certificate:
        """Of the cell with the least margin, which condition for a unique x it meets, in words."""
        return self.recurrent.certificate()
