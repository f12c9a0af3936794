"""What a parameters cell declares, and what may be given to it."""

from __future__ import annotations

import math
from pathlib import Path

import nbformat
import papermill
import pytest

from idl_lab.__main__ import main
from idl_lab.runs import parameters, series
from idl_lab.runs.parameters import Choice, Expression, Interval, Parameter, read, value

CELL = """\
seed: int = 0  # of every random draw, in [0, ∞)
kappa: float = 0.9  # bound of ‖A‖∞, in the norm, in [0, 1)
dataset: str = "digits"  # what is learnt, one of digits, mnist_784
rank: int | None = None  # of A, in [1, 100] or None
size: int = 4  # of a batch, one of 1, 2, 4
full: bool = False  # True: everything, in an hour
sizes: list[int] = [
    1,  # the first
    2,
]  # of the layers
"""
FOREIGN = """\
alpha = 1e-3
lengths, other = [1], 2
names = ("a", "b")
x: "float" = 1  # metres, in (m)
path: Path = make()  # where, in the tree
y = 10 ** 6
z = None
first = second = 3
either: int | str = 3
y: int
"""


def write(folder: Path, name: str, cell: str) -> Path:
    folder.mkdir(exist_ok=True)
    cells = [nbformat.v4.new_markdown_cell(f"# On {name}"),
             nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]})]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_cell_says_all_of_its_parameters():
    assert list(read(CELL).values()) == [
        Parameter("seed", int, 0, "of every random draw", Interval(0, math.inf, "[)")),
        Parameter("kappa", float, 0.9, "bound of ‖A‖∞, in the norm", Interval(0, 1, "[)")),
        Parameter("dataset", str, "digits", "what is learnt", Choice(("digits", "mnist_784"))),
        Parameter("rank", int, None, "of A", Interval(1, 100), True),
        Parameter("size", int, 4, "of a batch", Choice((1, 2, 4))),
        Parameter("full", bool, False, "True: everything, in an hour"),
        Parameter("sizes", list, [1, 2], "of the layers"),
    ]


def test_a_cell_that_declares_nothing_is_read_too():
    found = read(FOREIGN)
    assert {name: (p.kind, p.default) for name, p in found.items()} == {
        "alpha": (float, 1e-3), "names": (tuple, ("a", "b")), "x": (float, 1),
        "path": (None, "make()"), "y": (None, "10 ** 6"), "z": (None, None),
        "first": (int, 3), "second": (int, 3), "either": (None, 3)}
    assert isinstance(found["y"].default, Expression)
    assert all(p.allowed is None for p in found.values())
    for name, given in [("path", 3), ("y", "a"), ("z", []), ("x", -1e9), ("names", ["b"])]:
        found[name].check(given, "it")


@pytest.mark.parametrize(("comment", "said"), [
    ("a, in [0, 1, 2]", "got '[0, 1, 2]'"), ("a, in [1, 0]", "got '[1, 0]'"),
    ("a, in (1, 1]", "got '(1, 1]'"), ("a, in [0, κ)", "got '[0, κ)'"),
    ("a, in [, 1)", "got '[, 1)'"), ("a, in [1, 2]", "wants float in [1, 2], got float 0.5"),
    ("a, one of 1, 2", "wants float one of 1, 2, got float 0.5"),
])
def test_a_range_that_is_none_is_said_so(comment, said, tmp_path):
    with pytest.raises(ValueError, match="parameter 'a'") as raised:
        read(f"a: float = 0.5  # {comment}")
    assert said in str(raised.value)
    with pytest.raises(ValueError, match="01_x.ipynb.*parameter 'a'"):
        series.read_lab(write(tmp_path, "01_x", f"a: float = 0.5  # {comment}"))


@pytest.mark.parametrize(("name", "given", "said"), [
    ("kappa", 1, "wants float in [0, 1), got int 1."), ("kappa", -0.1, "got float -0.1"),
    ("kappa", math.nan, "got float nan"), ("kappa", math.inf, "got float inf"),
    ("kappa", "big", "got str 'big'"), ("kappa", True, "got bool True"),
    ("kappa", None, "got NoneType None"), ("seed", -1, "wants int in [0, ∞), got int -1."),
    ("seed", 2.5, "got float 2.5."), ("seed", 1e6, "got float 1000000.0 (write 1000000)."),
    ("rank", 0, "wants int in [1, 100] or None, got int 0."), ("rank", 101, "got int 101"),
    ("rank", "none", "got str 'none' (Python spells it None)"),
    ("full", "true", "wants bool like False, got str 'true' (Python spells it True)"),
    ("full", 1, "got int 1"), ("dataset", "mnist", "one of digits, mnist_784, got str 'mnist'"),
    ("size", 3, "one of 1, 2, 4, got int 3"), ("sizes", 3, "wants list like [1, 2], got int 3"),
])
def test_what_is_not_legal_is_one_sentence(name, given, said):
    with pytest.raises(ValueError, match=f"parameter '{name}' of 01_x wants ") as raised:
        read(CELL)[name].check(given, "01_x")
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "given"), [
    ("kappa", 0), ("kappa", 0.0), ("kappa", 0.999), ("seed", 0), ("seed", 2 ** 40), ("rank", 1),
    ("rank", 100), ("rank", None), ("full", True), ("dataset", "mnist_784"), ("sizes", (3,)),
])
def test_the_ends_that_are_inside_are_legal(name, given):
    read(CELL)[name].check(given, "01_x")


