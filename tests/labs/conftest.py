"""A browser, and JupyterLab serving a folder, for the tests of the labs in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import chromium, jupyterlab


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("labs")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):
    with jupyterlab(folder, tmp_path_factory.mktemp("home")) as address:
        yield address
