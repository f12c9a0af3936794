"""The notebooks of the lab series: which there are, their parameters, what may be asked of them."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from idl_lab.validation import resolve_device

_UNKNOWN = object()  # the default of a parameter that is no literal


@dataclass(frozen=True)
class Lab:
    """A notebook of the series.

    Parameters
    ----------
    path : Path
        Its file.
    title : str
        Its first heading.
    parameters : mapping of str to object
        Names and defaults of its parameters.
    """

    path: Path
    title: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file's name without its ending, as in ``01_fixed_points``."""
        return self.path.stem


def folder() -> Path:
    """The `notebooks/` of the current folder if there is one, else the series as it came."""
    here = Path.cwd() / "notebooks"
    return here if here.is_dir() else shipped()


def shipped() -> Path:
    """The series as it came: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


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
        parameters = _assignments(cell.source) if cell else {}
    except SyntaxError as error:
        raise ValueError(f"{path}: the parameters cell is no Python: {error}.") from None
    except Exception as error:
        text = " ".join(str(error).split())[:80]
        raise ValueError(f"{path} cannot be read as a notebook: {text}") from None
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    title = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return Lab(path.resolve(), title[1].strip() if title else path.stem, parameters)


def _assignments(source: str) -> dict[str, Any]:
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                try:
                    found[target.id] = ast.literal_eval(node.value)
                except ValueError:
                    found[target.id] = _UNKNOWN
    return found


def find(names: Sequence[str | Path] = ()) -> list[Lab]:
    """Find labs by number (`01`), name (`01_fixed_points`) or path; none given means all.

    Parameters
    ----------
    names : sequence of str or path

    Raises
    ------
    ValueError
        If there is no such notebook (the sentence offers the nearest), or two have one name.
    """
    paths = of(folder())
    if not paths and not names:
        raise ValueError(f"there is no notebook NN_name.ipynb in {folder()}.")
    chosen = [_path(str(name), paths) for name in names] if names else paths
    chosen = list(dict.fromkeys(chosen))
    stems = [p.stem for p in chosen]
    for path in chosen:
        if stems.count(path.stem) > 1:
            raise ValueError(f"two notebooks are called {path.stem}: run them one after the other.")
    return [read_lab(path) for path in chosen]


def _path(name: str, paths: Sequence[Path]) -> Path:
    if name.endswith(".ipynb") or "/" in name:
        if Path(name).is_file():
            return Path(name).resolve()
        name = Path(name).stem
    for path in paths:
        if name == path.stem or (name.isdigit() and int(name) == int(path.stem.split("_")[0])):
            return path
    stems = [p.stem for p in paths]
    raise ValueError(f"there is no notebook {name!r}; {_nearest(name, stems)}"
                     f"the series has {', '.join(stems) or 'none'}.")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}? " if close else ""


def value(text: str) -> Any:
    """Read a parameter's value as Python writes it; anything that is no literal is a text."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def check_parameters(labs: Sequence[Lab], parameters: Mapping[str, Any]) -> None:
    """Make sure that every lab has these parameters, of this type, and the device they ask for.

    Parameters
    ----------
    labs : sequence of Lab
    parameters : mapping of str to object
        Names and the values to be given.

    Raises
    ------
    ValueError
        With one sentence that says what was given and what is wanted.
    """
    for name, given in parameters.items():
        _check_known(labs, name)
        for lab in labs:
            _check_type(lab, name, given)
    for lab in labs:
        device = parameters.get("device", lab.parameters.get("device"))
        if isinstance(device, str):
            try:
                resolve_device(device)
            except ValueError as error:
                raise ValueError(f"{lab.name}: {error}") from None


def _check_known(labs: Sequence[Lab], name: str) -> None:
    without = [lab.name for lab in labs if name not in lab.parameters]
    having = [lab.name for lab in labs if name in lab.parameters]
    if without and having:
        raise ValueError(f"parameter {name!r} is known to {', '.join(having)} but not to "
                         f"{', '.join(without)}: name the notebooks to run.")
    if without:
        known = sorted({known for lab in labs for known in lab.parameters})
        raise ValueError(f"no parameter {name!r} in {', '.join(without)}; {_nearest(name, known)}"
                         f"there is {', '.join(known) or 'none'}.")


def _check_type(lab: Lab, name: str, given: Any) -> None:
    default = lab.parameters[name]
    if default is None or default is _UNKNOWN:
        return
    wanted = type(default)
    alike = {float: (int, float), list: (list, tuple), tuple: (list, tuple)}.get(wanted, (wanted,))
    if type(given) not in alike:
        spelled = {"true": "True", "false": "False", "none": "None"}.get(str(given).lower())
        hint = f" (Python spells it {spelled})" if spelled and spelled != str(given) else ""
        raise ValueError(f"parameter {name!r} of {lab.name} wants {wanted.__name__} like "
                         f"{default!r}, got {type(given).__name__} {given!r}{hint}.")
