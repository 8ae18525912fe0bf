"""Importing the package is cheap: no torch, no framework, milliseconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hyperscene_plugin

REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "accelerate",
    "llama_index",
    "langchain_core",
    "langchain",
    "langgraph",
    "sklearn",
    "scipy",
    "sqlalchemy",
    "pymorphy3",
)
PROBE = """
import json, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "packages": sorted({{name.partition(".")[0] for name in sys.modules}})}}))
"""


def probe(statement: str) -> dict[str, Any]:
    paths = [str(REPOSITORY), str(REPOSITORY / "integrations")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_importing_the_package_loads_nothing_heavy() -> None:
    found = probe("import hyperscene_plugin")
    assert "hyperscene_plugin" in found["packages"]
    assert not set(HEAVY) & set(found["packages"])
    assert min(found["seconds"], probe("import hyperscene_plugin")["seconds"]) < 0.5


def test_the_probe_sees_what_a_statement_loads() -> None:
    assert "sqlite3" in probe("import sqlite3")["packages"]
    assert "sqlite3" not in probe("pass")["packages"]


@pytest.mark.parametrize(
    ("statement", "framework"),
    [
        ("from llama_index.postprocessor.hyperscene import HyperscenePostprocessor", "llama_index"),
        ("from langchain_hyperscene import HypersceneCompressor", "langchain_core"),
    ],
)
def test_a_door_loads_its_own_framework_and_no_model_code(statement: str, framework: str) -> None:
    packages = probe(statement)["packages"]
    assert framework in packages
    unwanted = {"torch", "sentence_transformers", "llama_index", "langchain_core"} - {framework}
    assert not unwanted & set(packages)


def test_every_public_name_loads() -> None:
    statement = "import hyperscene_plugin as h; loaded = [getattr(h, name) for name in h.__all__]"
    assert "sqlalchemy" in probe(statement)["packages"]


def test_the_list_of_public_names_is_sorted() -> None:
    assert hyperscene_plugin.__all__ == sorted(hyperscene_plugin.__all__)
