"""Saved states: written so that no file has to be unpickled, and torchidl's own read without."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

NAMES = ("X", "U", "Z", "Y")
# All that the pickle of a dict of arrays of numbers names. np.load(allow_pickle=True) would run
# whatever a file names.
ARRAYS = {(f"{core}.{module}", name) for core in ("numpy.core", "numpy._core")
          for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
          } | {("numpy", "ndarray"), ("numpy", "dtype")}


def save(path: str | os.PathLike, states: Mapping[str, np.ndarray]) -> None:
    """Write states to a file that `load` reads, and torchidl's ``states_data_path`` too.

    Its own files are pickles, which its own `np.load` refuses; an archive of arrays it reads.

    Parameters
    ----------
    path : path
        As with `np.save`, a name without .npy gets it (.npz is left too).
    states : mapping
        X, U, Z and Y.
    """
    path = os.fspath(path)
    with open(path if path.endswith((".npy", ".npz")) else f"{path}.npy", "wb") as file:
        np.savez(file, **{name: states[name] for name in NAMES})


def load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read states that `save` wrote, or torchidl 0.0.4; nothing in the file is run.

    Parameters
    ----------
    path : path

    Raises
    ------
    ValueError
        For a file that holds anything else than X, U, Z and Y as matrices of numbers.
    """
    with open(path, "rb") as file:
        try:
            found = _arrays(file)
        except (ValueError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)} holds no states: {error}") from error
    missing = [name for name in NAMES if name not in found]
    wrong = [name for name in NAMES if not missing and (
        not isinstance(found[name], np.ndarray) or found[name].dtype.kind != "f"
        or found[name].ndim != 2 or found[name].shape[1] != found["X"].shape[-1])]
    if missing or wrong:
        raise ValueError(f"{os.fspath(path)} holds no states: X, U, Z and Y must be matrices of "
                         f"floating-point numbers with a column a sample, and "
                         f"{', '.join(missing or wrong)} {'is missing' if missing else 'is not'}.")
    return {name: found[name] for name in NAMES}


def _arrays(file: BinaryIO) -> Mapping[str, Any]:
    if file.read(2) == b"PK":
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(file)
    if shape != () or dtype.kind != "O":
        raise ValueError(f"an array of {dtype} and shape {shape} is no dict of arrays.")
    kept = _OfArrays(file).load()
    return kept.item() if isinstance(kept, np.ndarray) and kept.shape == () else kept


class _OfArrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs.")
        return super().find_class(module, name)
