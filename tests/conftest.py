"""What every test runs under: a seed, one thread, no window."""

from __future__ import annotations

import os

# For the processes that tests start, and for this one: on small matrices, and with a test in each
# of two processes, threads wait longer than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import pytest
import torch
from hypothesis import settings

from idl_lab.labs.kit import progress

# Not through the environment: a lab's kernel, which inherits that, draws its pictures inline.
matplotlib.use("Agg")
torch.set_num_threads(1)
settings.register_profile("idl_lab", derandomize=True, deadline=None, max_examples=50,
                          database=None)
settings.load_profile("idl_lab")


# Below a file there is no folder to write to: each test keeps its tries to itself.
progress.FILE = f"{__file__}/progress.json"


@pytest.fixture(autouse=True)
def _untried(monkeypatch):
    monkeypatch.setattr(progress, "_kept", {})


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
