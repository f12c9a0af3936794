"""The table of a folder's runs, made from the executed notebooks alone."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import nbformat
import pandas
import pytest

from idl_lab.labs.kit.record import COLUMNS, MIME
from idl_lab.runs import results

FIXED = {"status": "ok", "error": "", "seconds": 1.25, "device": "cpu", "peak_memory_mb": 99.5,
         "notebook": "01_first", "source": "ab", "version": "0.1.0", "commit": "c",
         "versions": {"python": "3.11", "torch": "2.6", "numpy": "2.0", "scipy": "1.13",
                      "scikit-learn": "1.5"}, "host": "h", "started": "2026-01-31T09:00:00+00:00"}


def executed(path: Path, parameters: dict, numbers: dict, **record) -> None:
    """Write what a run leaves."""
    pairs = [[name, {"float": str(v)} if v in (math.inf,) or v != v else v]
             for name, v in numbers.items()]
    output = nbformat.v4.new_output("display_data", data={MIME: {"numbers": pairs}})
    cell = nbformat.v4.new_code_cell("record()", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["idl_lab"] = FIXED | {"parameters": parameters} | record
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


def test_a_row_per_run_in_numeric_order_and_whole_numbers_stay_whole(tmp_path):
    for k, rank in ((10, None), (9, 5)):
        executed(tmp_path / f"run-{k}.ipynb", {"rank": rank, "kappa": 0.5},
                 {"steps": k, "good": True, "gap": math.inf} | ({"late": 1.5} if k == 9 else {}))
    executed(tmp_path / "more" / "x.ipynb", {"kappa": 1}, {})
    table = results.results(tmp_path)
    assert list(table.path) == ["more/x.ipynb", "run-9.ipynb", "run-10.ipynb"]
    assert list(table.columns) == [*COLUMNS, "kappa", "rank", "steps", "good", "gap", "late"]
    assert dict(table.dtypes[["rank", "kappa", "steps", "good", "gap"]].astype(str)) == {
        "rank": "Int64", "kappa": "float64", "steps": "Int64", "good": "boolean", "gap": "float64"}
    assert table.steps.to_list() == [pandas.NA, 9, 10] and table["rank"].to_list()[1] == 5
    assert table.isna().late.to_list() == [True, False, True]


def test_a_name_is_one_column(tmp_path):
    executed(tmp_path / "a.ipynb", {"device": "auto", "kappa": 0.5, "host": "x"},
             {"kappa": 0.7, "seconds": 3, "gap": 1.0}, device="cuda:0")
    [row] = results.results(tmp_path).to_dict("records")
    assert (row["device"], row["kappa"], row["kappa_recorded"]) == ("cuda:0", 0.5, 0.7)
    assert (row["host"], row["host_parameter"]) == ("h", "x")
    assert (row["seconds"], row["seconds_recorded"], row["gap"]) == (1.25, 3, 1.0)


def test_what_no_run_wrote_is_passed_over_and_what_is_broken_is_told(tmp_path):
    executed(tmp_path / "a.ipynb", {}, {})
    executed(tmp_path / ".a.ipynb", {}, {})
    executed(tmp_path / ".ipynb_checkpoints" / "b.ipynb", {}, {})
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "mine.ipynb")
    assert list(results.results(tmp_path).path) == ["a.ipynb"]
    for broken in ("{", "[]", json.dumps({"metadata": {"idl_lab": {}}})):
        (tmp_path / "broken.ipynb").write_text(broken)
        with pytest.warns(UserWarning, match="broken.ipynb is no notebook that can be read"):
            assert list(results.results(tmp_path).path) == ["a.ipynb"]


def test_the_tables_hold_the_same(tmp_path):
    executed(tmp_path / "a.ipynb", {"rank": 3, "sizes": [1, 2], "any": "x"}, {"gap": 0.1 + 0.2})
    executed(tmp_path / "b.ipynb", {"rank": None, "sizes": [1], "any": 2}, {"steps": 4})
    results.write_tables(tmp_path)
    whole = results.results(tmp_path)
    parquet = pandas.read_parquet(tmp_path / "results.parquet")
    csv = pandas.read_csv(tmp_path / "results.csv", keep_default_na=False)
    assert list(parquet.columns) == list(csv.columns) == list(whole.columns)
    for name in ("rank", "gap", "steps", "path", "seconds"):
        pandas.testing.assert_series_equal(parquet[name], whole[name], check_dtype=False)
    assert parquet["any"].to_list() == ["x", "2"]
    assert parquet["sizes"].to_list() == ["[1, 2]", "[1]"]
    assert csv["rank"].to_list() == ["3", ""] and csv["gap"].to_list() == [repr(0.1 + 0.2), ""]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.ipynb", "b.ipynb", "results.csv", "results.parquet"]


def test_a_folder_without_runs_has_the_columns(tmp_path):
    results.write_tables(tmp_path)
    assert list(results.results(tmp_path).columns) == list(COLUMNS)
    assert (tmp_path / "results.csv").read_text() == ",".join(COLUMNS) + "\n"
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        results.results(tmp_path / "nowhere")


@pytest.mark.parametrize("width", [64, 80, 120])
def test_the_table_to_read_fits_its_width(width):
    numbers = {f"number_{k}": math.pi for k in range(9)}
    done = [results.RunResult(Path("x"), FIXED, numbers),
            results.RunResult(Path("y"), FIXED | {"status": "interrupted", "error": "e " * 99})]
    lines = results.table(done, width=width).splitlines()
    assert lines[0].split() == ["notebook", "status", "seconds", "numbers"]
    assert re.match(r"01_first +ok +1\.2  number_0 = 3\.14159,", lines[1])
    assert len(lines) > 3 and max(map(len, lines)) <= width
    assert not [line for line in lines if line.rstrip(",").endswith("=")]


def test_the_table_to_read_shows_twenty_numbers_of_a_notebook():
    done = [results.RunResult(Path("x"), FIXED, {f"n{k}": k for k in range(23)})]
    shown = " ".join(results.table(done, width=80).split())
    assert shown.endswith("n18 = 18, n19 = 19, 3 more") and "n20" not in shown
