"""A notebook's way through a kernel of its own: papermill's client, and what it leaves untold."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import Empty
from typing import Any, BinaryIO

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from traitlets import Type

from idl_lab.runs import inside

# Asked of the kernel, not run as a cell: a reader's cells keep their numbers.
_FACTS = f"__import__('runpy').run_path({inside.__file__!r})['facts']()"
logging.getLogger("papermill").addHandler(logging.NullHandler())  # a run's record has its errors


class Execution:
    """Runs a notebook's cells in a kernel; their outputs stand in the notebook, however it ends.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Changed in place.
    cwd : Path
        The folder that the kernel works in.
    log : binary file
        What the kernel itself says, a crash's stack say.
    timeout : float, optional
        Seconds for all cells together.
    on_cell : callable, optional
        Called with the number of a code cell that begins and how many there are. Code cells are
        counted, so cell 7 is the one that shows In [7].
    """

    def __init__(self, notebook: nbformat.NotebookNode, cwd: Path, log: BinaryIO,
                 timeout: float | None = None,
                 on_cell: Callable[[int, int], None] | None = None) -> None:
        self.notebook, self.cwd, self.log, self.timeout = notebook, cwd, log, timeout
        self.on_cell = on_cell
        self.cell, self.total = 0, sum(_runs(cell) for cell in notebook.cells)
        self.peak_memory_mb: float | None = None
        self.facts: dict[str, Any] = {}  # see `inside.facts`
        self.error: dict[str, str] | None = None  # ename and evalue of the cell that stopped it
        self.time_is_up = False

    def run(self) -> None:
        """Run all cells, or those up to one that fails, which `error` then holds.

        Raises
        ------
        nbclient.exceptions.DeadKernelError
            The sentence says which signal ended the kernel.
        nbclient.exceptions.CellTimeoutError
            When the time is up.
        RuntimeError
            If the kernel does not start.
        """
        end = time.monotonic() + (self.timeout or 0)
        left = self.timeout and (lambda cell: max(end - time.monotonic(), 1e-3))  # 0: no limit
        manager = NotebookExecutionManager(self.notebook, progress_bar=False)
        client = _NotebookClient(
            manager, execution=self, kernel_name="python3",
            kernel_manager_class=_this_python(self.cwd, self.log), timeout_func=left,
            iopub_timeout=60,  # the last outputs of a cell, on a machine that has much to do
            on_cell_start=self._begin, on_cell_error=self._fail,
            log=logging.getLogger("papermill"))
        manager.notebook_start()
        try:
            client.execute()
        except CellTimeoutError:
            self.time_is_up = self.timeout is not None and time.monotonic() >= end
            raise
        finally:
            manager.notebook_complete()
            if threading.current_thread() is not threading.main_thread():
                ensure_event_loop().close()  # nbclient made it for this thread, and leaves it open

    def _begin(self, cell: Any, cell_index: int) -> None:
        if _runs(cell):
            self.cell += 1
            if self.on_cell:
                self.on_cell(self.cell, self.total)

    def _fail(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        if "raises-exception" not in cell.metadata.get("tags", []):
            content = execute_reply["content"]
            self.error = {key: content.get(key, "") for key in ("ename", "evalue")}


def _runs(cell: Any) -> bool:
    return (cell.cell_type == "code" and bool(cell.source.strip())
            and "skip-execution" not in cell.metadata.get("tags", []))


class _NotebookClient(PapermillNotebookClient):
    def __init__(self, manager: NotebookExecutionManager, execution: Execution,
                 **options: Any) -> None:
        super().__init__(manager, **options)
        self.execution = execution

    def papermill_execute_cells(self) -> None:
        process = self.km.provisioner
        try:
            super().papermill_execute_cells()
            self.execution.facts = self._ask()
        except DeadKernelError:
            raise DeadKernelError(f"the kernel died{_how(process.process)}") from None
        except BaseException:
            self.shutdown_kernel = "immediate"  # a busy kernel would be waited for
            _drop_tasks()
            raise
        finally:
            self._measure()

    def execute_cell(self, *arguments: Any, **options: Any) -> Any:
        self._measure()  # a kernel that dies in the cell can no longer be asked
        return super().execute_cell(*arguments, **options)

    def _measure(self) -> None:
        peak = _peak_memory_mb(self.km.provisioner.pid)
        self.execution.peak_memory_mb = peak or self.execution.peak_memory_mb

    def _ask(self) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for _ in range(50):  # for a moment after an error a kernel turns requests away
            request = self.kc.execute("", silent=True, store_history=False,
                                      user_expressions={"facts": _FACTS})
            content = self.wait_for_reply(request)["content"]
            if content["status"] != "aborted":
                break
            time.sleep(0.02)
        answer = content.get("user_expressions", {}).get("facts", {})
        if answer.get("status") != "ok":
            return {}
        return json.loads(ast.literal_eval(answer["data"]["text/plain"]))


def _drop_tasks() -> None:
    """End what an interrupt left waiting: asyncio prints the error of a task nobody asks for."""
    loop = ensure_event_loop()
    # A loop that runs is that of a notebook that called us: its tasks are not ours.
    tasks = set() if loop.is_running() else asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def _how(process: Any) -> str:
    """By which signal a process ended: the system's memory killer sends SIGKILL."""
    code = process.poll() if process else None
    if code is None:
        return ""
    return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit status {code})"


def _peak_memory_mb(pid: int) -> float | None:
    """The most memory that a process had resident so far; None where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    peak = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if peak is None else round(int(peak) / 1024, 1)


class LookingAgain(AsyncZMQSocketChannel):
    """A channel that looks every second whether a message is there.

    nbclient answers an Output widget by a send on the socket whose reply it awaits. A reply that
    comes during that send wakes nobody: its run would wait for ever, the kernel idle.
    """

    async def get_msg(  # type: ignore[override]
            self, timeout: float | None = None) -> dict[str, Any]:
        """The next message.

        Parameters
        ----------
        timeout : float, optional
            In seconds.

        Raises
        ------
        queue.Empty
            If there is none in that time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 1.0 if end is None else min(1.0, max(0.0, end - time.monotonic()))
            try:
                return await super().get_msg(left)
            except Empty:
                if end is not None and time.monotonic() >= end:
                    raise


class _Client(AsyncKernelClient):
    shell_channel_class = Type(LookingAgain)


def _this_python(cwd: Path, log: BinaryIO) -> type:
    """A kernel manager that starts this interpreter, whatever kernels the user has installed."""
    class ThisPythonSpec(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            pictures_inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
            return KernelSpec(resource_dir=RESOURCES, env=pictures_inline, **get_kernel_dict())

    class ThisPython(AsyncKernelManager):
        client_factory = Type(_Client)

        def __init__(self, **options: Any) -> None:
            super().__init__(**options, kernel_spec_manager=ThisPythonSpec(),
                             transport_encryption="auto")

        def start_kernel(self, **options: Any) -> Awaitable[None]:  # type: ignore[override]
            return super().start_kernel(**options, stderr=log, cwd=str(cwd))

    return ThisPython
