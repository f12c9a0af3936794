"""The house: imports run downwards only, and what a student reads stays small."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "idl_lab"

# From the ground up. A room (a module, or a folder with all its modules) imports only rooms that
# stand on a lower step; the rooms of one step do not know each other. The ground is for all.
HOUSE = {
    "ground": ["unwatched optional records", "extras", "validation bar"],
    "core": ["activations sparse", "operators", "norms perron state_map", "well_posedness",
             "constraints fixed_point", "adjoints", "equilibrium"],
    "science": ["networks checkpoint", "model layer", "rnn compose", "batches capture",
                "training data", "sim robustness", "torchidl"],
    "labs": ["labs.kit", "labs", "labs.judge"],
    "runs": ["runs", "__main__"],
}
STEP = {room: step for step, rooms in enumerate(s for floor in HOUSE.values() for s in floor)
        for room in rooms.split()}
# What a student reads to know how the workbench works: the two equations, from the ground up.
EVENING = ["validation", *" ".join(HOUSE["core"]).split(), "model"]


def room_of(path: Path) -> str:
    return room(path.relative_to(PACKAGE).with_suffix("").parts)


def room(parts: tuple[str, ...] | list[str]) -> str:
    """A lab is a room of its own: ("labs", "training", "plots") is in labs.training."""
    return ".".join(parts[:2]) if parts[0] == "labs" and len(parts) > 1 else parts[0]


def step(room: str) -> int:
    return STEP[room if room in STEP else room.partition(".")[0]]


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def rooms_imported(source: str, path: Path) -> set[str]:
    """The rooms that a module imports anywhere, inside functions too; "" is the package itself."""
    here = ("idl_lab", *path.relative_to(PACKAGE).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(here[:len(here) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    inside = [name.split(".")[1:] for name in names if name.split(".")[0] == "idl_lab"]
    return {room(parts) if parts and is_room(parts[0]) else "" for parts in inside}


def is_room(name: str) -> bool:
    return name in STEP or (PACKAGE / name).with_suffix(".py").exists()


def climbs(room: str, imported: str) -> bool:
    if imported == "":  # the package's __init__ imports the floors, so only the top may use it
        return room != "__main__"
    return imported != room and step(imported) >= step(room)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    room = room_of(path)
    assert room.partition(".")[0] in STEP, f"{room} has no floor: give it one in HOUSE, {__file__}."
    imported = rooms_imported(path.read_text(encoding="utf-8"), path)
    unknown = sorted(name for name in imported - {""} if name.partition(".")[0] not in STEP)
    assert not unknown, f"{unknown} have no floor: give them one in HOUSE, in {__file__}."
    up = sorted(target or "idl_lab itself" for target in imported if climbs(room, target))
    assert not up, f"{path.name} climbs the house: it imports {', '.join(up)}."


@pytest.mark.parametrize(("source", "rooms"), [
    ("import idl_lab.validation", {"validation"}),
    ("from idl_lab.validation import kappa", {"validation"}),
    ("from idl_lab import validation", {"validation"}),
    ("from . import validation", {"validation"}),
    ("from .validation import kappa", {"validation"}),
    ("def f():\n    from idl_lab import ImplicitModel", {""}),
    ("import torch, idl_lab", {""}),
])
def test_every_form_of_import_is_seen(source, rooms):
    assert rooms_imported(source, PACKAGE / "activations.py") == rooms


def test_a_relative_import_from_a_folder_is_seen():
    lab = PACKAGE / "labs" / "training" / "a.py"
    assert rooms_imported("from ..kit.plots import x", lab) == {"labs.kit"}
    assert rooms_imported("from .b import x", lab) == {"labs.training"}
    assert rooms_imported("from ...sim import x", lab) == {"sim"}


def test_a_climb_is_a_climb():
    assert climbs("equilibrium", "model") and climbs("sim", "labs.kit")
    assert climbs("labs.training", "labs.sim_states") and climbs("labs.kit", "labs.training")
    assert climbs("model", "") and climbs("training", "data")
    assert not climbs("model", "equilibrium") and not climbs("labs.training", "labs.kit")


def test_the_readmes_map_shows_this_house():
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    floor_plan = readme.partition("\nidl_lab/\n")[2].partition("```")[0]
    names = " ".join(line[:36] for line in floor_plan.splitlines())
    shown = re.findall(r"(\w+)(?:\.py|/)(?= )", names)
    there = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or any(p.glob("*.py"))}
    assert {name.partition(".")[0] for name in STEP} == there - {"__init__"}
    assert {*shown, "labs"} == {name.removeprefix("labs.") for name in STEP}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank nor part of a docstring."""
    text = path.read_text(encoding="utf-8")
    docs = {line for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node) is not None
            for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return sum(bool(line.strip()) and k not in docs
               for k, line in enumerate(text.splitlines(), start=1))


def test_a_file_that_grows_past_400_lines_is_two_files():
    long = {p.name: lines(p) for p in PACKAGE.rglob("*.py") if lines(p) > 400}
    assert not long


def test_the_core_is_read_in_an_evening():
    # Methods for another evening.
    further = ("newton", "splitting", "gauss_seidel", "sparse", "perron")
    total = sum(lines_of_code(p) for p in MODULES
                if room_of(p) in EVENING and p.stem not in further)
    assert total <= 1700, f"the core has {total} lines of code"
