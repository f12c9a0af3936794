"""Models attacked and certified at several radii, and one that is trained for its bounds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from idl_lab import training, validation
from idl_lab.model import ImplicitModel
from idl_lab.robustness import (
    certify,
    fgsm,
    interval_loss,
    pgd,
    sensitivity,
    sensitivity_attack,
)

BOUNDS = ("S", "norm", "interval", "affine", "lp")  # the widest first
RANGE = {"low": 0.0, "high": 1.0}  # of a pixel
STEPS = 20  # of an attack


def first_images(loader: DataLoader, count: int, device: torch.device | str = "cpu"
                ) -> tuple[Tensor, Tensor]:
    """The first images of a loader and their labels.

    Parameters
    ----------
    loader : DataLoader
    count : int
        How many; fewer where there are not so many.
    device : torch.device or str
        Where they are wanted.
    """
    U, labels = (torch.cat(part)[:validation.integer("count", count)]
                 for part in zip(*loader, strict=True))
    return U.to(device), labels.to(device)


def train_bounded(model: ImplicitModel, loader: Iterable, eps: float, epochs: int, *,
                  weight: float = 0.5, lr: float = 5e-3) -> pd.DataFrame:
    """Adam on (1 − w) · cross-entropy + w · `interval_loss`, pixels in [0, 1].

    The radius is raised from 0 to ε over the first half of the steps: at once it would leave the
    model nothing to begin with.

    Parameters
    ----------
    model : ImplicitModel
        With λ_PF(|A|) < 1; trained in place.
    loader : iterable of (U, labels)
        With a length.
    eps : float
    epochs : int
    weight : float
        w, in [0, 1].
    lr : float

    Returns
    -------
    pandas.DataFrame
        Of `training.fit`.

    References
    ----------
    Gowal et al. 2018, arXiv 1810.12715.
    """
    validation.real("eps", eps, at_least=0.0)
    validation.real("weight", weight, at_least=0.0, at_most=1.0)
    inputs: list[Tensor] = []
    rise, steps = max(1, epochs * len(loader) // 2), 0

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        nonlocal steps
        now = eps * min(1.0, steps / rise)
        steps += 1
        return ((1 - weight) * nn.functional.cross_entropy(scores, labels)
                + weight * interval_loss(model, inputs.pop(), labels, now, **RANGE))

    # The loss is given scores and labels alone, but a bound starts from the inputs.
    hook = model.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        return training.fit(model, loader, epochs=epochs, lr=lr, loss=loss, progress=False)
    finally:
        hook.remove()


@torch.no_grad()
def right(model: nn.Module, U: Tensor, labels: Tensor) -> Tensor:
    """Which images a model names rightly, (m,) truth values.

    Parameters
    ----------
    model : nn.Module
    U : Tensor, shape (m, p)
    labels : Tensor, shape (m,)
    """
    return model(U).argmax(dim=1) == labels


def contractive(model: ImplicitModel) -> bool:
    """Whether λ_PF(|A|) < 1 of a model, so that S and interval bounds exist."""
    return model.activation.slope * model.certificate().perron.upper < 1


def attacked(model: ImplicitModel, U: Tensor, labels: Tensor, eps: float,
             generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """The images after each attack of radius ε, pixels kept in [0, 1].

    Parameters
    ----------
    model : ImplicitModel
    U : Tensor, shape (m, p)
    labels : Tensor, shape (m,)
    eps : float
    generator : torch.Generator, optional
        Of PGD's second start.
    """
    found = {"FGSM": fgsm(model, U, labels, eps, **RANGE),
             "PGD": pgd(model, U, labels, eps, steps=STEPS, restarts=2, generator=generator,
                        progress=False, **RANGE)}
    if contractive(model):
        found["S-matrix"] = sensitivity_attack(model, U, labels, eps, len(U[0]) // 2, **RANGE)
    return found


@torch.no_grad()
def _by_sensitivity(model: ImplicitModel, U: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Certified by S as the paper has it: every score moves by ε Σ_j S_ij at most."""
    reach = eps * sensitivity(model).sum(dim=1)
    scores = model(U).double()
    below = (scores - reach).gather(1, labels[:, None])[:, 0]
    others = (scores + reach).scatter(1, labels[:, None], -torch.inf)
    return below > others.amax(dim=1)


def study(model: ImplicitModel, U: Tensor, labels: Tensor, radii: Sequence[float], *,
          seed: int = 0) -> pd.DataFrame:
    """Accuracy that is certified by each kind of bound, and accuracy that attacks leave.

    Parameters
    ----------
    model : ImplicitModel
    U : Tensor, shape (m, p)
        Images, pixels in [0, 1].
    labels : Tensor, shape (m,)
    radii : sequence of float
        Of the ∞-norm.
    seed : int
        Of PGD's second start.

    Returns
    -------
    pandas.DataFrame
        A row a radius: eps; the share certified by each of `BOUNDS` or a cheaper one (NaN where
        the model has no such bound); FGSM, PGD and S-matrix, the accuracy under that attack alone;
        attacked, under the worst of them, at this radius or at a smaller one of the list; clean;
        and ``broken``, how many samples were certified *and* broken: 0 unless something is wrong.

    Raises
    ------
    ValueError
        If there is no radius.
    """
    if not radii:
        raise ValueError("radii must hold at least one, got none.")
    start, has_S = right(model, U, labels), contractive(model)
    generator = torch.Generator("cpu").manual_seed(seed)
    left, rows = start, []
    for eps in sorted(radii):
        under = {name: right(model, V, labels)
                 for name, V in attacked(model, U, labels, eps, generator).items()}
        for survived in under.values():
            left = left & survived
        # One run tells of every method: each sample keeps the name of the first that proved it.
        by = certify(model, U, labels, eps, method="lp", progress=False, **RANGE).method
        proven = torch.zeros_like(start)
        row: dict[str, float] = {"eps": eps}
        for name in BOUNDS:
            if name == "S" and has_S:
                proven = _by_sensitivity(model, U, labels, eps)
            proven = proven | torch.tensor([method == name for method in by], device=U.device)
            exists = has_S or name not in ("S", "interval")
            row[name] = float(proven.float().mean()) if exists else float("nan")
        row |= {name: float(survived.float().mean()) for name, survived in under.items()}
        rows.append(row | {"attacked": float(left.float().mean()),
                           "clean": float(start.float().mean()),
                           "broken": int((proven & ~left).sum())})
    return pd.DataFrame(rows)


def differences(model: ImplicitModel, label: int) -> ImplicitModel:
    """The model whose outputs are the margins ŷ_label − ŷ_j of another.

    Parameters
    ----------
    model : ImplicitModel
    label : int
    """
    margins = copy.deepcopy(model)
    with torch.no_grad():
        for M in (margins.C, margins.D, margins.output_bias):
            if M is not None:
                M.copy_(M[label] - M)
    return margins
