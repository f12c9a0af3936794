"""Recurrent networks whose step is an implicit model: ImplicitRNNCell and ImplicitRNN.

With v_t = [u_t; h_{t−1}], the input and the last hidden state in one vector,

    x_t = φ(A x_t + B v_t)        solved at every time step
    h_t = C x_t + D v_t           what the next step is told

So two iterations are nested: steps of a solver inside, time outside. A bound on A makes every
solve well-posed; it does not bound h over time, which D and C may let grow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from idl_lab import validation
from idl_lab.equilibrium import Unrolled, equilibrium
from idl_lab.fixed_point.solution import Solution, one_warning
from idl_lab.model import ImplicitModel
from idl_lab.networks import redraw
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

        Warns
        -----
        ConvergenceWarning
            Once a call, if solves stop early.
        """
        one_step = isinstance(u, Tensor) and u.dim() < 3
        if lengths is not None and (one_step or isinstance(u, PackedSequence)):
            raise ValueError("lengths belongs to padded sequences (batch, time, input), got u "
                             f"{'of one time step' if one_step else 'packed'}.")
        if isinstance(u, PackedSequence):
            return self._packed(u, h)
        validation.tensor("u", u, "... p" if one_step else "batch time p", like=self.layer.B,
                          p=self.input_dim)
        if one_step:
            return self.step(u, h)[0]
        m, time = u.shape[:2]
        if time == 0:
            raise ValueError(f"u must hold at least one time step, got shape {tuple(u.shape)}.")
        if lengths is not None:
            lengths = _lengths(lengths, m, time)
        if lengths is None or m == 0:
            by_time = u.transpose(0, 1).reshape(time * m, self.input_dim)
            outputs, h = self._run(by_time, [m] * time, self._start(h, (m,)))
            return outputs.reshape(time, m, self.hidden_dim).transpose(0, 1), h
        packed = pack_padded_sequence(u, lengths, batch_first=True, enforce_sorted=False)
        outputs, h = self._packed(packed, h)
        return pad_packed_sequence(outputs, batch_first=True, total_length=time)[0], h

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
        validation.tensor("u", u, "... p", like=self.layer.B, p=self.input_dim)
        v = torch.cat([u, self._start(h, u.shape[:-1])], dim=-1)
        solution = self.layer.equilibrium(v, X0=X0, keep_states=keep_states)
        return self.layer.output(solution.value, v), solution

    def certificate(self) -> Certificate:
        """Which sufficient condition for a unique x at every time step A meets, in words."""
        return self.layer.certificate()

    def _start(self, h: Tensor | None, lead: tuple[int, ...]) -> Tensor:
        if h is None:
            return self.layer.B.new_zeros(*lead, self.hidden_dim)
        validation.tensor("h", h, like=self.layer.B)
        if h.shape != (*lead, self.hidden_dim):
            raise ValueError(f"h must have shape {(*lead, self.hidden_dim)}, "
                             f"got {tuple(h.shape)}.")
        return h

    def _packed(self, u: PackedSequence, h: Tensor | None) -> tuple[PackedSequence, Tensor]:
        validation.tensor("u.data", u.data, "steps p", like=self.layer.B, p=self.input_dim)
        sizes = u.batch_sizes.tolist()
        h = self._start(h, (sizes[0],))
        h = h if u.sorted_indices is None else h[u.sorted_indices]
        outputs, h = self._run(u.data, sizes, h)
        h = h if u.unsorted_indices is None else h[u.unsorted_indices]
        return u._replace(data=outputs), h

    def _run(self, u: Tensor, sizes: list[int], h: Tensor) -> tuple[Tensor, Tensor]:
        """All time steps of sequences, longest first.

        ``sizes[t]`` sequences, the first ones of ``h``, still run at time t; ``u`` holds their
        inputs, time after time, and so do the outputs.
        """
        layer, n = self.layer, self.layer.B.shape[0]
        # B v and D v in one product, and the part of u for all times at once.
        feedthrough, bias = layer.D is not None, layer.state_bias
        W = torch.cat([layer.B, layer.D]) if feedthrough else layer.B
        if feedthrough and bias is not None:
            bias = torch.cat([bias, layer.output_bias])
        fed = nn.functional.linear(u, W[:, :self.input_dim], bias)
        back, A = W[:, self.input_dim:].mT, layer.operator()
        warm = not isinstance(layer.adjoint, Unrolled)
        x, outputs, ended = None, [], []
        with one_warning("the time steps of a sequence"):
            for t, now in enumerate(fed.split(sizes)):
                if len(now) < len(h):
                    ended.append(h[len(now):])
                    h, x = h[:len(now)], x[:len(now)]
                now = torch.addmm(now, h, back)
                injection, through = now.split([n, now.shape[1] - n], dim=1)
                x = equilibrium(A, injection, layer.activation, X0=x if warm else None,
                                solver=layer.solver, adjoint=layer.adjoint).value
                h = (torch.addmm(through, x, layer.C.mT) if feedthrough
                     else nn.functional.linear(x, layer.C, layer.output_bias))
                if not torch.isfinite(h).all():
                    raise FloatingPointError(
                        f"the hidden state overflowed at time step {t}: kappa bounds each solve, "
                        f"not the recurrence. Make D and C smaller, clip gradients or lower lr.")
                outputs.append(h)
        return torch.cat(outputs), torch.cat([h, *reversed(ended)])

    def extra_repr(self) -> str:
        """The sizes, in the order of the signature."""
        return f"{self.input_dim}, {self.hidden_dim}, {self.layer.B.shape[0]}"


