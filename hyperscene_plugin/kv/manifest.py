"""manifest.json ↔ a checked dictionary: what a stored compact cache is, and the size and SHA-256 of its files.

    manifest.json            this; its own hash stands under ``manifest_sha256``
    hypercode.safetensors    the slots of every layer, and the token ids
    verbatim.safetensors     the full keys and values, where they were kept
    source.md                the scenes' texts, one after another

JSON only. Keys that this release does not know are kept and ignored. Numbers that JSON lacks are the strings "nan",
"inf" and "-inf".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from hyperscene_plugin.errors import (
    HypercodeCorruptError,
    HypercodeError,
    HypercodeNotFoundError,
    HypercodeVersionError,
)

__all__ = [
    "MANIFEST",
    "SLOTS",
    "SOURCE",
    "VERBATIM",
    "check_files",
    "describe_file",
    "manifest_bytes",
    "number",
    "parse_manifest",
    "problems",
    "read_manifest",
]

MANIFEST: Final = "manifest.json"
SLOTS: Final = "hypercode.safetensors"
VERBATIM: Final = "verbatim.safetensors"
SOURCE: Final = "source.md"
FORMAT: Final = "hyperscene-hypercode"
SCHEMA_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 256 * 2**20
_SMALL_FILE_BYTES = 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HASH = re.compile(r"[0-9a-f]{64}")


def number(value: float) -> float | str:
    """Return the number as JSON can hold it; ``float()`` reads it back."""
    return float(value) if math.isfinite(value) else str(float(value))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return value in ("nan", "inf", "-inf") if isinstance(value, str) else type(value) in (int, float)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _is_list(of: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _is_map(of: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(isinstance(k, str) and of(v) for k, v in value.items())


def _is_record(**fields: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, dict) and all(name in value and check(value[name]) for name, check in fields.items())
    )


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


_SCENE = _is_record(
    start=_is_count, end=_is_count, key=_is_text, text_only=_is_text, text_start=_is_count, text_end=_is_count
)
_FILE = _is_record(size=_is_count, sha256=_is_hash)
_KEYS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "created_at": ("a time", _is_text),
    "fingerprint": ("strings by name", _is_map(_is_text)),
    "source_id": ("a string", _is_text),
    "source_sha256": ("a SHA-256", _is_hash),
    "num_source_tokens": ("a count", _is_count),
    "num_slots": ("a count", _is_count),
    "compaction_ratio": ("a number", _is_number),
    "quality": ("a string", _is_text),
    "dtype": ("a string", _is_text),
    "storage": ("a string", _is_text),
    "windows": ("counts or nulls", _is_list(lambda value: value is None or _is_count(value))),
    "block_starts": ("counts", _is_list(_is_count)),
    "zoom_bytes": ("a count", _is_count),
    "zoom_units": ("pairs of counts", _is_list(_is_pair)),
    "bytes_in_memory": ("a count", _is_count),
    "bytes_on_disk": ("a count", _is_count),
    "full_cache_bytes": ("a count", _is_count),
    "scenes": ("records of start, end, key, text_only, text_start, text_end", _is_list(_SCENE)),
    "fidelity": ("numbers by name", _is_map(_is_number)),
    "routing": ("numbers by name", _is_map(_is_number)),
    "notes": ("strings", _is_list(_is_text)),
    "files": ("records of size and sha256 by name", _is_map(_FILE)),
}


def problems(manifest: Mapping[str, Any]) -> list[str]:
    """Return what is missing or malformed, in words; empty for a good manifest."""
    found = []
    for key, (kind, check) in _KEYS.items():
        if key not in manifest:
            found.append(f"the key {key!r} is missing")
        elif not check(manifest[key]):
            found.append(f"{key!r} must be {kind}")
    if not found:
        files = manifest["files"]
        found += [f"{name!r} is not a plain file name" for name in files if not is_plain(name) or name == MANIFEST]
        found += [f"the file {name!r} is not listed under 'files'" for name in (SLOTS, SOURCE) if name not in files]
        ends = [0, *(scene[key] for scene in manifest["scenes"] for key in ("start", "end"))]
        if sorted(ends) != ends or ends[-1] > manifest["num_source_tokens"]:
            found.append(f"scenes must ascend within the source's {manifest['num_source_tokens']} tokens")
        ends = [0, *(place for unit in manifest["zoom_units"] for place in unit)]
        if sorted(ends) != ends or ends[-1] > manifest["num_source_tokens"]:
            found.append(f"zoom units must ascend within the source's {manifest['num_source_tokens']} tokens")
    return found


def is_plain(name: str) -> bool:
    """Tell whether a file may have that name: letters, digits, ``. _ -``, no folder, not hidden."""
    return _FILE_NAME.fullmatch(name) is not None


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return the manifest as the bytes of its file, with format, version and its own hash."""
    full = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **manifest}
    full["manifest_sha256"] = _own_hash(full)
    return (json.dumps(full, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode("utf-8", "surrogatepass")


def _own_hash(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """Return the manifest that the bytes hold; ``where`` names their file in messages.

    Raises:
        HypercodeVersionError: a newer release wrote it.
        HypercodeCorruptError: not JSON, no manifest of a compact cache, a key missing or malformed, or changed since.
    """
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HypercodeCorruptError(f"{where} is not JSON ({error}). Restore it, or build the cache anew") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise HypercodeCorruptError(f"{where} is no manifest of a compact cache: its 'format' is not {FORMAT!r}")
    version: Any = manifest.get("schema_version")
    if not _is_count(version) or version == 0:
        raise HypercodeCorruptError(f"{where}: 'schema_version' must be a count from 1; found {version!r}")
    if version > SCHEMA_VERSION:
        raise HypercodeVersionError(
            f"{where} has schema version {version}; this release reads up to {SCHEMA_VERSION}. "
            "Upgrade hyperscene-plugin, or build the cache anew"
        )
    found = problems(manifest)
    if "manifest_sha256" not in manifest:
        found.append("the key 'manifest_sha256' is missing")
    if found:
        raise HypercodeCorruptError(f"{where}: {'; '.join(found)}. Restore it, or build the cache anew")
    if manifest["manifest_sha256"] != _own_hash(manifest):
        raise HypercodeCorruptError(
            f"{where} was changed after it was written: its hash is {_own_hash(manifest)}, stored was "
            f"{manifest['manifest_sha256']}. Restore it, or build the cache anew"
        )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder; no other file is touched.

    Raises:
        HypercodeNotFoundError: no such folder, or no manifest in it.
        HypercodeVersionError, HypercodeCorruptError: as ``parse_manifest``.
        HypercodeError: it cannot be read, or ``folder`` is a file.
    """
    file = folder / MANIFEST
    try:
        if folder.is_file():
            raise HypercodeError(f"{folder} is a file, not the folder of a compact cache. Unpack it first")
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise HypercodeCorruptError(f"{file} has more than {MAX_MANIFEST_BYTES} bytes, no manifest has")
        return parse_manifest(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise HypercodeNotFoundError(f"no compact cache in {folder}: {file} is missing") from None
    except (OSError, ValueError) as error:
        raise HypercodeError(f"{file} could not be read ({error}). Check the path and the rights") from error


def describe_file(file: Path) -> dict[str, Any]:
    """Return ``{"size": bytes, "sha256": hex}`` of a file."""
    with file.open("rb") as opened:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}


def check_files(folder: Path, manifest: Mapping[str, Any], verify: Literal["fast", "full"]) -> None:
    """Check the files that the manifest lists.

    ``full`` hashes every byte. ``fast`` compares all sizes and hashes the source text and what is no larger than
    1 MiB: a truncated, missing or exchanged file is found, a flipped bit inside a large tensor file is not.

    Raises:
        HypercodeCorruptError: a file is missing, or its size or hash is not the stored one.
        HypercodeError: a file cannot be read.
    """
    for name, stored in manifest["files"].items():
        file = folder / name
        try:
            size = file.stat().st_size
            if size != stored["size"]:
                raise HypercodeCorruptError(f"{file} has {size} bytes, stored were {stored['size']}. Restore it")
            if verify == "full" or name == SOURCE or size <= _SMALL_FILE_BYTES:
                digest = describe_file(file)["sha256"]
                if digest != stored["sha256"]:
                    raise HypercodeCorruptError(
                        f"{file} has SHA-256 {digest}, stored was {stored['sha256']}. Restore it, or build it anew"
                    )
        except FileNotFoundError:
            raise HypercodeCorruptError(f"{file} is missing. Restore it, or build the cache anew") from None
        except OSError as error:
            raise HypercodeError(f"{file} could not be read ({error}). Check the rights") from error
