"""Small seeded problems that several labs share: matrices, units, a teacher."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from idl_lab import training, validation
from idl_lab.data import load
from idl_lab.equilibrium import equilibrium
from idl_lab.fixed_point import Solver
from idl_lab.fixed_point.solution import ConvergenceWarning, Solution
from idl_lab.model import ImplicitModel
from idl_lab.networks import redraw
from idl_lab.well_posedness import inf_norm


def generator(seed: int = 0) -> torch.Generator:
    """A new generator.

    Parameters
    ----------
    seed : int
    """
    return torch.Generator("cpu").manual_seed(seed)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float64.

    Parameters
    ----------
    *shape : int
    generator : torch.Generator
    """
    return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")


KINDS = ("positive", "signed", "negative")


def random_matrix(n: int, norm: float, kind: str = "signed", *,
                  generator: torch.Generator) -> Tensor:
    """A random A (n, n), float64, with ‖A‖∞ = ``norm``.

    Parameters
    ----------
    n : int
    norm : float
        ‖A‖∞, at least 0; may exceed 1.
    kind : {"positive", "signed", "negative"}
        "positive": entries > 0 and equal row sums, so λ_PF(|A|) = ‖A‖∞ and nothing cancels.
        "signed": normal entries, one factor for the whole matrix, so rows differ and
        λ_PF(|A|) < ‖A‖∞.
        "negative": the positive one times −1, so every step turns the state's error round.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (n, n)
    """
    validation.integer("n", n)
    validation.real("norm", norm, at_least=0.0)
    validation.choice("kind", kind, KINDS)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64, device="cpu")
    if kind == "signed":
        return A * (norm / inf_norm(A))
    A = A.abs() * (norm / A.abs().sum(dim=1, keepdim=True))
    return A if kind == "positive" else -A


