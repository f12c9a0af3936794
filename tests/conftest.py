"""What every test runs under: a seed, two threads, no window, and a chosen default device."""

from __future__ import annotations

import os

os.environ["MPLBACKEND"] = "Agg"  # before anything imports matplotlib

import pytest
import torch
from helpers import DEFAULT
from hypothesis import settings

settings.register_profile("idl_lab", derandomize=True, deadline=None, max_examples=50,
                          database=None)
settings.load_profile("idl_lab")
# Small matrices: on a busy machine threads wait longer than they work.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--default-device", choices=["cpu", "meta"], default="cpu",
                     help="torch's default device in every test: under meta, a tensor made "
                          "without the device of its inputs fails at once")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under meta, leave out what is marked `cpu_default` (deselected, so not counted as skips)."""
    if config.getoption("--default-device") == "meta":
        out = [item for item in items if item.get_closest_marker("cpu_default")]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(autouse=True)
def _seed_and_default_device(request: pytest.FixtureRequest):
    torch.manual_seed(0)
    torch.set_default_device(request.config.getoption("--default-device"))
    yield
    torch.set_default_device(None)


@pytest.fixture
def layers_on_the_cpu(_seed_and_default_device):
    """Layers are made without a device, so on the CPU; idl_lab meets it `with DEFAULT[0]`."""
    DEFAULT[:] = [torch.get_default_device()]
    torch.set_default_device("cpu")
    yield
    torch.set_default_device(DEFAULT.pop())
