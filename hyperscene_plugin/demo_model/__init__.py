"""The bundled demo model: where its files are. Importing this loads no torch."""

from __future__ import annotations

from pathlib import Path

__all__ = ["weights_path"]


def weights_path() -> Path:
    """Return the folder with the bundled model's weights, configuration and tokenizer."""
    return Path(__file__).parent / "weights"
