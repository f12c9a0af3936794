"""A notebook's numbers survive the way through its saved file."""

import math

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from idl_lab.labs.kit.record import MIME, record
from idl_lab.runs.results import recorded


@pytest.fixture
def shell():
    """A shell that displays, as in a notebook."""
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def through_a_notebook(*calls: dict) -> tuple[dict, list[dict]]:
    """Record each call in a cell of its own, save, load, read back."""
    cells, bundles = [], []
    for call in calls:
        with capture_output() as captured:
            record(**call)
        bundle = captured.outputs[0].data
        bundles.append(bundle)
        output = nbformat.v4.new_output("display_data", data=bundle)
        cells.append(nbformat.v4.new_code_cell("record(...)", outputs=[output]))
    saved = nbformat.writes(nbformat.v4.new_notebook(cells=cells))
    return recorded(nbformat.reads(saved, as_version=4)), bundles


def test_values_and_their_types_come_back(shell):
    given = {"steps": 17, "kappa": 0.95, "unique": True, "outcome": "converged"}
    back, [bundle] = through_a_notebook(given)
    assert back == given and list(back) == list(given)
    assert [type(v) for v in back.values()] == [int, float, bool, str]
    assert bundle["text/plain"] == ("steps = 17\nkappa = 0.95\nunique = True\n"
                                    "outcome = converged")


def test_scalars_of_torch_and_numpy_become_plain_numbers(shell):
    back, _ = through_a_notebook({
        "a": torch.tensor(1.5, dtype=torch.float64, device="cpu", requires_grad=True),
        "b": np.float32(0.25), "c": np.int64(3), "d": np.bool_(True),
        "e": torch.tensor(4, device="cpu"), "f": np.array(2.0),
    })
    assert back == {"a": 1.5, "b": 0.25, "c": 3, "d": True, "e": 4, "f": 2.0}
    assert [type(v) for v in back.values()] == [float, float, int, bool, int, float]


def test_nan_and_infinity_survive_json(shell):
    back, [bundle] = through_a_notebook({"a": math.nan, "b": math.inf, "c": -math.inf})
    assert math.isnan(back["a"]) and back["b"] == math.inf and back["c"] == -math.inf
    assert bundle["text/plain"] == "a = nan\nb = inf\nc = -inf"


def test_floats_read_with_six_digits_and_are_kept_in_full(shell):
    back, [bundle] = through_a_notebook({"x": math.pi})
    assert bundle["text/plain"] == "x = 3.14159" and bundle[MIME] == {"numbers": [["x", math.pi]]}
    assert back["x"] == math.pi


def test_cells_add_up_and_the_last_value_counts(shell):
    back, _ = through_a_notebook({"a": 1, "b": 2}, {"b": 3})
    assert back == {"a": 1, "b": 3}


def test_other_outputs_are_not_mistaken_for_numbers():
    outputs = [nbformat.v4.new_output("stream", text="a = 1"),
               nbformat.v4.new_output("display_data", data={"text/plain": "a = 1"})]
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("text"), nbformat.v4.new_code_cell("", outputs=outputs)])
    assert recorded(notebook) == {}


@pytest.mark.parametrize("value", [[1, 2], None, torch.ones(1, device="cpu"), 1j, np.zeros(3)])
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(TypeError, match=rf"record\(x=...\) wants .* got {type(value).__name__}"):
        record(x=value)


def test_outside_a_notebook_it_prints(capsys):
    record(steps=3, gap=0.5)
    assert capsys.readouterr().out == "steps = 3\ngap = 0.5\n"


def test_a_name_of_the_table_is_refused():
    with pytest.raises(ValueError, match="seconds, status is a column of a run's table"):
        record(status="ok", seconds=3, accuracy=0.9)
