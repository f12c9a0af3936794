"""The panels' benchmark: what is measured, and what its page shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from benchmarks import panels, report

ROOT = Path(__file__).resolve().parents[2]
DRAWN = [{"compute": 10.0, "paint": 5.0, "encode": 1.0, "wall": 20.0},
         {"compute": 30.0, "paint": 7.0, "encode": 3.0, "wall": 60.0}]


def test_medians_and_the_late_ones():
    row = panels.summary([50.0] * 18 + [150.0, 300.0], DRAWN)
    assert row["median"] == 50 and 150 < row["p95"] < 200 and row["pictures"] == 20
    assert (row["kernel"], row["cpu"], row["compute"], row["paint"]) == (40, 28, 20, 6)
    late = row | {"p95": 201.0}
    page = ("before\n\n<!-- measured: make bench ARGS=panels writes this part -->\n\nold\n\n"
            "<!-- end of the measured part -->\nafter")
    new = panels.written(page, {"cores": 2, "load": 0.5, "moves": 30,
                                "rows": {"00 step": row, "01 κ": late}})
    assert "old" not in new and new.startswith("before") and new.endswith("after")
    assert "1 of 2 sliders" in new and "not 01 κ." in new and "| 00 step | 50 |" in new


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")),
                         ids=lambda path: path.stem)
def test_every_lab_is_run_as_far_as_its_panels(path):
    cells = nbformat.read(path, as_version=4).cells
    kept = panels.needed(cells)
    assert 5 < len(kept) < len(cells) and "panel" in kept[-1].source


def test_the_kernel_writes_down_what_a_picture_cost(tmp_path):
    code = f"""
from benchmarks.panels import watch
watch({str(tmp_path / "log")!r})
from idl_lab.labs.fixed_points.panel import convergence_panel
panel = convergence_panel(n=3)
panel.set(step=3)
"""  # in a process of its own: it puts clocks into the drawing
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    rows = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    assert len(rows) == 2
    assert all(row[part] > 0 for row in rows for part in (*panels.PARTS, "wall"))


def test_the_page_shows_the_kept_figures():
    page = panels.PANELS_PAGE.read_text("utf-8")
    assert panels.written(page, report.kept(report.RESULTS)["panels"]) == page
