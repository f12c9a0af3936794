"""One implicit step over time: ImplicitRNNCell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from idl_lab import validation
from idl_lab.extras import full_precision, never_compiled, refuse_traced, unless_autocast
from idl_lab.fixed_point.solution import Solution, one_warning
from idl_lab.model import ImplicitModel
from idl_lab.operators import check_finite, from_leaves, leaves
from idl_lab.rnn import sequences
from idl_lab.rnn.recurrence import Steps, over_time
from idl_lab.well_posedness import Certificate


class ImplicitRNNCell(nn.Module):
    """A recurrent cell, x = φ(Ax + Bv), h = Cx + Dv with v = [u; h], for a step or a sequence.

    What comes in decides which: one time step in, the next hidden state out, as with
    `torch.nn.RNNCell`; a whole sequence in, (outputs, h_n) out, as with
    ``torch.nn.RNN(batch_first=True)``, save that h has no axis for layers here. In a sequence
    each solve starts at the state x of the step before, which neither the value nor the
    gradient depends on (so with ``adjoint=Unrolled()``, whose gradient would, it starts at zero).

    Parameters
    ----------
    input_dim, hidden_dim, implicit_hidden_dim : int
        Sizes of u, h and x. (torchidl has the last two the other way round: give their names.)
    **options
        Of the step, an `ImplicitModel` with ``input_dim + hidden_dim`` inputs and ``hidden_dim``
        outputs: activation, kappa, constraint, bias, feedthrough, solver, adjoint, device, …

    Attributes
    ----------
    layer : ImplicitModel
        The step; its A, B, C, D are the matrices above, the columns of u before those of h.

    Raises
    ------
    TypeError, ValueError
        As `ImplicitModel`.

    References
    ----------
    Decugis et al. 2024, The Extrapolation Power of Implicit Models, arXiv 2407.14430, whose
    models of time series are of this kind.
    """

    def __init__(self, input_dim: int, hidden_dim: int, implicit_hidden_dim: int,
                 **options) -> None:
        super().__init__()
        self.input_dim = validation.integer("input_dim", input_dim)
        self.hidden_dim = validation.integer("hidden_dim", hidden_dim)
        n = validation.integer("implicit_hidden_dim", implicit_hidden_dim)
        self.layer = ImplicitModel(self.input_dim + self.hidden_dim, self.hidden_dim, n, **options)

    @never_compiled
    def forward(self, u: Tensor | PackedSequence, h: Tensor | None = None, *,
                lengths: Tensor | Sequence[int] | None = None
                ) -> Tensor | tuple[Tensor | PackedSequence, Tensor]:
        """One time step, or all of them.

        Parameters
        ----------
        u : Tensor or PackedSequence
            One step, shape (batch, input) or (input,); or sequences, shape (batch, time, input)
            or packed.
        h : Tensor, optional
            The hidden state before, shape (batch, hidden), or (hidden,) for one step of one
            sequence; zero by default. Of a packed batch in the order before packing.
        lengths : sequence or Tensor of int, shape (batch,), optional
            Of sequences padded to (batch, time, input): what is past a length is not read.

        Returns
        -------
        Tensor, or tuple of the outputs and a Tensor
            Of one step the next h. Of sequences every h_t, shape (batch, time, hidden), zero past
            a length, or packed as u is; and the last (valid) one, shape (batch, hidden).

        Raises
        ------
        FloatingPointError
            If h overflows: the recurrence over time is unstable.
        RuntimeError
            Where torch traces or exports.

        Warns
        -----
        ConvergenceWarning
            Once a call, if solves stop early.
        """
        refuse_traced()
        if isinstance(u, Tensor) and u.dim() < 3:
            if lengths is not None:
                raise ValueError("lengths belongs to padded sequences (batch, time, input), got u "
                                 f"of one time step, shape {tuple(u.shape)}.")
            return self.step(u, h)[0]
        packed = sequences.pack("u", u, lengths, like=self.layer.B, p=self.input_dim)
        h = self._start(h, (int(packed.batch_sizes[0]),))
        with one_warning("the time steps of a sequence"):
            outputs, h = self._run(packed.data, packed.batch_sizes.tolist(),
                                   sequences.ordered(h, packed.sorted_indices))
        return sequences.unpack(outputs, packed, u), sequences.ordered(h, packed.unsorted_indices)

    def step(self, u: Tensor, h: Tensor | None = None, *, X0: Tensor | None = None,
             keep_states: bool = False) -> tuple[Tensor, Solution]:
        """One time step, with the solve that it took.

        Parameters
        ----------
        u : Tensor, shape (..., input)
        h : Tensor, shape (..., hidden), optional
            Zero by default.
        X0 : Tensor, shape (..., n), optional
            Where the solve starts, such as the ``value`` of the step before.
        keep_states : bool
            Keep every iterate in ``trace.states``, for drawing.

        Returns
        -------
        h : Tensor, shape (..., hidden)
        solution : Solution
            ``value`` is x, shape (..., n).

        Raises
        ------
        TypeError, ValueError
            If u, h or X0 does not fit.
        """
        u = unless_autocast(u, self.layer.B)
        validation.tensor("u", u, "... p", like=self.layer.B, p=self.input_dim)
        v = torch.cat([u, self._start(h, u.shape[:-1])], dim=-1)
        with full_precision(u):
            solution = self.layer.equilibrium(v, X0=X0, keep_states=keep_states)
            return self.layer.output(solution.value, v), solution

    def certificate(self) -> Certificate:
        """Which sufficient condition for a unique x at every time step A meets, in words."""
        return self.layer.certificate()

    def _start(self, h: Tensor | None, lead: tuple[int, ...]) -> Tensor:
        if h is None:
            return self.layer.B.new_zeros(*lead, self.hidden_dim)
        h = unless_autocast(h, self.layer.B)
        validation.tensor("h", h, like=self.layer.B)
        if h.shape != (*lead, self.hidden_dim):
            raise ValueError(f"h must have shape {(*lead, self.hidden_dim)}, "
                             f"got {tuple(h.shape)}.")
        return h

    def _run(self, u: Tensor, sizes: list[int], h: Tensor, backwards: bool = False
             ) -> tuple[Tensor, Tensor]:
        """All time steps of sequences, longest first; each from its end if ``backwards``.

        ``sizes[t]`` sequences, the first ones of ``h``, still run at time t; ``u`` holds their
        inputs, time after time, and so do the outputs.
        """
        layer, dtype = self.layer, u.dtype
        check_finite(dict(layer.named_parameters()))
        with full_precision(u):
            A, B, C, D, b, c, u, h = (
                from_leaves([M.float() for M in leaves(T)], T)
                if T is not None and dtype.itemsize < 4 else T
                for T in (layer.operator(), layer.B, layer.C, layer.D, layer.state_bias,
                          layer.output_bias, u, h))
            turn = sequences.turned(sizes, u.device) if backwards else None
            W = torch.cat([B, B.new_zeros(len(C), B.shape[1]) if D is None else D])
            hidden, last = over_time(Steps(sizes, layer.activation, layer.solver, layer.adjoint),
                                     u if turn is None else u[turn], h, W,
                                     None if b is None else torch.cat([b, c]), C, A)
        self._check(hidden, sizes, backwards)
        return (hidden if turn is None else hidden[turn]).to(dtype), last.to(dtype)

    @staticmethod
    def _check(hidden: Tensor, sizes: list[int], backwards: bool) -> None:
        """One look at all time steps; which of them overflowed is asked only where one did."""
        total = hidden.detach().sum()  # it may overflow where no h does
        if not validation.readable(total) or math.isfinite(total):
            return
        for t, h in enumerate(hidden.split(sizes)):
            if not h.isfinite().all():
                raise FloatingPointError(
                    f"the hidden state overflowed at time step {t}"
                    f"{', reading backwards' * backwards}: kappa bounds each solve, not the "
                    f"recurrence. Make D and C smaller, clip gradients or lower lr.")

    def extra_repr(self) -> str:
        """The sizes, in the order of the signature."""
        return f"{self.input_dim}, {self.hidden_dim}, {self.layer.B.shape[0]}"
