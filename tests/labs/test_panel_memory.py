"""A kernel under a reader's hands: many moves and runs of the panel's cell leave nothing behind."""

from __future__ import annotations

import itertools
import json
import queue
from pathlib import Path

import pytest
from browser import ENVIRONMENT
from jupyter_client.manager import start_new_kernel
from test_panels import PANELS

HERE = Path(__file__).parent
# Of growth: what caches and allocators keep. A run of the cell once kept 5 for good.
MEGABYTES = {"a few": 20, "many": 45}
MAKE = "panel = PANELS[{name!r}][0]()\npanel"
SETUP = f"""
import sys
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
import gc, json, ipywidgets, psutil
from ipywidgets.widgets import widget as registry
from matplotlib.figure import Figure
from test_panels import PANELS

def counted():
    gc.collect()
    return {{"MB": psutil.Process().memory_info().rss / 1e6,
            "threads": psutil.Process().num_threads(),
            "widgets": len(registry._instances),
            "figures": sum(type(each) is Figure for each in gc.get_objects())}}

def moves():
    found = []
    for control in panel.controls.values():
        if hasattr(control, "min"):
            steps = range(round((control.max - control.min) / control.step) + 1)
            found.append([control.comm.comm_id, [
                {{"value": control.min + k * control.step}} for k in steps]])
        elif isinstance(control, ipywidgets.Dropdown | ipywidgets.SelectionSlider):
            found.append([control.comm.comm_id, [
                {{"index": k}} for k in range(len(control.options))]])
    return found
"""


class Kernel:
    """A kernel, and what JupyterLab sends to it."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(env=ENVIRONMENT)
        self.run(SETUP, "setup")

    def send(self, kind: str, content: dict, cell: str = "") -> str:
        message = self.client.session.msg(kind, content, metadata={"cellId": cell})
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def run(self, code: str, cell: str) -> list[dict]:
        """Run code as that cell; what it printed and showed."""
        asked = self.send("execute_request", {"code": code, "silent": False}, cell)
        said = []
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            assert message["msg_type"] != "error", "\n".join(content["traceback"])
            if message["msg_type"] in ("stream", "display_data"):
                said.append(content)
            if content.get("execution_state") == "idle":
                return said

    def asked(self, code: str):
        (said,) = self.run(f"print(json.dumps({code}))", "asked")
        return json.loads(said["text"])

    def move(self, comm: str, state: dict) -> None:
        """What the browser sends for a move; then wait for the picture."""
        self.send("comm_msg", {"comm_id": comm, "data": {
            "method": "update", "state": state, "buffer_paths": []}})
        try:
            while True:
                message = self.client.get_iopub_msg(timeout=2)
                if message["msg_type"] == "comm_msg" and message["buffers"]:
                    return
        except queue.Empty:  # the same picture as before
            pass

    def work(self, name: str, moves: int, runs: int) -> dict[str, float]:
        """Move and run the panel's cell so many times; what the kernel holds then."""
        for k in range(runs):
            self.run(MAKE.format(name=name), "panel")
            share = moves * (k + 1) // runs - moves * k // runs
            turns = itertools.cycle(zip(*(
                itertools.islice(itertools.cycle([(comm, state) for state in states]), share)
                for comm, states in self.asked("moves()")), strict=True))
            steps = itertools.chain.from_iterable(turns)
            for comm, state in itertools.islice(steps, share):
                self.move(comm, state)
        return self.asked("counted()")


@pytest.fixture
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def hold_still(kernel: Kernel, name: str, moves: int, runs: int, megabytes: float) -> None:
    before = kernel.work(name, max(16, moves // 10), 4)
    after = kernel.work(name, moves, runs)
    assert after["MB"] - before["MB"] < megabytes, (before, after)
    same = ("threads", "widgets", "figures")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


def test_moves_and_runs_leave_nothing_behind(kernel):
    hold_still(kernel, "03", 16, 6, MEGABYTES["a few"])
    # Two panels of one run stay, and so does one that another cell shows too.
    kernel.run("one, other = PANELS['01'][0](), PANELS['01'][0]()\ndisplay(one, other)", "two")
    kernel.run("one", "again")
    assert kernel.asked("[one.comm is None, other.comm is None]") == [False, False]
    kernel.run("first, second = one, other\none = PANELS['01'][0]()\none", "two")
    assert kernel.asked("[first.comm is None, second.comm is None]") == [False, True]
    with pytest.raises(AssertionError, match="this panel is closed, since the cell that showed"):
        kernel.run("second", "late")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", PANELS)
def test_five_hundred_moves_and_twenty_runs_leave_nothing_behind(kernel, name):
    hold_still(kernel, name, 500, 20, MEGABYTES["many"])