def test_a_number_without_a_range_is_finite():
    for given in (math.nan, math.inf):
        with pytest.raises(ValueError, match="wants float like 0.001, got float"):
            read("a = 1e-3")["a"].check(given, "01_x")


def test_a_parameter_is_for_the_labs_that_have_it():
    labs = {"01_x": read(CELL), "02_y": read("seed: int = 0  # of it, in [0, 9]")}
    parameters.check(labs, {"kappa": 0.5, "seed": 9})
    with pytest.raises(ValueError, match="'seed' of 02_y wants int in .0, 9., got int 10"):
        parameters.check(labs, {"seed": 10})
    with pytest.raises(ValueError, match="no parameter 'kapa' in 01_x, 02_y; did you mean 'kappa'"):
        parameters.check(labs, {"kapa": 0.5})
    lab = series.Lab(Path("02_y.ipynb"), "", labs["02_y"])
    assert lab.effective({"kappa": 0.5}) == {"seed": 0}
    assert lab.effective({"seed": 3}) == {"seed": 3}


@pytest.mark.parametrize(("text", "read_as"), [
    ("3", 3), ("-1", -1), ("1e-3", 1e-3), ("True", True), ("None", None), ("relu", "relu"),
    ("'3'", "3"), ("[1, 2]", [1, 2]), ("cuda:1", "cuda:1"), ("true", "true"), ("a b", "a b"),
])
def test_values_are_read_as_python_writes_them(text, read_as):
    assert value(text) == read_as and type(value(text)) is type(read_as)


def test_list_says_what_there_is_in_eighty_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notebooks", "01_first", CELL)
    write(tmp_path / "notebooks", "02_second", "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]")
    assert main(["list", "01"]) == 0
    assert capsys.readouterr().out == f"""\
Notebooks in {tmp_path / "notebooks"}

01_first  On 01_first
    seed     int    0         of every random draw, in [0, ∞)
    kappa    float  0.9       bound of ‖A‖∞, in the norm, in [0, 1)
    dataset  str    'digits'  what is learnt, one of digits, mnist_784
    rank     int    None      of A, in [1, 100] or None
    size     int    4         of a batch, one of 1, 2, 4
    full     bool   False     True: everything, in an hour
    sizes    list   [1, 2]    of the layers
"""
    assert main(["list"]) == 0
    assert "    x  list  [1, 2, 3, 4, 5, 6...\n" in capsys.readouterr().out
    assert main(["list", "--notebooks", str(series.shipped())]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert str(series.shipped()) in shown[0] and max(map(len, shown[1:])) <= 80


def test_a_folder_without_labs_does_not_replace_the_series(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = write(tmp_path / "notebooks", "notes", "x = 1")
    assert series.folder() == series.shipped()
    assert main(["list", "--notebooks", "notebooks"]) == 2
    said = capsys.readouterr().err
    assert "no notebook NN_name.ipynb in notebooks; --notebooks DIR" in said
    assert main(["list", "00", "--notebooks", "nowhere"]) == 2
    assert "no notebook '00'; the series in nowhere has none" in capsys.readouterr().err
    notes.rename(tmp_path / "notebooks" / "01_notes.ipynb")
    assert series.folder() == tmp_path / "notebooks"
    monkeypatch.setattr(series, "shipped", lambda: tmp_path / "none")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert main(["list"]) == 2  # a wheel without its notebooks
    assert f"in {tmp_path / 'none'}; --notebooks DIR" in capsys.readouterr().err


@pytest.mark.parametrize("path", series.of(series.shipped()), ids=lambda path: path.stem)
def test_papermill_reads_the_labs_as_we_do(path):
    ours, theirs = series.read_lab(path).parameters, papermill.inspect_notebook(path)
    # Its pattern knows no "|", so that it sees no parameter that may be None; given one, it warns.
    assert list(theirs) == [name for name, p in ours.items() if not p.optional]
    for name, seen in theirs.items():
        assert value(seen["default"]) == ours[name].default
