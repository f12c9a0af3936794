"""Every public name is described, and so is each of its parameters, truly."""

import ast
import dataclasses
import enum
import importlib
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import idl_lab

ROOT = Path(idl_lab.__file__).parent
MODULES = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
           for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


def public_objects():
    for name in MODULES:
        module = importlib.import_module(f"idl_lab.{name}")
        yield f"idl_lab.{name}", module
        for key, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if key.startswith("_") or not own or not (inspect.isclass(value)
                                                      or inspect.isfunction(value)):
                continue
            yield f"{name}.{key}", value
            for member, what in vars(value).items() if inspect.isclass(value) else ():
                what = getattr(what, "__func__", what)
                if not member.startswith("_") and (inspect.isfunction(what)
                                                   or isinstance(what, property)):
                    yield f"{name}.{key}.{member}", what


OBJECTS = dict(public_objects())
CLASSES = {name: value for name, value in OBJECTS.items() if inspect.isclass(value)}
FUNCTIONS = {name: value for name, value in OBJECTS.items() if inspect.isfunction(value)}


def section(doc, title):
    """Names that a numpydoc section describes."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)", doc, re.M | re.S)
    if not found:
        return None
    heads = [line.split(" : ")[0] for line in found[1].splitlines() if re.match(r"\S", line)]
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def parameters(value):
    return [n for n in inspect.signature(value).parameters if n not in ("self", "cls")]


def described(name):
    """The docstring, and of a method that overrides another, that one's too."""
    head, _, last = name.rpartition(".")
    owners = [OBJECTS[name]] if head not in CLASSES else [
        getattr(c, last) for c in CLASSES[head].__mro__ if hasattr(c, last)]
    return "\n".join(inspect.getdoc(owner) or "" for owner in owners)


def test_all_floors_were_found():
    assert {"fixed_point.solve.fixed_point", "model.ImplicitModel.from_matrices", "data.load",
            "fixed_point.solution.Trace.worst", "adjoints.Implicit", "labs.kit.record.record",
            "runs.runner.run_notebooks", "sim.sim.SIM.train"} <= set(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
def test_described(name):
    doc = OBJECTS[name].__doc__ or ""
    assert len(doc.split()) >= 3, f"{name} has no docstring"
    assert not doc.startswith(f"{name.split('.')[-1]}("), f"{name} has only a generated docstring"
    assert "TODO" not in doc


@pytest.mark.parametrize("name", [name for name, value in {**CLASSES, **FUNCTIONS}.items()
                                  if section(inspect.getdoc(value) or "", "Parameters")])
def test_described_parameters_are_the_real_ones(name):
    names = section(inspect.getdoc(OBJECTS[name]), "Parameters")
    assert sorted(names) == sorted(parameters(OBJECTS[name]))


@pytest.mark.parametrize("name", [n for n, c in CLASSES.items() if dataclasses.is_dataclass(c)])
def test_every_field_of_a_dataclass_is_described(name):
    """By the class, or, where it adds no field, by the nearest one above it that describes some."""
    names = next((names for owner in CLASSES[name].__mro__ if (names := [
        field for title in ("Parameters", "Attributes")
        for field in section(inspect.getdoc(owner) or "", title) or []])), [])
    public = [f.name for f in dataclasses.fields(OBJECTS[name]) if not f.name.startswith("_")]
    assert sorted(names) == sorted(public)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_described(name):
    """In a section of its own, or by its name in the sentence: "U Bᵀ" will do for U."""
    doc = described(name)
    unsaid = [p for p in parameters(OBJECTS[name]) if not re.search(rf"\b{re.escape(p)}\b", doc)]
    assert not unsaid, f"{name} does not say what {', '.join(unsaid)} is"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_raises_is_said(name):
    value = OBJECTS[name]
    body = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    raises = [node for node in ast.walk(body) if isinstance(node, ast.Raise) and node.exc]
    said = re.search(r"[Rr]aise|[Rr]efuse|[Cc]heck", described(name))
    assert not raises or said, f"{name} raises, and does not say so"


def test_statuses_carry_a_sentence():
    for name, value in CLASSES.items():
        if issubclass(value, enum.Enum) and name.endswith("Status"):
            assert all(len(member.value.split()) > 3 for member in value)
