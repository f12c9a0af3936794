"""What `idl-lab lab` asks of JupyterLab: lab 00 at first, then what was open; no news, no calls."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import jupyterlab_server.config
import pytest
from jupyterlab.labapp import LabApp

from idl_lab.__main__ import _parser
from idl_lab.runs import workshop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The options that JupyterLab is started with for a folder."""
    monkeypatch.delenv("JUPYTER_CONFIG_PATH", raising=False)
    given = []
    monkeypatch.setattr(LabApp, "launch_instance", lambda argv: given.append(argv))

    def start(**options) -> list[str]:
        workshop.open_lab(tmp_path, **options)
        return given[-1]
    return start


def opens(options: list[str]) -> list[str]:
    return [option for option in options if "default_url" in option]


def test_the_first_lab_is_opened_and_later_what_was_open(asked, tmp_path):
    assert not opens(asked())  # there is no lab
    for name in ("01_b.ipynb", "00_a.ipynb", "notes.ipynb"):
        (tmp_path / name).touch()
    assert opens(asked()) == ["--LabApp.default_url=/lab/tree/00_a.ipynb"]
    kept = tmp_path / workshop.WORKSPACES
    assert f"--LabApp.workspaces_dir={kept.resolve()}" in asked()
    kept.mkdir()
    (kept / "default-37a8.jupyterlab-workspace").touch()
    assert not opens(asked())


def test_it_listens_to_this_machine_alone_unless_told(asked):
    assert "--ip=127.0.0.1" in asked() and "--ip=0.0.0.0" in asked(ip="0.0.0.0")


def test_the_plugin_that_asks_for_news_is_off_and_other_settings_stay(asked, monkeypatch, tmp_path):
    own = tmp_path / "own" / "labconfig"
    own.mkdir(parents=True)
    (own / "page_config.json").write_text(json.dumps({"mine": "kept"}))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(own.parent))
    asked()
    assert os.environ["JUPYTER_CONFIG_PATH"].endswith(os.pathsep + str(own.parent))
    page = jupyterlab_server.config.get_static_page_config(level="all")
    assert page["disabledExtensions"]["@jupyterlab/apputils-extension:announcements"] is True
    assert page["mine"] == "kept"


def test_the_dockerfile_and_the_page_for_instructors_type_what_there_is():
    commands = json.loads(re.search(r"^CMD (\[.*\])", (ROOT / "Dockerfile").read_text(), re.M)[1])
    page = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
    typed = re.findall(r"^(idl-lab [^#|`]+?) *(?:#.*)?$|`(idl-lab [^`\[…]+)`", page, re.M)
    lines = [shlex.split("".join(pair)) for pair in typed] + [commands]
    assert len(lines) > 5
    for program, *arguments in lines:
        assert program == "idl-lab" and _parser().parse_args(arguments)
