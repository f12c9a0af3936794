"""The folder of a run: made, and kept for one run alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder; a process that dies leaves nothing locked.

    Parameters
    ----------
    out : Path

    Raises
    ------
    ValueError
        If another run works there, or nothing can be written there.
    """
    file = FileLock(out / LOCK)
    try:
        file.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another run works in {out}: wait for its end, or name another "
                         f"folder.") from None
    except OSError as error:
        raise ValueError(f"{out} cannot be written to ({error.strerror}); a run wants a folder "
                         f"that it may write to.") from None
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        file.release()


def new_folder(out: str | Path | None) -> Path:
    """The folder `out`, made if it is not there; without a name a new ``runs/<time>``.

    Parameters
    ----------
    out : str or Path, optional

    Raises
    ------
    ValueError
        If it cannot be made.
    """
    if out is not None:
        path = Path(out).resolve()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{path} cannot be made ({error.strerror}); a run wants a folder "
                             f"that it may write to.") from None
        return path
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for again in range(100):
        path = Path.cwd() / "runs" / (f"{stamp}_{again:02d}" if again else stamp)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise ValueError(f"a hundred runs started in the second {stamp}; wait for the next.")
