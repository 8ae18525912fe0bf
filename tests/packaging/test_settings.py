"""The project's own rules hold: layers, warnings as errors, one entry point for continuous integration."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pytest_socket import SocketConnectBlockedError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def layers(folder: Path) -> subprocess.CompletedProcess[str]:
    lint = Path(sys.executable).with_name("lint-imports")
    command = [str(lint), "--config", str(folder / "pyproject.toml"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_imports_respect_the_layers() -> None:
    done = layers(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_an_import_upwards_breaks_the_layers(tmp_path: Path) -> None:
    """The check above can fail: the same contracts refuse a text module that imports torch and the store."""
    ignore = shutil.ignore_patterns("__pycache__", "weights", "samples")
    shutil.copytree(REPOSITORY / "hyperscene_plugin", tmp_path / "hyperscene_plugin", ignore=ignore)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "hyperscene_plugin" / "text" / "wrong.py").write_text("import torch\nimport hyperscene_plugin.store\n")
    done = layers(tmp_path)
    assert done.returncode != 0
    assert "hyperscene_plugin.text.wrong -> torch" in done.stdout
    assert "hyperscene_plugin.text.wrong -> hyperscene_plugin.store" in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "hyperscene_plugin",
        "hyperscene_plugin.text.select",
        "langchain_hyperscene.compressor",
        "llama_index.postprocessor.hyperscene.base",
    ],
)
def test_a_warning_from_our_code_is_an_error(module: str) -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn_explicit("old", DeprecationWarning, f"{module}.py", 1, module=module)


@pytest.mark.parametrize("module", ["hyperscene_plugins", "llama_index.core", "langchain_core", "my_hyperscene_plugin"])
def test_a_warning_from_elsewhere_is_not(module: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.warn_explicit("old", DeprecationWarning, f"{module}.py", 1, module=module)
    assert [str(item.message) for item in seen] == ["old"]


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
def test_tests_cannot_reach_the_network() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection, pytest.raises(SocketConnectBlockedError):
        connection.connect(("192.0.2.1", 80))


def test_property_tests_repeat_the_same_examples() -> None:
    assert settings.default is not None
    assert settings.default.derandomize
    assert settings.default.deadline is None


def test_continuous_integration_runs_make_test_and_nothing_else() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "exec make test"


def test_make_stops_with_the_tests_exit_status(tmp_path: Path) -> None:
    """``make test`` fails when pytest does: the installed environment is replaced by one whose tools fail or pass."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("python", "ruff", "mypy", "lint-imports"):
        (tools / name).write_text('#!/bin/sh\necho "$(basename "$0") $*" >> "$LOG"\nexit "${FAILS:-0}"\n')
        (tools / name).chmod(0o755)
    for stamp in (".installed-all", ".installed-dev"):
        (tmp_path / stamp).touch()
    log = tmp_path / "log"
    command = [make, "test", f"HYPERSCENE_VENV={tmp_path}", "--old-file", "pyproject.toml"]
    for fails, expected in (("0", 0), ("3", 2)):
        environment = {**os.environ, "LOG": str(log), "FAILS": fails}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == expected, done.stdout + done.stderr
    ran = log.read_text(encoding="utf-8").splitlines()
    assert ran[:5] == ["ruff check .", "ruff format --check .", "mypy ", "lint-imports ", "python -m pytest"]
    assert ran[5:] == ["ruff check ."]


def test_the_constraints_satisfy_the_project(project: dict[str, Any]) -> None:
    """Every direct dependency is pinned, and each pin lies within the bounds that users get."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    groups = project["project"]["optional-dependencies"].values()
    declared = [*project["project"]["dependencies"], *(line for group in groups for line in group)]
    for requirement in map(Requirement, declared):
        if requirement.name == "hyperscene-plugin":
            continue
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned), f"{requirement} excludes the pinned {pinned}"
