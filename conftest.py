"""What `make test` asks of the notebooks beyond what nbval does by itself."""

from __future__ import annotations

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a cell that IPython refuses, with a magic that is not there.

    It is told on stderr alone, so nbval passes it, which papermill and `idl-lab run` do not.
    """
    done = yield
    for output in getattr(item, "test_outputs", ()):
        if output.get("name") == "stderr" and output.text.startswith("UsageError:"):
            item.raise_cell_error("IPython refused the cell", output.text)
    return done
