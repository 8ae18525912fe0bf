"""An encoder and a folder → the same encoder that computes no text twice, also across runs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hyperscene_plugin.types import Encoder

__all__ = ["CachedEncoder"]

_KEY_BYTES = 16
_SAVE_EVERY = 4096


class CachedEncoder:
    """Wraps ``encoder``; vectors live in ``folder/<encoder name>.{keys,vectors}.npy`` and are read once.

    New vectors are appended in memory and written on ``save`` (called every few thousand texts too). The files
    hold hashes of texts and float32 vectors, nothing else.
    """

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self._encoder = encoder
        folder.mkdir(parents=True, exist_ok=True)
        stem = encoder.name.replace("/", "_")
        self._keys_path = folder / f"{stem}.keys.npy"
        self._vectors_path = folder / f"{stem}.vectors.npy"
        self._rows: dict[bytes, int] = {}
        self._vectors: list[np.ndarray] = []
        if self._keys_path.exists() and self._vectors_path.exists():
            vectors = np.load(self._vectors_path, allow_pickle=False)
            keys = np.load(self._keys_path, allow_pickle=False)[: len(vectors)]
            self._vectors = list(vectors[: len(keys)])
            self._rows = {key.tobytes(): row for row, key in enumerate(keys)}
        self._unsaved = 0

    @property
    def name(self) -> str:
        """The wrapped encoder's name."""
        return self._encoder.name

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 unit vectors of shape ``(len(texts), dimension)``."""
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES] for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if missing:
            for key, vector in zip(missing, self._encoder.encode(list(missing.values())), strict=True):
                self._rows[key] = len(self._vectors)
                self._vectors.append(vector)
            self._unsaved += len(missing)
            if self._unsaved >= _SAVE_EVERY:
                self.save()
        if not texts:
            return np.zeros((0, self._vectors[0].shape[0] if self._vectors else 1), dtype=np.float32)
        return np.stack([self._vectors[self._rows[key]] for key in keys])

    def save(self) -> None:
        """Write everything known to the folder (vectors first, then their keys; each renamed into place)."""
        if not self._rows:
            return
        keys = np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, _KEY_BYTES)
        for path, array in ((self._vectors_path, np.stack(self._vectors)), (self._keys_path, keys)):
            partial = path.with_suffix(".partial.npy")
            np.save(partial, array)
            partial.replace(path)
        self._unsaved = 0
