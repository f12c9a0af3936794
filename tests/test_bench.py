"""The benchmark's arithmetic and refusals; speed itself is `make bench`'s to tell."""

import subprocess
import sys

import pandas as pd
import pytest

from idl_lab import bench, plots

pytestmark = pytest.mark.cpu_default
TIMES = pd.DataFrame({"torchidl": [2.0, 4.0, 8.0], "idl_lab": [1.0, 1.0, 2.0]})
MEMORY = pd.DataFrame({"Implicit": [10.0, 10, 11], "Unrolled": [20.0, 100, 1000]},
                      index=pd.Index([10, 100, 1000], name="fixed-point steps"))


def test_the_ratio_is_the_median_of_paired_ratios():
    table = bench.summary(bench.WORKS[0], TIMES, {"idl_lab": 1e-7})
    assert list(table.index) == ["torchidl", "idl_lab"]
    assert table["ms"].tolist() == [4.0, 1.0]
    assert table["of torchidl"].tolist() == [1.0, 0.25]  # of 1/2, 1/4, 1/4
    assert table["quartiles"].tolist() == ["3.00-6.00", "1.00-1.50"]
    assert table.loc["idl_lab", "gradient error"] == 1e-7


def test_anderson_needs_a_fifth_of_picards_steps_on_the_hard_instance():
    row = bench.hard_instance(1).iloc[0]
    assert 200 < row["Picard steps"] and row["Anderson steps"] <= row["Picard steps"] / 5


def test_peak_memory_of_implicit_stays_and_of_unrolled_grows():
    def peak(*arguments):
        return float(subprocess.run([sys.executable, "-m", "idl_lab.bench", "--peak", *arguments],
                                    check=True, capture_output=True, text=True).stdout)

    short, long = peak("Implicit", "10"), peak("Implicit", "300")
    assert 1 < long < short + 15
    assert peak("Unrolled", "300") > 5 * long


def test_the_picture_shows_each_time_and_the_target():
    table = bench.summary(bench.WORKS[0], TIMES, {})
    figure = plots.draw_bench({"n = 100": table}, {"n = 100": 0.4}, MEMORY)
    first, last = figure.axes
    assert [bar.get_width() for bar in first.patches] == [4.0, 1.0]
    assert first.lines[0].get_xdata()[0] == pytest.approx(1.6)
    assert "idl_lab: 1 ms" in {text.get_text() for text in first.texts}
    assert last.lines[1].get_ydata().tolist() == [20, 100, 1000]
    with pytest.raises(ValueError, match="at least one size"):
        plots.draw_bench({}, {}, MEMORY)


@pytest.mark.parametrize(("arguments", "missing", "fragment"), [
    (["--steps", "5"], False, "at least 30, got 5"),
    ([], True, "`make bench` installs"),
])
def test_refusals(arguments, missing, fragment, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    if missing:
        monkeypatch.setitem(sys.modules, "torchdeq", None)
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 2 and fragment in capsys.readouterr().err
