"""hyperscene-plugin: memory and context compression for the LLM stack you already run."""

from __future__ import annotations

__version__ = "0.1.0"