class ImplicitRNN(nn.Module):
    """Prediction from a sequence: an `ImplicitRNNCell` over time, then a Linear of the last h.

    Parameters
    ----------
    input_dim, output_dim, hidden_dim, implicit_hidden_dim : int
        Sizes of u, of the prediction, of h and of x. (torchidl has the last two the other way
        round: give their names.)
    **options
        As for `ImplicitRNNCell`; ``generator`` draws the Linear too.

    Attributes
    ----------
    recurrent : ImplicitRNNCell
        Gives h at every time step: ``outputs, h = model.recurrent(x)``.
    linear : torch.nn.Linear

    Raises
    ------
    TypeError, ValueError
        As `ImplicitModel`.

    References
    ----------
    Decugis et al. 2024, The Extrapolation Power of Implicit Models, arXiv 2407.14430.
    """

    def __init__(self, input_dim: int, output_dim: int, hidden_dim: int,
                 implicit_hidden_dim: int, **options) -> None:
        super().__init__()
        output_dim = validation.integer("output_dim", output_dim)
        self.recurrent = ImplicitRNNCell(input_dim, hidden_dim, implicit_hidden_dim, **options)
        B = self.recurrent.layer.B
        self.linear = nn.Linear(hidden_dim, output_dim, device=B.device, dtype=B.dtype)
        if options.get("generator") is not None:
            redraw(self.linear, options["generator"])

    def forward(self, x: Tensor | PackedSequence, h: Tensor | None = None, *,
                lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Predict from the last hidden state, the last valid one of a shorter sequence.

        Parameters
        ----------
        x : Tensor or PackedSequence
            Shape (batch, time, input), or (time, input) for one sequence, or packed.
        h : Tensor, shape (batch, hidden) or (hidden,), optional
            The hidden state before the first step; zero by default.
        lengths : sequence or Tensor of int, shape (batch,), optional
            Of padded sequences.

        Returns
        -------
        Tensor, shape (batch, output) or (output,)

        Raises
        ------
        TypeError, ValueError
            If x, h or lengths does not fit.
        FloatingPointError
            If h overflows.
        """
        if isinstance(x, PackedSequence):
            return self.linear(self.recurrent(x, h, lengths=lengths)[1])
        validation.tensor("x", x)
        if x.dim() not in (2, 3):
            raise ValueError(f"x must have shape (batch, time, input) or (time, input), got "
                             f"{tuple(x.shape)}.")
        if x.dim() == 3:
            return self.linear(self.recurrent(x, h, lengths=lengths)[1])
        if lengths is not None:
            raise ValueError("lengths belongs to padded sequences (batch, time, input), got x "
                             f"of shape {tuple(x.shape)}.")
        h = self.recurrent._start(h, ())
        return self.linear(self.recurrent(x[None], h[None])[1][0])

    def certificate(self) -> Certificate:
        """Which sufficient condition for a unique x at every time step A meets, in words."""
        return self.recurrent.certificate()


def _lengths(lengths: Tensor | Sequence[int], m: int, time: int) -> Tensor:
    """The lengths as whole numbers on the CPU, where torch packs."""
    try:
        values = torch.as_tensor(lengths, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"lengths must be whole numbers, got {lengths!r}.") from None
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if values.numel() and not whole:
        raise TypeError(f"lengths must be whole numbers, got {values.dtype}.")
    if values.shape != (m,):
        raise ValueError(f"lengths must have shape ({m},), one for each sequence, got "
                         f"{tuple(values.shape)}.")
    wrong = [v for v in values.tolist() if not 1 <= v <= time]
    if wrong:
        raise ValueError(f"lengths must be between 1 and the time steps given, {time}, got "
                         f"{wrong[0]}.")
    return values
