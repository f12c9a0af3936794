"""Read an explicit network off: the matrices of the implicit model that computes the same.

What the network does with one batch is recorded as a graph. Every tensor on the way is an affine
function Σ_k M_k x_k + M_u u + b of the input u and of the states x_k, with sparse M; a linear
operation multiplies these matrices, and an activation ends the expression: its argument is the
row (A, B, bias) of a new block of states. With the last block first, A is strictly upper
block-triangular (El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3)).
What each operation does to the matrices is in `affine.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from idl_lab import validation
from idl_lab.extras import full_precision
from idl_lab.networks.blocks import Block, Network, blockwise, prelu_for, select
from idl_lab.networks.patterns import Pattern, from_scipy
from idl_lab.networks.reader import SAMPLES, Reader
from idl_lab.networks.recording import (
    OneInput,
    check_numbers,
    check_signature,
    first_layer,
    left_as_found,
    record,
    run,
)
from idl_lab.networks.tables import READABLE
from idl_lab.operators import uniform_

__all__ = ["Block", "Network", "Pattern", "READABLE", "as_matrices", "blockwise",
           "from_scipy", "prelu_for", "redraw", "select"]


def as_matrices(net: nn.Module, input_shape: Sequence[int] | None = None) -> Network:
    """The matrices that compute what a network computes in eval mode; the net stays as it is.

    Parameters
    ----------
    net : torch.nn.Module
        Takes one tensor, ``(batch, *input_shape)``, and gives one.
    input_shape : sequence of int, optional
        Without the batch dimension, such as ``(1, 28, 28)``; a net whose first layer is Linear
        needs none.

    Returns
    -------
    Network

    Raises
    ------
    TypeError
        If ``net`` is no module.
    ValueError
        If it holds an operation that is neither affine nor a known activation, named with its
        place; if it draws random numbers, changes its own state, or gives other numbers than
        the operations that it calls; if it has no activation at all, or numbers that are
        not finite.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3):930-958.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}.")
    check_numbers(net)
    check_signature(net)
    like = next((p for p in net.parameters() if p.is_floating_point()),
                torch.empty(0, device="cpu")).detach()
    with torch.no_grad(), full_precision(like), left_as_found(net) as check_unchanged:
        root = OneInput(net)
        shape = _input_shape(root, like, input_shape)
        U = np.random.default_rng(1).standard_normal((SAMPLES, *shape))
        network = Reader(root, shape, like).interpret(
            *record(root, torch.as_tensor(U, dtype=like.dtype, device=like.device)))
        agree = _agree(network, root, like)
        check_unchanged()
    if not agree:
        raise ValueError(f"from_network cannot read the network: on random inputs it gives other "
                         f"numbers than its operations do, as they were recorded. A hook for all "
                         f"modules, a method that was replaced, a result that depends on the size "
                         f"of the batch, or a state outside of parameters and buffers may be the "
                         f"cause. {READABLE}")
    return network


def _agree(network: Network, root: nn.Module, like: torch.Tensor) -> bool:
    """Whether a network gives the numbers that its matrices give."""
    U = np.random.default_rng(0).standard_normal((5, *network.input_shape))
    wanted, magnitudes, largest = network.predict(U.reshape(len(U), -1))
    # Rounding in the network's own dtype, and no more: TF32 on a GPU, bfloat16, deep nets; and
    # what rounding leaves of large numbers that cancel.
    eps = torch.finfo(like.dtype).eps
    room = eps ** 0.4 * magnitudes + eps ** 0.75 * largest
    for _ in range(2):  # what changes from call to call agrees once at most
        given = run(root, torch.as_tensor(U, dtype=like.dtype, device=like.device))
        given = given.to("cpu", torch.float64).numpy()
        if given.shape[:1] != wanted.shape[:1] or given.size != wanted.size or not (
                abs(given.reshape(wanted.shape) - wanted) <= room).all():
            return False
    return True


def redraw(net: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Draw an explicit network anew, in place, from U(−1/√fan_in, 1/√fan_in), as torch does.

    Parameters
    ----------
    net : torch.nn.Module
        Of layers with a ``weight``, such as Linear and Conv2d, and of torch's recurrent layers,
        for which fan_in is the size of the hidden state.
    generator : torch.Generator, optional
        torch's global one by default.

    Returns
    -------
    torch.nn.Module
        ``net`` itself.
    """
    for layer in net.modules():
        for M in layer.parameters(recurse=False):
            recurrent = isinstance(layer, nn.RNNBase)
            uniform_(M, layer.hidden_size if recurrent else layer.weight[0].numel(), generator)
    return net


def _input_shape(root: nn.Module, like: torch.Tensor, given: Sequence[int] | None
                 ) -> tuple[int, ...]:
    if given is not None:
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise TypeError(f"input_shape must be sizes without the batch dimension, such as "
                            f"(1, 28, 28), got {given!r}.")
        return tuple(validation.integer("input_shape", size) for size in given)
    first = first_layer(root, like)
    if isinstance(first, nn.Linear | nn.BatchNorm1d):
        return (first.in_features if isinstance(first, nn.Linear) else first.num_features,)
    if isinstance(first, torch.Tensor):
        return (first.shape[1],)
    raise ValueError("input_shape is needed where the first layer is not Linear: give the sizes "
                     "of one input without the batch dimension, such as input_shape=(1, 28, 28).")
