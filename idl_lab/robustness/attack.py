"""Attacks: inputs near a given one that a model gets wrong, found with gradients or with S."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from idl_lab import validation
from idl_lab.bar import progress_bar
from idl_lab.robustness.sensitivity import sensitivity
from idl_lab.robustness.system import NORMS


def fgsm(model: nn.Module, U: Tensor, labels: Tensor, eps: float | Tensor, *,
         low: float | None = None, high: float | None = None) -> Tensor:
    """One step of length ε along the sign of the loss's gradient.

    Parameters
    ----------
    model : torch.nn.Module
        Inputs (m, ...) to class scores (m, q); gradients go through an equilibrium too.
    U : Tensor, shape (m, ...)
    labels : Tensor of int64, shape (m,)
    eps : float or Tensor
        Radius ε ≥ 0 of the ∞-norm; a tensor broadcasts to U.
    low, high : float, optional
        The range of the data, which no attacked input leaves.

    Returns
    -------
    Tensor, of the shape and dtype of U
        In the ball and in the range exactly, whatever the dtype's rounding.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    References
    ----------
    Goodfellow, Shlens, Szegedy 2015, arXiv 1412.6572.
    """
    box = _Box(U, labels, eps, math.inf, low, high)
    return box.project(U + box.eps * _gradient(model, U, labels).sign())


def pgd(model: nn.Module, U: Tensor, labels: Tensor, eps: float | Tensor, *,
        norm: float = math.inf, steps: int = 40, restarts: int = 1, step: float | None = None,
        low: float | None = None, high: float | None = None, loss: str = "margin",
        generator: torch.Generator | None = None, progress: bool = True, raising: bool = False
        ) -> Tensor:
    """Projected gradient ascent of the loss in the ball, from several starts.

    Parameters
    ----------
    model, U, labels, eps, low, high
        As for `fgsm`; in the 2-norm a tensor ε broadcasts to (m,).
    norm : float
        2 or ∞.
    steps : int
        A start.
    restarts : int
        The first starts from U, the others from random points of the ball.
    step : float, optional
        Length of a step, in units of ε; 2.5/steps by default.
    loss : {"margin", "cross-entropy"}
        What is raised: the largest wrong score less the right one, or the training loss.
    generator : torch.Generator, optional
        Draws the starts; torch's global one by default.
    progress : bool
        Show a bar.
    raising : bool
        Pass an interrupt on instead of returning what was found so far.

    Returns
    -------
    Tensor, of the shape and dtype of U
        Of each sample the point of the largest margin seen, in the ball and the range exactly.
        Interrupted (Ctrl-C), what was found so far.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    References
    ----------
    Madry et al. 2018, arXiv 1706.06083; the margin: Carlini and Wagner 2017.
    """
    steps, restarts = validation.integer("steps", steps), validation.integer("restarts", restarts)
    validation.choice("loss", loss, ("margin", "cross-entropy"))
    length = 2.5 / steps if step is None else validation.real("step", step, above=0.0)
    box = _Box(U, labels, eps, norm, low, high)
    best, most = U.clone(), torch.full((len(U),), -torch.inf, device=U.device, dtype=U.dtype)
    bar = progress_bar(total=steps * restarts, progress=progress, desc="PGD")
    try:
        for restart in range(restarts):
            V = U if restart == 0 else box.random(generator)
            for k in range(steps + 1):
                gradient, margin = _loss(model, V, labels, loss)
                better = margin > most
                most[better], best[better] = margin[better], V[better]
                if k < steps:
                    V = box.project(V + length * box.eps * box.steepest(gradient))
                    bar.update()
    except KeyboardInterrupt:
        if raising:
            raise
    finally:
        bar.close()
    return best


def sensitivity_attack(model: nn.Module, U: Tensor, labels: Tensor, eps: float | Tensor,
                       count: int | None = None, *, low: float | None = None,
                       high: float | None = None) -> Tensor:
    """Move the inputs that the sensitivity matrix says matter most, by ε each.

    Of a sample of class l they are those with the largest S_lj + max_i S_ij; each is moved in the
    direction that raises the wrong scores against the right one at U.

    Parameters
    ----------
    model : ImplicitModel
        With L·λ_PF(|A|) < 1.
    U, labels, eps, low, high
        As for `fgsm`.
    count : int, optional
        How many inputs are moved; all by default.

    Returns
    -------
    Tensor, of the shape and dtype of U

    Raises
    ------
    TypeError, ValueError
        As `fgsm` and `sensitivity`.

    References
    ----------
    El Ghaoui et al. 2021, Implicit Deep Learning, SIAM J. Math. Data Sci. 3(3):930-958.
    """
    box = _Box(U, labels, eps, math.inf, low, high)
    S = sensitivity(model).to(U)
    weight = S[labels] + S.amax(0)
    if count is not None:
        count = validation.integer("count", count)
        if count > U.shape[-1]:
            raise ValueError(f"count must be at most {U.shape[-1]}, got {count}.")
        kept = weight.topk(count, dim=-1).indices
        weight = torch.zeros_like(weight).scatter(-1, kept, 1.0)
    sign = _gradient(model, U, labels).sign()
    return box.project(U + box.eps * sign * (weight > 0))


class _Box:
    """The inputs that an attack may give: the ball around each input, in the data's range."""

    def __init__(self, U: Tensor, labels: Tensor, eps: float | Tensor, norm: float,
                 low: float | None, high: float | None) -> None:
        validation.tensor("U", U)
        check_labels(labels, len(U))
        if norm not in NORMS:
            raise ValueError(f"norm must be 2 or inf, got {norm!r}.")
        if isinstance(eps, Tensor):
            validation.tensor("eps", eps)
            if (eps < 0).any():
                raise ValueError(f"eps must be at least 0, got {float(eps.min()):g}.")
            eps = eps.to(U)
        else:
            eps = validation.real("eps", eps, at_least=0.0)
            eps = torch.tensor(eps, dtype=torch.float64, device="cpu").to(U)
        shape = (len(U),) if norm == 2 else U.shape
        try:
            eps = eps.expand(shape)
        except RuntimeError:
            raise ValueError(f"eps must broadcast to {tuple(shape)}, got shape "
                             f"{tuple(eps.shape)}.") from None
        self.U, self.norm = U.detach(), norm
        self.eps = _wide(eps, U) if norm == 2 else eps
        self.low = -math.inf if low is None else validation.real("low", low)
        self.high = math.inf if high is None else validation.real("high", high)
        if (U < self.low).any() or (U > self.high).any():
            raise ValueError(f"U must lie in the range [{self.low:g}, {self.high:g}], got numbers "
                             f"in [{float(U.min()):g}, {float(U.max()):g}].")
        # u + ε is rounded: whatever is added must stay within ε when it is subtracted again.
        tiny = torch.finfo(U.dtype).eps
        if norm == 2:
            size = U.detach().flatten(1).norm(dim=1) * tiny * 2
            self.radius = (self.eps * (1 - 4 * tiny) - _wide(size, U)).clamp_min(0)
        else:
            room = 2 * tiny * (U.detach().abs() + self.eps)
            self.radius = (self.eps - room).clamp_min(0)

    def project(self, V: Tensor) -> Tensor:
        """The nearest allowed inputs (in the 2-norm: nearest in the ball, then in the range)."""
        change = V.detach() - self.U
        if self.norm == 2:
            size = _wide(change.flatten(1).norm(dim=1), change).clamp_min(1e-30)
            change = change * (self.radius / size).clamp(max=1)
        else:
            change = change.maximum(-self.radius).minimum(self.radius)
        return (self.U + change).clamp(self.low, self.high)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction of length 1 along which a linear loss rises most."""
        if self.norm == 2:
            size = _wide(gradient.flatten(1).norm(dim=1), gradient)
            return gradient / size.clamp_min(1e-30)
        return gradient.sign()

    def random(self, generator: torch.Generator | None) -> Tensor:
        """A random allowed input for each."""
        U = self.U
        device = U.device if generator is None else generator.device
        if self.norm == 2:
            V = torch.randn(U.shape, generator=generator, dtype=U.dtype, device=device).to(U)
            r = torch.rand(len(U), generator=generator, dtype=U.dtype, device=device).to(U)
            length = _wide(r ** (1 / U[0].numel()) / V.flatten(1).norm(dim=1), U)
            return self.project(U + self.eps * V * length)
        V = torch.rand(U.shape, generator=generator, dtype=U.dtype, device=device).to(U)
        return self.project(U + self.eps * (2 * V - 1))


def check_labels(labels: Tensor, m: int) -> None:
    """Check that labels are whole numbers, one for each of m samples.

    Parameters
    ----------
    labels : Tensor of int64, shape (m,)
    m : int

    Raises
    ------
    TypeError, ValueError
        If they are not.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be a tensor of whole numbers, got "
                        f"{getattr(labels, 'dtype', type(labels).__name__)}.")
    if labels.shape != (m,):
        raise ValueError(f"labels must have shape ({m},), got {tuple(labels.shape)}.")


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """The right score less the largest wrong one, shape (m,).

    Parameters
    ----------
    scores : Tensor, shape (m, q)
    labels : Tensor of int64, shape (m,)

    Raises
    ------
    ValueError
        If a label is no class of the scores.
    """
    q = scores.shape[-1]
    if scores.dim() != 2 or q < 2:
        raise ValueError(f"the model must give scores (m, q) of q ≥ 2 classes, got shape "
                         f"{tuple(scores.shape)}.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < q:
        raise ValueError(f"labels must be in [0, {q - 1}], got numbers in [{int(labels.min())}, "
                         f"{int(labels.max())}].")
    right = scores.gather(1, labels[:, None])[:, 0]
    return right - scores.scatter(1, labels[:, None], -torch.inf).amax(1)


def _wide(T: Tensor, U: Tensor) -> Tensor:
    """A number for each sample, to be multiplied with samples of U's shape."""
    return T.reshape(-1, *[1] * (U.dim() - 1))


def _gradient(model: nn.Module, U: Tensor, labels: Tensor) -> Tensor:
    return _loss(model, U, labels, "cross-entropy")[0]


def _loss(model: nn.Module, U: Tensor, labels: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """The gradient of the loss, and how far each sample is on the wrong side."""
    with torch.enable_grad():
        V = U.detach().requires_grad_()
        scores = model(V)
        wrong = -margins(scores, labels)
        total = wrong.sum() if loss == "margin" else nn.functional.cross_entropy(
            scores, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(total, V)
    return gradient, wrong.detach()
