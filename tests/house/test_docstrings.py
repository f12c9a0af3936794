"""Every public name of the core is described, and so is each of its parameters, truly."""

import dataclasses
import enum
import importlib
import inspect
import re
from pathlib import Path

import pytest

import idl_lab

ROOT = Path(idl_lab.__file__).parent
# All that is below the pictures, and whatever a later room adds there.
FOLDERS = [".".join(p.relative_to(ROOT).with_suffix("").parts) for folder in ("fixed_point", "sim")
           for p in sorted((ROOT / folder).rglob("[a-z]*.py"))]
CORE = [name for name in ("validation", "bar", "activations", "operators", "well_posedness",
                          "constraints", *FOLDERS, "equilibrium", "networks", "model", "rnn",
                          "compose", "torchidl", "training", "data", "robustness")
        if (ROOT / f"{name.replace('.', '/')}.py").exists() or (ROOT / name).is_dir()]


def public_objects():
    for name in CORE:
        module = importlib.import_module(f"idl_lab.{name}")
        yield f"idl_lab.{name}", module
        for key, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if key.startswith("_") or not own or not (inspect.isclass(value)
                                                      or inspect.isfunction(value)):
                continue
            name_ = name.split(".")[-1]
            yield f"{name_}.{key}", value
            for member, what in vars(value).items() if inspect.isclass(value) else ():
                what = getattr(what, "__func__", what)
                if not member.startswith("_") and (inspect.isfunction(what)
                                                   or isinstance(what, property)):
                    yield f"{name_}.{key}.{member}", what


OBJECTS = dict(public_objects())


def section(doc, title):
    """Names that a numpydoc section describes."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)", doc, re.M | re.S)
    if not found:
        return None
    heads = [line.split(" : ")[0] for line in found[1].splitlines() if re.match(r"\S", line)]
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def parameters(value):
    return [n for n in inspect.signature(value).parameters if n not in ("self", "cls")]


def test_the_core_was_found():
    assert {"solve.fixed_point", "model.ImplicitModel.from_matrices", "solution.Trace.worst",
            "equilibrium.Implicit", "constraints.Constraint.free", "data.load"} <= set(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
def test_described(name):
    doc = OBJECTS[name].__doc__ or ""
    assert len(doc.split()) >= 3, f"{name} has no docstring"
    assert not doc.startswith(f"{name.split('.')[-1]}("), f"{name} has only a generated docstring"


WITH_SECTION = [name for name, value in OBJECTS.items()
                if not isinstance(value, property) and not inspect.ismodule(value)
                and section(inspect.getdoc(value) or "", "Parameters") is not None]


@pytest.mark.parametrize("name", WITH_SECTION)
def test_described_parameters_are_the_real_ones(name):
    value = OBJECTS[name]
    described = section(inspect.getdoc(value), "Parameters")
    assert sorted(described) == sorted(parameters(value))
    assert len(described) == len(set(described))


@pytest.mark.parametrize("name", [n for n, v in OBJECTS.items() if inspect.isclass(v)
                                  and dataclasses.is_dataclass(v)])
def test_every_field_of_a_dataclass_is_described(name):
    doc = inspect.getdoc(OBJECTS[name])
    described = [*(section(doc, "Parameters") or []), *(section(doc, "Attributes") or [])]
    public = [f.name for f in dataclasses.fields(OBJECTS[name]) if not f.name.startswith("_")]
    assert sorted(described) == sorted(public)


@pytest.mark.parametrize("name", [n for n, v in OBJECTS.items() if inspect.isfunction(v)])
def test_more_than_two_arguments_are_described_each(name):
    """A one-line docstring will do for two, and for the checkers, whose bounds say it all."""
    value, doc = OBJECTS[name], inspect.getdoc(OBJECTS[name])
    if name not in WITH_SECTION and len(parameters(value)) > 2:
        assert name.endswith((".step", ".real", ".integer", ".choice")), f"{name}: no Parameters"
    assert "TODO" not in doc


def test_statuses_carry_a_sentence():
    for name, value in OBJECTS.items():
        if inspect.isclass(value) and issubclass(value, enum.Enum) and name.endswith("Status"):
            assert all(len(member.value.split()) > 3 for member in value)
