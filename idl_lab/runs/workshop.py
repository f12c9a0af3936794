"""A folder of one's own: students' copies of the labs, kept up to date, opened in JupyterLab."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import nbformat

from idl_lab.runs import editions, series

# What was copied: name → SHA-256. A file that still has it was not changed since.
MANIFEST = ".idl_lab.json"
WORKSPACES = ".jupyterlab"  # what was open in JupyterLab, in the folder that it belongs to
# Read by JupyterLab before it asks, in a pop-up, whether to fetch Jupyter's news.
SETTINGS = Path(__file__).with_name("jupyter")


def refresh(folder: Path) -> list[Path]:
    """Copy the labs into a folder, without solutions, and replace what an older version copied.

    A notebook that was changed since it was copied, or that came from elsewhere, stays as it is.
    What was copied stands in a file of the folder; if that cannot be read, all notebooks count
    as changed.

    Parameters
    ----------
    folder : Path
        Made if it is not there. The folder that the labs come from is left alone.

    Returns
    -------
    list of Path
        The notebooks that were kept, changed as they are, though another version is shipped.

    Raises
    ------
    ValueError
        If the folder cannot be made or written to.
    """
    source = series.shipped()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.samefile(source):
            return []
        manifest = folder / MANIFEST
        copied = _read(manifest)
        kept = []
        for lab in series.of(source):
            mine, content = folder / lab.name, _copy(lab)
            now, new = _hash(mine.read_bytes()) if mine.exists() else None, _hash(content)
            if now not in (None, new, copied.get(lab.name)):
                if copied.get(lab.name) != new:  # one that was run and saved misses nothing
                    kept.append(mine)
                continue
            if now != new:
                mine.write_bytes(content)
            copied[lab.name] = new
        manifest.write_text(json.dumps(copied, indent=1), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the labs cannot be copied to {folder} ({error.strerror}): name a "
                         f"folder that you may write to.") from None
    return kept


def _copy(lab: Path) -> bytes:
    notebook = editions.student(nbformat.read(lab, as_version=4))
    return (nbformat.writes(notebook) + "\n").encode()


def _read(manifest: Path) -> dict[str, str]:
    try:
        copied = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none yet, or broken: a start anew replaces nothing
        return {}
    return copied if isinstance(copied, dict) else {}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def open_lab(folder: Path, browser: bool = True, port: int | None = None,
             ip: str = "127.0.0.1") -> None:
    """Serve a folder with JupyterLab until Ctrl-C.

    It opens the folder's first lab beside the file browser, and from then on what was open.

    Parameters
    ----------
    folder : Path
    browser : bool
        Open it in the browser.
    port : int, optional
        Jupyter's own choice by default, 8888 or the next that is free.
    ip : str
        Whom it listens to: this machine alone by default.
    """
    given = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, [str(SETTINGS), given]))
    from jupyterlab.labapp import LabApp

    root = folder.resolve()
    workspaces = root / WORKSPACES
    options = [f"--ip={ip}", f"--ServerApp.root_dir={root}",
               f"--LabApp.workspaces_dir={workspaces}",
               # Nothing is fetched even where a reader's own settings ask for it.
               "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    labs = series.of(root)
    if labs and not any(workspaces.glob("*")):
        options.append(f"--LabApp.default_url=/lab/tree/{labs[0].name}")
    if not browser:
        options.append("--no-browser")
    if port is not None:
        options.append(f"--port={port}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container; Jupyter refuses otherwise
        options.append("--allow-root")
    LabApp.launch_instance(argv=options)
