"""torchidl's SIM: states in, a solver's matrices out, and a model made of them.

It states torchidl's problem: in the teacher's own units, without biases, on the states of all
samples at once. `idl_lab.sim.SIM` changes the units so that the bound on A costs nothing, fits
biases, takes each layer's own φ and needs the memory of one batch.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from idl_lab import extras, training, validation
from idl_lab.activations import activation
from idl_lab.fixed_point import Picard
from idl_lab.fixed_point.solution import ConvergenceWarning
from idl_lab.model import ImplicitModel
from idl_lab.sim import solvers
from idl_lab.sim.fitting import POOR
from idl_lab.sim.hooks import Batches, states_by_batch
from idl_lab.torchidl.sim import states
from idl_lab.torchidl.sim.utils import wide

MAX_STEPS = 50_000  # torchidl's, of its fixed-point iteration


class SIM:
    """State-driven implicit modeling with torchidl's arguments.

    Parameters
    ----------
    activation_fn : callable
        φ, which must be that of every layer of the teacher.
    kappa : float
        Radius κ of the ball ‖A‖∞ ≤ κ.
    atol : float
        ‖x − φ(Ax + Bu)‖∞ at which a state is solved, in every sample.
    skip_layers : int, optional
        In a module with more than so many children, keep only the activation that each child
        calls last.
    standardize : bool
        Fit matrices for inputs of variance 1, so that λ weighs them alike; the model takes the
        inputs as they are. Means are left, as there are no biases to take them up. (There U, Z, X
        and Y were all centred and scaled, so that X = φ(Z) was lost, and `evaluate` took the
        outputs' scaler for the inputs.)
    device : str or torch.device
    dtype : torch.dtype or str
        Of the model, such as ``torch.float32`` or ``"float32"``.

    Attributes
    ----------
    weights : dict
        A, B, C and D as the solver gave them, None before `train`; `model` is made of them.
    fidelity : float
        R² of the model's outputs against the teacher's, on the states that it was fitted to.
    scaler : sklearn.preprocessing.StandardScaler
        Of the inputs, with ``standardize``.

    Raises
    ------
    TypeError, ValueError
        For a kappa outside [0, 1), an atol that is not positive, and an activation, a device or a
        dtype that is not known.
    """

    def __init__(self, activation_fn: Callable = nn.functional.relu, kappa: float = 0.99,
                 atol: float = 1e-6, skip_layers: int | None = None, standardize: bool = False,
                 device: str | torch.device = "cpu", dtype: str | torch.dtype = torch.float32
                 ) -> None:
        activation(activation_fn)
        self.activation_fn = activation_fn
        self.kappa = validation.kappa(kappa)
        self.atol = validation.real("atol", atol, above=0.0)
        self.skip_layers = skip_layers
        self.standardize = standardize
        self.weights: dict[str, Any] = dict.fromkeys("ABCD")
        if standardize:
            self.scaler = extras.need("sklearn.preprocessing", "train").StandardScaler(
                with_mean=False)
        self.to(device, dtype)

    def to(self, device: str | torch.device | None = None,
           dtype: str | torch.dtype | None = None) -> SIM:
        """Move and convert the model and its weights.

        Parameters
        ----------
        device, dtype
            As for `SIM`; None leaves it.

        Raises
        ------
        TypeError, ValueError
            For one that is not known.
        """
        if device is not None:
            validation.resolve_device(device)
            self.device = device
        if dtype is not None:
            if isinstance(dtype, str):
                dtype = getattr(torch, dtype.removeprefix("torch."), dtype)
            self.dtype = validation.floating(dtype)
        for name, M in self.weights.items():
            if isinstance(M, Tensor):
                self.weights[name] = M.to(self.device, self.dtype)
        return self

    @property
    def model(self) -> ImplicitModel:
        """An `idl_lab.ImplicitModel` made of the weights, anew each time; keep it to train it.

        Raises
        ------
        RuntimeError
            Where a weight is None.
        ValueError
            For weights whose shapes do not fit.
        """
        if missing := [name for name, M in self.weights.items() if M is None]:
            raise RuntimeError(f"this SIM has no {', '.join(missing)} yet: call train(solver=, "
                               f"model=, dataloader=) first.")
        A, B, C, D = (wide(self.weights[name]) for name in "ABCD")
        if self.standardize:
            scale = torch.from_numpy(self.scaler.scale_).double()
            B, D = B / scale, D / scale
        device = validation.resolve_device(self.device)
        return ImplicitModel.from_matrices(
            *(M.to(device, self.dtype) for M in (A, B, C, D)), activation=self.activation_fn,
            kappa=self.kappa, solver=Picard(0.0, atol=self.atol, max_steps=MAX_STEPS))

    @torch.no_grad()
    def __call__(self, input: Tensor | np.ndarray) -> Tensor:
        """Predictions (m, q) of inputs (m, ...), a row a sample.

        Parameters
        ----------
        input : Tensor or ndarray, shape (m, ...)
            Flattened to (m, p).
        """
        return _OfPictures(self.model)(torch.as_tensor(input))

    def get_states(self, model: nn.Module, dataloader: Batches) -> dict[str, np.ndarray]:
        """A teacher's states on all samples of a loader, a column a sample.

        The teacher runs on its own device and is left as it was found.

        Parameters
        ----------
        model : torch.nn.Module
            The teacher.
        dataloader : iterable of U or (U, target)

        Returns
        -------
        dict
            "U" (p, m), "Z" and "X" (n, m), "Y" (q, m): inputs, pre-activations, activations and
            outputs, as the teacher has them; the last layer first.

        Raises
        ------
        TypeError, ValueError
            As `idl_lab.sim.states.gram_statistics`; for a layer with another activation.
        """
        phi, parts = activation(self.activation_fn), []
        for blocks, batch in states_by_batch(model, dataloader, skip_layers=self.skip_layers):
            sizes = [block.size for block in blocks]
            for block, Z, X in zip(blocks, batch.Z.split(sizes, 1), batch.X.split(sizes, 1),
                                   strict=True):
                if not torch.allclose(phi(Z), X, rtol=1e-3, atol=1e-6):
                    raise ValueError(
                        f"activation_fn is {phi.name}, but the teacher's {block.name} is "
                        f"{block.activation.name}: idl_lab.sim.SIM takes each layer's own.")
            parts.append({name: getattr(batch, name).flatten(1).cpu().numpy() for name in "UZXY"})
        return {name: np.vstack([part[name] for part in parts]).T for name in "UZXY"}

    def train(self, solver: Any, model: nn.Module | None = None,
              dataloader: Batches | None = None,
              states_data_path: str | os.PathLike | None = None,
              save_states_path: str | os.PathLike | None = None) -> SIM:
        """Fit an implicit model to a teacher's states.

        Parameters
        ----------
        solver : BaseSolver
            Or any object with its ``solve(X, U, Z, Y, model_config)``.
        model : torch.nn.Module, optional
            The teacher.
        dataloader : iterable of U or (U, target), optional
        states_data_path : path, optional
            Of a file of states, in place of a teacher and data.
        save_states_path : path, optional
            Where to write the teacher's states.

        Returns
        -------
        SIM
            This object.

        Warns
        -----
        UserWarning
            If the model's `fidelity` is below 0.99.

        Raises
        ------
        TypeError, ValueError
            For what is no solver, neither states nor a teacher with data, and what the solver
            gives if it is not four matrices that fit the states; as `get_states`.
        """
        if isinstance(solver, (type, solvers.BaseSolver)) or not hasattr(solver, "solve"):
            raise TypeError(f"solver must be an object of idl_lab.torchidl, such as CVXSolver(), "
                            f"with solve(X, U, Z, Y, model_config), got {solver!r}; "
                            f"idl_lab.sim.SIM takes those of idl_lab.sim.solvers.")
        if states_data_path is not None:
            if save_states_path is not None:
                warnings.warn("save_states_path is left out, as the states come from "
                              "states_data_path.", UserWarning, stacklevel=2)
            given = states.load(states_data_path)
        elif model is None or dataloader is None:
            raise ValueError("train needs a teacher and its data, model= and dataloader=, or "
                             "states_data_path=.")
        else:
            given = self.get_states(model, dataloader)
            if save_states_path is not None:
                states.save(save_states_path, given)
        fitted = given
        if self.standardize:
            fitted = given | {"U": self.scaler.fit_transform(given["U"].T).T}
        found = solver.solve(*(fitted[name] for name in states.NAMES), {
            "activation_fn": self.activation_fn, "device": self.device, "atol": self.atol,
            "kappa": self.kappa})
        self.weights = self._fitting(found, given)
        self.fidelity = self._fidelity(given["U"].T, wide(given["Y"].T))
        if self.fidelity < POOR:
            warnings.warn(f"the student is poor: on the states that it was fitted to it explains "
                          f"{self.fidelity:.3g} of the variance of its teacher's outputs (R²). "
                          f"regen_states=True or a smaller λ may mend it; idl_lab.sim.SIM has "
                          f"biases, and units in which κ = {self.kappa:g} costs nothing.",
                          UserWarning, stacklevel=2)
        return self

    def _fitting(self, found: Any, given: Mapping[str, np.ndarray]) -> dict[str, Any]:
        n, p, q = (len(given[name]) for name in "XUY")
        wanted = {"A": (n, n), "B": (n, p), "C": (q, n), "D": (q, p)}
        shapes = [tuple(getattr(M, "shape", ())) for M in found] if isinstance(
            found, (tuple, list)) else type(found).__name__
        if shapes != list(wanted.values()):
            raise ValueError(f"a solver gives A, B, C and D of shapes {wanted}, got {shapes}.")
        return dict(zip("ABCD", found, strict=True))

    def _fidelity(self, U: np.ndarray, Y: Tensor) -> float:
        with warnings.catch_warnings():
            # Where no state is found the outputs are none of the model's, and the figure says so.
            warnings.simplefilter("ignore", ConvergenceWarning)
            missed = (wide(self(U)) - Y).square().sum().nan_to_num(torch.inf)
        return 1 - float(missed / (Y - Y.mean(dim=0)).square().sum())

    def evaluate(self, dataloader: Batches) -> float:
        """Accuracy on a loader's own batches, transforms included; it is printed too.

        (The reference took ``dataloader.dataset.data``, as it lies in the data set.)

        Parameters
        ----------
        dataloader : iterable of (U, target)
            With class labels (m,).

        Raises
        ------
        TypeError, ValueError
            As `idl_lab.training.evaluate`.
        RuntimeError
            As `model`.

        Warns
        -----
        UserWarning
            If no certificate says that the state equation has one solution.
        """
        model = self.model
        if not (certificate := model.certificate()).well_posed:
            warnings.warn(f"the model is not certified to be well-posed: {certificate.sentence}",
                          UserWarning, stacklevel=2)
        accuracy = training.evaluate(_OfPictures(model), dataloader)
        print(f"Test accuracy: {accuracy:.2%}")
        return accuracy


class _OfPictures(nn.Module):
    """A model of inputs of any shape and floating dtype."""

    def __init__(self, model: ImplicitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, U: Tensor) -> Tensor:
        return self.model(U.to(self.model.C).flatten(1))
