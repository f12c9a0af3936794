"""What `make test` asks of the notebooks beyond what nbval does by itself."""

from __future__ import annotations

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a cell that nbval passes though IPython refused it, or though its answer is not right.

    A magic that is not there is told on stderr alone. The notebooks here have the solutions in
    them, so that each checker must say so.
    """
    done = yield
    for output in getattr(item, "test_outputs", ()):
        said = output.get("data", {}).get("text/plain", "")
        if output.get("name") == "stderr" and output.text.startswith("UsageError:"):
            item.raise_cell_error("IPython refused the cell", output.text)
        if said.startswith(("Not yet. ", "Not attempted yet. ")):
            item.raise_cell_error("The checker does not call the solution right", said)
    return done
