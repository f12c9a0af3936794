"""Whether this Python can run the labs, in words: what is missing, and what to type.

``python -m idl_lab.labs.setup`` says it in a terminal, the first cell of lab 00 in a notebook. It
stands here, not in lab 00's folder, whose import needs the very packages that may be missing.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

NAME = "idl_lab"


@dataclass(frozen=True)
class Line:
    """What one check found.

    Parameters
    ----------
    found : str
        What is there; in a faulty line also what is wanted.
    do : str, optional
        What mends it; without, all is well.
    """

    found: str
    do: str = ""

    def __str__(self) -> str:
        return f"TO DO  {self.found}\n       {self.do}" if self.do else f"ok     {self.found}"


@dataclass(frozen=True)
class Setup:
    """What all checks found.

    Parameters
    ----------
    lines : tuple of Line
    """

    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing."""
        return not any(line.do for line in self.lines)

    def __repr__(self) -> str:
        last = ("All that the labs need is here." if self.ok else
                f"Do what is said above, then start the kernel anew (menu Kernel, Restart Kernel). "
                f"This kernel's Python is {sys.executable}.")
        return "\n".join([*map(str, self.lines), last])


def check_setup(folder: str | Path = ".") -> Setup:
    """Look at Python, the packages, the panels, the folder, the digits, and torch; never raises.

    Parameters
    ----------
    folder : str or path
        Where notebooks and progress are to be saved.

    Returns
    -------
    Setup
    """
    checks: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("Python", _python), ("the packages", _packages), ("the panels", _panels),
        ("the folder", lambda: _folder(Path(folder))), ("the digits", _digits), ("torch", _torch)]
    lines: list[Line] = []
    for what, look in checks:
        try:
            lines += look()
        except metadata.PackageNotFoundError as error:
            lines.append(Line(f"{error.name} is not installed in this Python", ALL))
        except Exception as error:  # whatever it is: this is where a reader learns of it
            lines.append(Line(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}",
                              HELP.get(what, ALL)))
    return Setup(tuple(dict.fromkeys(lines)))


def _install(requirement: str, *options: str) -> str:
    # Double quotes: a Windows terminal knows no others.
    return " ".join([f'Type: "{sys.executable}" -m pip install', *options, f'"{requirement}"'])


ALL = _install(".[labs]") + " in the folder that has pyproject.toml."
HELP = {
    "the digits": _install("scikit-learn", "--force-reinstall"),
    "torch": _install("torch", "--force-reinstall") + "   (On Windows, if the line above speaks of "
             "a DLL: install Microsoft's Visual C++ Redistributable, x64.)",
}


def _python() -> Iterator[Line]:
    from packaging.specifiers import SpecifierSet

    here, wanted = platform.python_version(), metadata.metadata(NAME)["Requires-Python"]
    fits = SpecifierSet(wanted).contains(here, prereleases=True)
    yield Line(f"Python {here}" + ("" if fits else f", {wanted} is wanted"),
               "" if fits else "Install a newer Python, and the labs with it.")


def _wanted() -> dict[str, str]:
    """Each package of the extra `labs` with its bound, as the installed package has them."""
    from packaging.requirements import Requirement

    asked = map(Requirement, metadata.requires(NAME) or [])
    return {r.name: str(r.specifier) for r in asked
            if r.marker is None or r.marker.evaluate({"extra": "labs"})}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Line]:
    from packaging.specifiers import SpecifierSet

    wanted = _wanted()
    bad = 0
    for name, bound in sorted(wanted.items()):
        here = _version(name)
        if here is None or not SpecifierSet(bound).contains(here, prereleases=True):
            bad += 1
            yield Line(f"{name} {here or 'is not installed'}, {bound} is wanted",
                       _install(f"{name}{bound}"))
    yield from () if bad else [Line(f"{len(wanted)} packages within their bounds")]


def _panels() -> Iterator[Line]:
    """Without the widgets' half that JupyterLab loads, a panel is a line of text."""
    from packaging.requirements import Requirement

    asked = [r for r in map(Requirement, metadata.requires("ipywidgets") or [])
             if r.name == "jupyterlab_widgets"]
    for half in asked:
        here = _version(half.name)
        fits = here is not None and half.specifier.contains(here, prereleases=True)
        if fits:
            yield Line(f"panels: ipywidgets {_version('ipywidgets')}, {half.name} {here}")
        else:
            yield Line(f"panels would show as text: {half.name} {here or 'is not installed'}, "
                       f"{half.specifier} is wanted by ipywidgets {_version('ipywidgets')}",
                       f"{_install(str(half))} and start JupyterLab again; where it runs from "
                       f"another Python, there too.")


def _folder(folder: Path) -> Iterator[Line]:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Line(f"nothing can be saved in {folder.absolute()} ({error.strerror})",
                   "Copy the labs to a folder of yours: idl-lab lab my_labs")
    else:
        yield Line("notebooks and progress can be saved in this folder")


def _digits() -> Iterator[Line]:
    from idl_lab.data import load

    train, test = load("digits")
    yield Line(f"the digits: {len(train.dataset) + len(test.dataset)} images")


def _torch() -> Iterator[Line]:
    import torch

    A = torch.eye(8, dtype=torch.float64) * 2
    if not torch.equal(A @ A, 2 * A) or not torch.allclose(torch.linalg.inv(A) @ A, A / 2):
        raise ArithmeticError("a product of two matrices comes out wrong")
    gpu = ("cuda" if torch.cuda.is_available() else
           "mps" if torch.backends.mps.is_available() else "no GPU, none is needed")
    yield Line(f"torch {torch.__version__} computes ({gpu})")


if __name__ == "__main__":
    setup = check_setup()
    print(setup)
    sys.exit(not setup.ok)
