"""torchidl's ADMM on several GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from idl_lab import validation
from idl_lab.sim import solvers
from idl_lab.sim.problem import Problem
from idl_lab.torchidl.sim.solvers.admm_consensus import ADMMSolver


@dataclass
class _OnGPUs:
    gpu_ids: Sequence[int | torch.device]


@dataclass
class ADMMMultiGPUSolver(ADMMSolver, _OnGPUs):  # in this order gpu_ids is the first argument
    """torchidl's ADMM on several GPUs, each with rows of its own.

    (Nothing could be solved by it there: its methods were called as functions.)

    Parameters
    ----------
    gpu_ids : sequence of int or torch.device
        One, or 0, 1, …, N − 1: `idl_lab.sim.solvers.ADMMMultiGPUSolver` has a worker for each.
        Which GPUs these are is said by CUDA_VISIBLE_DEVICES.
    num_epoch_ab, num_epoch_cd, lambda_y, lambda_z, rho_ab, rho_cd, batch_feature_size
        As for `ADMMSolver`.
    regen_states, tol
        As for `ADMMSolver`.

    Raises
    ------
    TypeError, ValueError
        As `ADMMSolver`; for no GPU, for one that is not there, and for several others than the
        first N.

    Warns
    -----
    UserWarning
        For arguments that are given and not used.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._devices = [str(validation.resolve_device(f"cuda:{gpu}" if isinstance(gpu, int)
                                                      else gpu)) for gpu in self.gpu_ids]
        first = [f"cuda:{i}" for i in range(len(self._devices))]
        if len(self._devices) != 1 and self._devices != (first or None):
            raise ValueError(f"gpu_ids must be one GPU, or the first N, [0, 1, …], got "
                             f"{list(self.gpu_ids)}: with CUDA_VISIBLE_DEVICES=2,3 the GPUs 2 and "
                             f"3 are 0 and 1.")

    def _method(self, problem: Problem) -> solvers.BaseSolver:
        if len(self._devices) == 1:
            return solvers.ADMMSolver(device=self._devices[0])
        return solvers.ADMMMultiGPUSolver(device="cuda", workers=len(self._devices))
