"""Unit vectors → the most similar ones by cosine: sign codes pick candidates, the vectors themselves rank them.

Rows are kept as float16 (error of a cosine below 1e-3). The first pass compares one bit per dimension (is it above
the mean of the matrix?) by Hamming distance, as in Charikar 2002; small matrices are compared exactly at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.store.fulltext import best_positions

__all__ = ["VectorMatrix", "pack_vectors", "unit_rows", "unpack_vectors"]

_EXACT_ROWS = 4096
_EXACT_DIMENSION = 96
_MIN_CANDIDATES = 300


def unit_rows(vectors: np.ndarray, what: str) -> np.ndarray:
    """Return ``vectors`` (n, d) as float32 rows of L2 norm 1.

    Raises:
        InputError: not a 2-dimensional array of numbers, or a row that is zero or not finite.
    """
    try:
        rows = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: expected an array of numbers ({error})") from error
    if rows.ndim != 2 or not rows.shape[1]:
        raise InputError(f"{what}: expected shape (number, dimension), got {rows.shape}")
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise InputError(f"{what}: row {bad[0]} is zero or not finite; it has no direction to compare")
    return np.asarray(rows / norms[:, None], dtype=np.float32)


def pack_vectors(rows: np.ndarray) -> list[bytes]:
    """Return each row as float16 bytes (2·d, little-endian)."""
    return [row.tobytes() for row in rows.astype("<f2")]


def unpack_vectors(packed: list[bytes], dimension: int) -> np.ndarray:
    """Return packed rows as float16 (n, d)."""
    return np.frombuffer(b"".join(packed), dtype="<f2").reshape(len(packed), dimension)


@dataclass(frozen=True)
class VectorMatrix:
    """``rows`` (n, d) float16; ``codes`` (⌈d/64⌉, n) uint64 sign bits against ``mean`` (d,), ``None`` where exact."""

    rows: np.ndarray
    mean: np.ndarray
    codes: np.ndarray | None

    @classmethod
    def build(cls, rows: np.ndarray) -> VectorMatrix:
        """Index ``rows`` (n, d) float16; the array is kept, not copied."""
        mean = rows.mean(axis=0, dtype=np.float32)
        if len(rows) <= _EXACT_ROWS or rows.shape[1] < _EXACT_DIMENSION:
            return cls(rows, mean, None)
        parts = [_sign_codes(rows[start : start + 8192], mean) for start in range(0, len(rows), 8192)]
        return cls(rows, mean, np.ascontiguousarray(np.concatenate(parts).T))

    def nearest(
        self, query: np.ndarray, top: int, allowed: np.ndarray | None, *, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(positions, cosines)`` of the ``top`` best allowed rows, best first.

        Args:
            query: (d,) float32, L2 norm 1.
            allowed: (n,) bool, ``None`` for all rows.
            exact: compare every row itself.
        """
        places = np.arange(len(self.rows)) if allowed is None else np.flatnonzero(allowed)
        wanted = max(_MIN_CANDIDATES, 6 * top)
        if self.codes is not None and not exact and len(places) > 2 * wanted:
            places = self._candidates(query, wanted, None if allowed is None else places)
        cosines = _cosines(self.rows, places, query)
        best = best_positions(cosines, top)
        return places[best], cosines[best]

    def _candidates(self, query: np.ndarray, wanted: int, places: np.ndarray | None) -> np.ndarray:
        assert self.codes is not None
        code = _sign_codes(query[None, :], self.mean)[0]
        codes = self.codes if places is None else self.codes[:, places]
        distances = np.zeros(codes.shape[1], dtype=np.uint16)
        for plane, bits in zip(codes, code, strict=True):
            distances += np.bitwise_count(plane ^ bits)
        # a counting selection: distances are small integers, so the cut-off is found from their histogram
        cut = int(np.searchsorted(np.cumsum(np.bincount(distances)), wanted))
        chosen = np.flatnonzero(distances <= cut)
        return chosen if places is None else places[chosen]


def _sign_codes(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return (n, ⌈d/64⌉) uint64: bit = the value is above the mean."""
    bits = np.packbits(rows > mean, axis=1)
    padded = np.zeros((len(rows), -(-rows.shape[1] // 64) * 8), dtype=np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)


def _cosines(rows: np.ndarray, places: np.ndarray, query: np.ndarray) -> np.ndarray:
    cosines = np.empty(len(places), dtype=np.float32)
    for start in range(0, len(places), 4096):
        part = places[start : start + 4096]
        cosines[start : start + 4096] = rows[part].astype(np.float32) @ query
    return cosines
