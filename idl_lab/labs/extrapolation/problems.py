"""Tasks whose test inputs leave the range of training, networks to compare, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from idl_lab import activations, data, training, validation
from idl_lab.activations import Activation
from idl_lab.bar import progress_bar
from idl_lab.model import ImplicitModel
from idl_lab.networks import redraw

OPERATIONS = ("add", "subtract")
# Its slope reaches 1.0998: a κ below 0.909 keeps the equation well-posed.
SILU = Activation("silu", nn.functional.silu, 1.1)


class Examples(NamedTuple):
    """Inputs and what is wanted of them.

    Attributes
    ----------
    U : Tensor, shape (m, p) or (m, time, 1)
    target : Tensor
        Numbers (m, 1), or indices (m,) of int64: then the task is to name one.
    """

    U: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> Examples:
        """The same on a device.

        Parameters
        ----------
        device : torch.device or str
        """
        return Examples(*(T.to(device) for T in self))

    def scaled(self, scale: float) -> Examples:
        """Inputs times ``scale``, and targets that are numbers too: a sum has its terms' unit.

        Parameters
        ----------
        scale : float
            Above 0.
        """
        validation.real("scale", scale, above=0.0)
        return Examples(scale * self.U, scale * self.target if self.numeric else self.target)

    @property
    def numeric(self) -> bool:
        """Whether the targets are numbers."""
        return self.target.is_floating_point()


def arithmetic(operation: str, train: int, test: int, *, generator: torch.Generator
               ) -> tuple[Examples, Examples]:
    """a + b or a − b of 50 numbers U(−1, 1), a the sum of 20 in a row and b that of 10.

    Where the two slices begin is drawn; they may overlap.

    Parameters
    ----------
    operation : {"add", "subtract"}
    train, test : int
        Samples of each part.
    generator : torch.Generator
        On the CPU.

    References
    ----------
    After the arithmetic task of Decugis et al. 2024, arXiv 2407.14430.
    """
    sign = 1 if validation.choice("operation", operation, OPERATIONS) == "add" else -1
    w = torch.zeros(50, 1, device="cpu")
    for length, weight in ((20, 1), (10, sign)):
        start = int(torch.randint(51 - length, (), generator=generator, device="cpu"))
        w[start:start + length] += weight
    first, last = (_uniform(m, 50, generator=generator) for m in (train, test))
    return Examples(first, first @ w), Examples(last, last @ w)


def argmax(train: int, test: int, length: int = 10, *, generator: torch.Generator
           ) -> tuple[Examples, Examples]:
    """Which of ``length`` numbers U(−1, 1), read one after the other, is the largest.

    Parameters
    ----------
    train, test : int
        Samples of each part.
    length : int
    generator : torch.Generator
        On the CPU.

    References
    ----------
    After the argmax task of Decugis et al. 2024, arXiv 2407.14430.
    """
    validation.integer("length", length)
    first, last = (_uniform(m, length, 1, generator=generator) for m in (train, test))
    return Examples(first, first[..., 0].argmax(dim=1)), Examples(last, last[..., 0].argmax(dim=1))


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    for size in shape:
        validation.integer("samples", size)
    return 2 * torch.rand(*shape, generator=generator, device="cpu") - 1


def spikes(level: int, look_back: int, *, points: int = 10_000, seed: int = 0
           ) -> tuple[Examples, dict[str, Examples]]:
    """The spiky series of one level as windows and next values: the training part, and the test.

    Parameters
    ----------
    level : int
        As for `data.spiky_series`: the spikes' size is level/2, the noise's level/20, and the sine
        between them keeps its size 1.
    look_back, points, seed : int
        As for `data.spiky`.

    Returns
    -------
    train : Examples
    test : dict of Examples
        ``"spiky"``: those whose next value is in a spiky region; ``"calm"``: the others.
    """
    first, last = (loader.dataset.tensors for loader in data.spiky(
        level, look_back=look_back, points=points, seed=seed))
    inside = data.spiky_series(level, points=points, seed=seed)[1][-len(last[0]):]
    return Examples(*first), {name: Examples(*(T[where] for T in last))
                              for name, where in (("spiky", inside), ("calm", ~inside))}


class Perceptron(nn.Module):
    """Layers of one width between Linear maps, as wide as a number of parameters allows.

    Parameters
    ----------
    input_dim, output_dim : int
    parameters : int
        The size allowed.
    layers : int
        Hidden ones.
    activation : str or Activation
    bias : bool
        Whether all of the Linear maps have biases.
    generator : torch.Generator, optional
        Draws the parameters.

    Raises
    ------
    ValueError
        If the size does not allow one hidden unit.
    """

    def __init__(self, input_dim: int, output_dim: int, parameters: int, *, layers: int = 3,
                 activation: str | Activation = "relu", bias: bool = False,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        n = widest(lambda n: n * (input_dim + bias) + (layers - 1) * n * (n + bias)
                   + output_dim * (n + bias), parameters)
        sizes = [input_dim, *[n] * validation.integer("layers", layers), output_dim]
        self.linears = nn.ModuleList(nn.Linear(p, q, bias=bias, device="cpu")
                                     for p, q in zip(sizes, sizes[1:], strict=False))
        self.activation = activations.activation(activation)
        redraw(self, generator)

    def forward(self, U: Tensor) -> Tensor:
        """Predictions, shape (m, output_dim).

        Parameters
        ----------
        U : Tensor, shape (m, input_dim)
        """
        *hidden, last = self.linears
        for layer in hidden:
            U = self.activation(layer(U))
        return last(U)


def widest(count: Callable[[int], int], parameters: int) -> int:
    """The largest n with ``count(n)`` ≤ ``parameters``.

    Parameters
    ----------
    count : callable
        How many parameters a network of width n has, increasing.
    parameters : int

    Raises
    ------
    ValueError
        If that is none.
    """
    n = 0
    while count(n + 1) <= parameters:
        n += 1
    if n == 0:
        raise ValueError(f"parameters must allow one hidden unit, got {parameters}.")
    return n


class Normalised(nn.Module):
    """m ** degree · f(u/m), m = max |u| of each sample: f, made positively homogeneous.

    Parameters
    ----------
    model : nn.Module
        f.
    degree : int
        0 for an answer that no unit changes, such as a class; 1 for one in the inputs' unit.
    """

    def __init__(self, model: nn.Module, degree: int = 0) -> None:
        super().__init__()
        self.model, self.degree = model, validation.integer("degree", degree, at_least=0)

    def forward(self, U: Tensor) -> Tensor:
        """Predictions, shape (m, output).

        Parameters
        ----------
        U : Tensor, shape (m, ...)
        """
        m = U.abs().flatten(1).amax(dim=1).clamp(min=torch.finfo(U.dtype).tiny)
        Y = self.model(U / m.reshape(-1, *[1] * (U.dim() - 1)))
        return Y * m[:, None] ** self.degree


def without_feedback(model: nn.Module) -> nn.Module:
    """The model with A = 0, and A not trained: its equation is no equation any more, x = φ(Bu).

    Parameters
    ----------
    model : nn.Module
        An `ImplicitModel`, or one that holds some, such as `ImplicitRNN`; changed in place.
    """
    for layer in model.modules():
        if isinstance(layer, ImplicitModel):
            layer.kappa = 0.0
            layer.free_A.requires_grad_(False)
    return model


def size(model: nn.Module) -> int:
    """How many numbers of a model are trained."""
    return sum(M.numel() for M in model.parameters() if M.requires_grad)


def train(model: nn.Module, examples: Examples, epochs: int, lr: float = 0.02,
          decay: float = 1.0, batch: int | None = None, seed: int = 0) -> float:
    """Adam on the cross-entropy of indices or the squared error of numbers: the last loss.

    Parameters
    ----------
    model : nn.Module
        Trained in place.
    examples : Examples
        On the model's device.
    epochs : int
    lr : float
    decay : float
        What lr is multiplied by after each step.
    batch : int, optional
        Samples of a step, in an order drawn anew each epoch; by default all of them.
    seed : int
        Of that order.
    """
    optimizer = torch.optim.Adam([M for M in model.parameters() if M.requires_grad], lr=lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, decay)
    optimizer.register_step_post_hook(lambda *_: scheduler.step())
    batches: Iterable = [tuple(examples)]
    if batch is not None:
        batches = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*examples), batch, shuffle=True,
            generator=torch.Generator("cpu").manual_seed(seed))
    loss = nn.functional.mse_loss if examples.numeric else nn.functional.cross_entropy
    history = training.fit(model, batches, epochs=epochs, optimizer=optimizer, loss=loss,
                           progress=False)
    return float(history["train_loss"].iloc[-1])


def trained(builders: Mapping[str, Callable[[torch.Generator], nn.Module]], examples: Examples,
            epochs: int, *, seed: int = 0, **options) -> dict[str, nn.Module]:
    """One model of each kind, trained on the same examples.

    Parameters
    ----------
    builders : mapping of str to callable
        Each makes a model, drawn from the generator that it is given.
    examples : Examples
        Moved to each model's device.
    epochs : int
    seed : int
        Of each generator.
    **options
        As for `train`.
    """
    models = {}
    for name, build in progress_bar(builders.items(), desc="models"):
        models[name] = build(torch.Generator("cpu").manual_seed(seed))
        train(models[name], examples.to(next(models[name].parameters()).device), epochs,
              seed=seed, **options)
    return models


@torch.no_grad()
def errors(model: Callable[[Tensor], Tensor], examples: Examples) -> dict[str, float]:
    """How wrong a model is.

    Parameters
    ----------
    model : callable
        Of inputs.
    examples : Examples

    Returns
    -------
    dict of str to float
        Of numbers ``"absolute"``, the root of the mean squared error, and ``"relative"``, the same
        divided by that of predicting zero; of indices ``"accuracy"`` and ``"largest score"``, the
        mean over samples of the largest |score|.
    """
    Y = model(examples.U)
    if examples.numeric:
        wrong, scale = (T.square().mean().sqrt() for T in (Y - examples.target, examples.target))
        return {"absolute": float(wrong), "relative": float(wrong / scale)}
    right = Y.argmax(dim=1) == examples.target
    return {"accuracy": float(right.float().mean()),
            "largest score": float(Y.abs().amax(dim=1).mean())}


def over_scales(models: Mapping[str, Callable[[Tensor], Tensor]], examples: Examples,
                scales: Iterable[float]) -> pd.DataFrame:
    """The errors of models on the same samples in other units, a row a model and scale.

    Parameters
    ----------
    models : mapping of str to callable
    examples : Examples
    scales : iterable of float
        What inputs, and targets that are numbers, are multiplied by.

    Returns
    -------
    pandas.DataFrame
        Columns model, scale, and those of `errors`.
    """
    return pd.DataFrame([{"model": name, "scale": scale} | errors(model, examples.scaled(scale))
                         for name, model in models.items() for scale in scales])


def over_shifts(models: Mapping[str, Callable[[Tensor], Tensor]], examples: Examples,
                shifts: Iterable[float]) -> pd.DataFrame:
    """The same with a constant added to every input, which changes no index of a largest one.

    Parameters
    ----------
    models : mapping of str to callable
    examples : Examples
        Of indices.
    shifts : iterable of float

    Returns
    -------
    pandas.DataFrame
        Columns model, shift, and those of `errors`.

    Raises
    ------
    ValueError
        If the targets are numbers, which the constant would change.
    """
    if examples.numeric:
        raise ValueError("examples must be of indices: what a shift does to numbers is not known.")
    return pd.DataFrame([{"model": name, "shift": shift} | errors(
        model, Examples(examples.U + shift, examples.target))
        for name, model in models.items() for shift in shifts])


def least_squares(examples: Examples) -> Callable[[Tensor], Tensor]:
    """The linear function of all inputs that fits best, without a constant.

    Parameters
    ----------
    examples : Examples
        Of numbers.
    """
    weights = torch.linalg.lstsq(examples.U.flatten(1), examples.target).solution
    return lambda U: U.flatten(1) @ weights
