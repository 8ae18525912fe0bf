"""These tests need torch and transformers, but for the world's own."""

from __future__ import annotations

import importlib.util

collect_ignore = (
    []
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
    else ["test_tokenizer.py", "test_train.py", "test_shipped.py"]
)
