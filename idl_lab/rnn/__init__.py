"""Recurrent networks whose step is an implicit model: a cell, stacks of it, and a prediction.

With v_t = [u_t; h_{t−1}], the input and the last hidden state in one vector,

    x_t = φ(A x_t + B v_t)        solved at every time step
    h_t = C x_t + D v_t           what the next step is told

So two iterations are nested: steps of a solver inside, time outside. A bound on A makes every
solve well-posed; it does not bound h over time, which D and C may let grow.
"""

from idl_lab.rnn.cell import ImplicitRNNCell
from idl_lab.rnn.stack import ImplicitRNN, ImplicitRNNStack

__all__ = ["ImplicitRNN", "ImplicitRNNCell", "ImplicitRNNStack"]