def solve_quietly(A: Tensor, injection: Tensor, phi: str, solver: Solver, X0: Tensor | None = None
                  ) -> Solution:
    """An equilibrium with its states kept, where failing to converge is part of the lesson.

    Parameters
    ----------
    A, injection, phi, solver, X0
        As for `equilibrium`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return equilibrium(A, injection, phi, X0=X0, solver=solver, keep_states=True)


def whole(model: ImplicitModel) -> Tensor:
    """The matrix [A B; C D] of a model, dense, shape (n + q, n + p); a missing D is zero."""
    A, B, C = (M.detach().to_dense() for M in (model.A, model.B, model.C))
    D = C.new_zeros(len(C), B.shape[1]) if model.D is None else model.D.detach().to_dense()
    return torch.cat([torch.cat([A, B], 1), torch.cat([C, D], 1)])


def change_units(M: Tensor, v: Tensor) -> Tensor:
    """[A B; C D] in units v (n,) of the states: A ← V⁻¹AV, B ← V⁻¹B, C ← CV.

    Parameters
    ----------
    M : Tensor, shape (n + q, n + p)
    v : Tensor, shape (n,)
    """
    n, new = len(v), M.clone()
    new[:n] /= v[:, None]
    new[:, :n] *= v
    return new


def digits_teacher(seed: int = 0, *, hidden: Sequence[int] = (64, 32, 16), biases: bool = False,
                   conv: bool = False, epochs: int = 30, activation: type[nn.Module] = nn.ReLU,
                   device: torch.device | str = "cpu"
                   ) -> tuple[nn.Sequential, DataLoader, DataLoader]:
    """A network 64-64-32-16-10, trained on the first 1,400 of the digits within two seconds.

    The other 397 images are for testing: a harder part than a random one, the same every time.

    Parameters
    ----------
    seed : int
        Decides initial weights and the order of training.
    hidden : sequence of int
        Sizes of the hidden layers.
    biases : bool
    conv : bool
        Two convolutions to 4 × 4 × 4 and 2 × 2 × 8 take the place of the hidden layers, and
        batches are images (m, 1, 8, 8).
    epochs : int
        Of Adam at 5e-3, batches of 64.
    activation : type of nn.Module
        After each hidden layer.
    device : torch.device or str
        Of the teacher; whatever runs it brings the batches there.

    Returns
    -------
    teacher : nn.Sequential
        In eval mode.
    train, test : DataLoader
        Batches U (m, 64), pixels in [0, 1], and labels (m,), in the dataset's order, on the CPU.
    """
    generator = torch.Generator("cpu").manual_seed(validation.integer("seed", seed, at_least=0))
    for size in hidden:
        validation.integer("a size in hidden", size)
    cpu = {"device": "cpu", "bias": biases}
    parts: list[nn.Module] = []
    for p, q in zip((64, *hidden), hidden, strict=False):
        parts += [nn.Linear(p, q, **cpu), activation()]
    parts.append(nn.Linear((64, *hidden)[-1], 10, **cpu))
    if conv:
        size = {"kernel_size": 3, "stride": 2, "padding": 1, **cpu}
        parts = [nn.Conv2d(1, 4, **size), activation(), nn.Conv2d(4, 8, **size), activation(),
                 nn.Flatten(), nn.Linear(32, 10, **cpu)]
    teacher = redraw(nn.Sequential(*parts), generator).to(device)
    pixels, labels = load_digits(return_X_y=True)
    U = torch.tensor(pixels / 16, dtype=torch.float32, device="cpu")
    U = U.reshape(-1, 1, 8, 8) if conv else U
    y = torch.tensor(labels, dtype=torch.int64, device="cpu")
    first, last = TensorDataset(U[:1400], y[:1400]), TensorDataset(U[1400:], y[1400:])
    shuffled = DataLoader(first, 64, shuffle=True, generator=generator)
    training.fit(teacher, shuffled, epochs=epochs, progress=False)
    return teacher.eval(), DataLoader(first, 100), DataLoader(last, 100)


def digits_model() -> tuple[ImplicitModel, pd.DataFrame]:
    """A model of the digits with 40 states, after eight epochs, and the course of its training."""
    train, test = load("digits", seed=0)
    model = ImplicitModel(64, 10, 40, kappa=0.9, generator=generator(), device="cpu")
    return model, training.fit(model, train, test, epochs=8, progress=False)


def random_teacher(seed: int = 0, *, sizes: Sequence[int] = (10, 40, 30, 2), samples: int = 2000,
                   activation: type[nn.Module] = nn.ReLU, device: torch.device | str = "cpu"
                   ) -> tuple[nn.Sequential, DataLoader, DataLoader]:
    """A network with weights at random, whose layers do what fewer layers cannot.

    Weights are N(0, 2/fan-in), so that activations keep their size from layer to layer; there
    are no biases.

    Parameters
    ----------
    seed : int
        Decides weights and inputs.
    sizes : sequence of int
        Of the input, the hidden layers and the output.
    samples : int
        In each of the two loaders.
    activation : type of nn.Module
        After each hidden layer.
    device : torch.device or str
        Of the teacher; whatever runs it brings the batches there.

    Returns
    -------
    teacher : nn.Sequential
        In eval mode.
    train, test : DataLoader
        Batches of inputs N(0, I) and of the largest output's index, which is the right class by
        definition, on the CPU.
    """
    draws = torch.Generator("cpu").manual_seed(validation.integer("seed", seed, at_least=0))
    for count in (samples, *sizes):
        validation.integer("samples and sizes", count)
    parts: list[nn.Module] = []
    for p, q in zip(sizes[:-1], sizes[1:], strict=True):
        layer = nn.Linear(p, q, bias=False, device="cpu")
        nn.init.normal_(layer.weight, std=(2 / p) ** 0.5, generator=draws)
        parts += [layer, activation()]
    teacher = nn.Sequential(*parts[:-1]).eval().to(device)
    U = torch.randn(2 * samples, sizes[0], generator=draws, device="cpu")
    with torch.no_grad():
        data = TensorDataset(U, teacher(U.to(device)).argmax(dim=1).cpu())
    first, last = (Subset(data, part) for part in (range(samples), range(samples, 2 * samples)))
    return teacher, DataLoader(first, 500), DataLoader(last, 500)
