"""The wheel holds the package, both doors and the demo's files, and leaves LlamaIndex's namespace alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import hyperscene_plugin

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as ``pip wheel`` would, without fetching anything."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> frozenset[str]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return frozenset(archive.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "hyperscene_plugin/__init__.py",
        "hyperscene_plugin/py.typed",
        "hyperscene_plugin/text/compress.py",
        "hyperscene_plugin/demo/samples/the-time-machine.en.md",
        "hyperscene_plugin/demo_model/weights/config.json",
        "hyperscene_plugin/demo_model/weights/model.safetensors",
        "hyperscene_plugin/demo_model/weights/tokenizer.json",
        "langchain_hyperscene/__init__.py",
        "langchain_hyperscene/py.typed",
        "llama_index/postprocessor/hyperscene/__init__.py",
        "llama_index/postprocessor/hyperscene/base.py",
        "llama_index/postprocessor/hyperscene/py.typed",
    ],
)
def test_the_wheel_holds(name: str, names: frozenset[str]) -> None:
    assert name in names


@pytest.mark.parametrize("name", ["llama_index/__init__.py", "llama_index/postprocessor/__init__.py"])
def test_the_wheel_does_not_claim_a_namespace(name: str, names: frozenset[str]) -> None:
    assert name not in names


def test_every_source_file_is_in_the_wheel(names: frozenset[str]) -> None:
    roots = [(REPOSITORY, "hyperscene_plugin"), (REPOSITORY / "integrations", ".")]
    sources = {
        path.relative_to(root).as_posix()
        for root, top in roots
        for path in (root / top).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert sources
    assert sources <= names


def test_nothing_else_is_in_the_wheel(names: frozenset[str]) -> None:
    allowed = ("hyperscene_plugin/", "langchain_hyperscene/", "llama_index/postprocessor/hyperscene/")
    information = f"hyperscene_plugin-{hyperscene_plugin.__version__}.dist-info/"
    assert {name for name in names if not name.startswith((*allowed, information))} == set()
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".pt", ".pkl", ".log"))]


def test_the_metadata_says_what_is_needed(wheel: Path, names: frozenset[str]) -> None:
    (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(path).decode("utf-8"))
    assert metadata["Version"] == hyperscene_plugin.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert core
    heavy = ("torch", "transformers", "accelerate", "sentence-transformers", "llama-index", "langchain", "tiktoken")
    assert not [line for line in core if line.startswith(heavy)]
    assert {"all", "dev", "langchain", "llama-index", "model"} <= set(metadata.get_all("Provides-Extra", []))


def test_the_wheel_works_beside_llama_index(wheel: Path, tmp_path: Path) -> None:
    """Unpacked as pip does, it is found beside the installed ``llama_index.core``, away from this checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import hyperscene_plugin, langchain_hyperscene, llama_index.core, llama_index.postprocessor.hyperscene as p; "
        "print(hyperscene_plugin.__file__); print(p.__file__); print(llama_index.core.__version__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert all(Path(line).is_relative_to(tmp_path) for line in found[:2])
