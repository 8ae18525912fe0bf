"""What every test runs under: no model hub, a tokenizer vocabulary that needs no network, repeatable examples."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["ANONYMIZED_TELEMETRY"] = "false"
os.environ.pop("LANGSMITH_TRACING", None)
os.environ.pop("LANGCHAIN_TRACING_V2", None)

# A user's own settings must not leak into the tests.
for _name in [name for name in os.environ if name.startswith("HYPERSCENE_")]:
    del os.environ[_name]

# llama-index-core carries tiktoken's vocabularies (cl100k_base among them).
_llama_index = importlib.util.find_spec("llama_index.core")
if _llama_index is not None and _llama_index.origin is not None:
    _vocabularies = Path(_llama_index.origin).parent / "_static" / "tiktoken_cache"
    if _vocabularies.is_dir():
        os.environ["TIKTOKEN_CACHE_DIR"] = str(_vocabularies)

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama saved as a real model folder."""
    from tests.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> Any:
    """The same, loaded."""
    from hyperscene_plugin import LocalModel

    return LocalModel.load(str(tiny_model_folder), device_map="cpu")
