"""The notebooks of the lab series: which there are, their parameters, what may be asked of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from idl_lab.records import shipped as shipped
from idl_lab.runs.parameters import Expression, Parameter, check, nearest, read
from idl_lab.runs.parameters import value as value  # its name for those who ask a series


@dataclass(frozen=True)
class Lab:
    """A notebook of the series.

    Parameters
    ----------
    path : Path
        Its file.
    title : str
        Its first heading.
    parameters : mapping of str to Parameter
        What its parameters cell declares.
    """

    path: Path
    title: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its ending, as in ``01_fixed_points``."""
        return self.path.stem

    def effective(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each of its parameters in a run that is given these.

        Parameters
        ----------
        given : mapping of str to object
            Names and values; what the lab does not know does not concern it.
        """
        return {name: given.get(name, declared.default)
                for name, declared in self.parameters.items()}


def folder() -> Path:
    """The `notebooks/` of the current folder if it holds labs, else the series as it came."""
    here = Path.cwd() / "notebooks"
    return here if here.is_dir() and of(here) else shipped()


def of(folder: Path) -> list[Path]:
    """The notebooks NN_topic.ipynb of a folder, in the order of their numbers."""
    return sorted((p for p in folder.glob("*.ipynb") if re.match(r"\d+_", p.name)),
                  key=lambda p: (int(p.name.split("_")[0]), p.name))


def read_lab(path: Path) -> Lab:
    """Read a notebook's title and its cell tagged `parameters`.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If it is no notebook, or its parameters are no Python.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        cell = next((c for c in notebook.cells
                     if "parameters" in c.metadata.get("tags", [])), None)
        parameters = read(cell.source) if cell else {}
    except SyntaxError as error:
        raise ValueError(f"{path}: the parameters cell is no Python: {error}.") from None
    except Exception as error:
        text = " ".join(str(error).split())[:80]
        raise ValueError(f"{path} cannot be read as a notebook: {text}") from None
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    title = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return Lab(path.resolve(), title[1].strip() if title else path.stem, parameters)


def find(names: Sequence[str | Path] = (), where: str | Path | None = None) -> list[Lab]:
    """Find labs by number (`01`), name (`01_fixed_points`) or path; none given means all.

    Parameters
    ----------
    names : sequence of str or path
    where : str or path, optional
        The folder that holds the series; `folder` by default.

    Raises
    ------
    ValueError
        If there is no such notebook (the sentence offers the nearest), or two have one name.
    """
    where = folder() if where is None else Path(where)
    paths = of(where)
    if not paths and not names:
        raise ValueError(f"there is no notebook NN_name.ipynb in {where}; "
                         f"--notebooks DIR names the folder that holds the series.")
    chosen = [_path(str(name), where) for name in names] if names else paths
    chosen = list(dict.fromkeys(chosen))
    stems = [p.stem for p in chosen]
    for path in chosen:
        if stems.count(path.stem) > 1:
            raise ValueError(f"two notebooks are called {path.stem}: run them one after the other.")
    return [read_lab(path) for path in chosen]


def _path(name: str, where: Path) -> Path:
    if name.endswith(".ipynb") or "/" in name:
        if Path(name).is_file():
            return Path(name).resolve()
        name = Path(name).stem
    paths = of(where)
    for path in paths:
        if name == path.stem or (name.isdigit() and int(name) == int(path.stem.split("_")[0])):
            return path
    stems = [p.stem for p in paths]
    raise ValueError(f"there is no notebook {name!r}; {nearest(name, stems)}"
                     f"the series in {where} has {', '.join(stems) or 'none'}.")


def check_parameters(labs: Sequence[Lab], given: Mapping[str, Any]) -> None:
    """Make sure that the values are legal in every lab that knows them, and its device is there.

    Parameters
    ----------
    labs : sequence of Lab
    given : mapping of str to object
        Names and values; each goes to the labs that have it, and one of them at least has to.

    Raises
    ------
    ValueError
        With one sentence that says what was given and what is wanted.
    """
    check({lab.name: lab.parameters for lab in labs}, given)
    for lab in labs:
        device = lab.effective(given).get("device")
        if (isinstance(device, str) and device not in ("cpu", "auto")
                and not isinstance(device, Expression)):
            from idl_lab.validation import resolve_device  # torch, which nothing else here needs

            try:
                resolve_device(device)
            except ValueError as error:
                raise ValueError(f"{lab.name}: {error}") from None
