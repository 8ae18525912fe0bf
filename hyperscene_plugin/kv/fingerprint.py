"""Two fingerprints (what a cache was built with, what is in use) → every difference, or the error that lists them.

A fingerprint maps names such as ``model_id``, ``weights_sha256`` or ``rope`` to strings. Keys are compared on both
sides: one that only one side has is a difference, since nothing vouches for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperscene_plugin.errors import FingerprintMismatchError

__all__ = ["Difference", "check_fingerprint", "fingerprint_differences"]

Difference = tuple[str, str | None, str | None]
"""``(key, stored, expected)``; ``None`` where one side lacks the key."""


def fingerprint_differences(stored: Mapping[str, str], expected: Mapping[str, str]) -> tuple[Difference, ...]:
    """Return what differs, ordered by key; empty where the fingerprints are equal."""
    keys = sorted(stored.keys() | expected.keys())
    return tuple((key, stored.get(key), expected.get(key)) for key in keys if stored.get(key) != expected.get(key))


def check_fingerprint(stored: Mapping[str, str], expected: Mapping[str, str], where: str) -> None:
    """Return where the fingerprints are equal; ``where`` names the cache in the message.

    Raises:
        FingerprintMismatchError: they are not; its message and ``differences`` list every difference.
    """
    differences = fingerprint_differences(stored, expected)
    if differences:
        raise FingerprintMismatchError(where, differences)
