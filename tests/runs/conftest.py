"""A series of one's own."""

from __future__ import annotations

import pytest
from tiny_notebooks import write


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder with an empty series, and the current folder; called, it writes a notebook."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    return lambda name, *cells, **more: write(tmp_path / "notebooks", name, *cells, **more)
