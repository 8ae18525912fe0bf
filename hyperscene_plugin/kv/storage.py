"""A compact cache ↔ a folder of safetensors, JSON and text: whole or not there, checked when it is loaded.

Arrays of ``hypercode.safetensors``: ``token_ids``, and per layer N ``layers.N.keys``, ``.values``, ``.bias``,
``.offsets``, ``.source_index``; stored as int8 also ``.key_scale`` and ``.value_scale``. See ``manifest`` for the
folder, ``staging`` for how it is written, ``archive`` for the one-file form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from hyperscene_plugin.errors import HypercodeCorruptError, HypercodeError, HypercodeNotFoundError, InputError
from hyperscene_plugin.kv.archive import pack, unpack
from hyperscene_plugin.kv.arrays import array_name, open_arrays, write_arrays
from hyperscene_plugin.kv.fingerprint import check_fingerprint
from hyperscene_plugin.kv.layout import CompactCache, LayerSlots, SceneSpan
from hyperscene_plugin.kv.manifest import (
    MANIFEST,
    SLOTS,
    SOURCE,
    VERBATIM,
    check_files,
    describe_file,
    manifest_bytes,
    number,
    problems,
    read_manifest,
)
from hyperscene_plugin.kv.quantise import QuantisedLayer, dequantise_layer, quantise_layer
from hyperscene_plugin.kv.staging import is_temporary, replaced_folders, staged_folder
from hyperscene_plugin.kv.verbatim import FileVerbatim, MemoryVerbatim

__all__ = [
    "FileVerbatim",
    "MemoryVerbatim",
    "inspect_compact",
    "load_compact",
    "pack",
    "save_compact",
    "unpack",
]

Storage = Literal["same", "int8"]

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32)}
_INTEGERS = (torch.int32, torch.int64)
_ARRAYS = ("keys", "values", "bias", "offsets", "source_index")
_INT8_NOTE = "keys and values were stored as int8; the fidelity was measured before"


def save_compact(
    cache: CompactCache, folder: str | Path, *, storage: Storage = "same", overwrite: bool = False
) -> Path:
    """Write a cache as a folder and return its path; the cache is not changed.

    ``storage="int8"`` stores keys and values in eight bits with one scale per slot; they come back in their dtype,
    and a note says so. Verbatim keys and values are written as they are. The cache may be one loaded from the very
    folder that it replaces.

    Raises:
        InputError: the cache cannot be stored (dtypes, shapes, numbers that are not finite as int8). Nothing was
            written.
        HypercodeError: the folder exists and ``overwrite`` is false, holds other things, or cannot be written. What
            was there before still is.
    """
    if storage not in ("same", "int8"):
        raise InputError(f"storage must be 'same' or 'int8'; got {storage!r}")
    _check_cache(cache)
    arrays = _arrays_of(cache, storage)
    verbatim = _verbatim_of(cache)
    text, scenes = _text_of(cache)
    manifest = _manifest_of(cache, storage, text, scenes)
    found = problems(manifest)
    if found:
        raise InputError(f"this cache cannot be stored: {'; '.join(found)}")
    with staged_folder(Path(folder), overwrite=overwrite, known=(MANIFEST, SLOTS, VERBATIM, SOURCE)) as staged:
        (staged / SOURCE).write_bytes(text)
        write_arrays(arrays, staged / SLOTS)
        if verbatim:
            write_arrays(verbatim, staged / VERBATIM)
        files = {file.name: describe_file(file) for file in sorted(staged.iterdir())}
        manifest |= {"files": files, "bytes_on_disk": sum(file["size"] for file in files.values())}
        (staged / MANIFEST).write_bytes(manifest_bytes(manifest))
    return Path(folder)


def load_compact(
    folder: str | Path,
    *,
    expected: Mapping[str, str] | None = None,
    verify: Literal["fast", "full"] = "fast",
) -> CompactCache:
    """Return the cache that a folder holds, its arrays mapped from the file and read when they are used.

    ``expected`` is the fingerprint in use, compared key by key; ``None`` compares nothing. ``verify="fast"`` compares
    the sizes of all files and hashes the text and files up to 1 MiB; ``"full"`` hashes everything. Slots stored as
    int8 are dequantised, so read, at once.

    The arrays are views of a private mapping: writing into one changes neither the file nor another load. They stay
    valid when the folder is deleted or replaced (on Windows it cannot be while they live).

    Raises:
        HypercodeNotFoundError: no compact cache there.
        HypercodeVersionError: a newer release wrote it.
        FingerprintMismatchError: it belongs to another model, tokenizer, rope or prefix; every difference is listed.
        HypercodeCorruptError: a file is missing, cut off or changed, or the files contradict each other.
        HypercodeError: a file cannot be read.
    """
    if verify not in ("fast", "full"):
        raise InputError(f"verify must be 'fast' or 'full'; got {verify!r}")
    folder = Path(folder)
    manifest = inspect_compact(folder)
    if expected is not None:
        check_fingerprint(manifest["fingerprint"], expected, f"the compact cache in {folder}")
    check_files(folder, manifest, verify)
    try:
        return _cache_of(folder, manifest)
    except (InputError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise HypercodeCorruptError(f"{folder}: its files contradict each other ({error}). Restore it") from error
    except OSError as error:
        raise HypercodeError(f"{folder} could not be read ({error})") from error


def inspect_compact(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a stored cache as a dictionary; no other file is touched.

    Raises:
        HypercodeNotFoundError: no compact cache there (what an interrupted save left is none).
        HypercodeVersionError: a newer release wrote it.
        HypercodeCorruptError: the manifest is damaged, or lacks a key; the message names it.
        HypercodeError: it cannot be read.
    """
    folder = Path(folder)
    if is_temporary(folder):
        raise HypercodeNotFoundError(f"{folder} is what an interrupted save left, no compact cache. Delete it")
    try:
        return read_manifest(folder)
    except HypercodeNotFoundError as error:
        former = replaced_folders(folder)
        if not former:
            raise
        raise HypercodeNotFoundError(
            f"{error}. Replacing it was interrupted; the former one is {former[0]}, rename it back"
        ) from None


def _check_cache(cache: CompactCache) -> None:
    if not cache.layers:
        raise InputError("a cache without layers cannot be stored")
    dtypes = {part.dtype for layer in cache.layers for part in (layer.keys, layer.values)}
    if len(dtypes) != 1 or not dtypes <= set(_DTYPES.values()):
        raise InputError(f"keys and values must all be one of {', '.join(_DTYPES)}; got {sorted(map(str, dtypes))}")
    if cache.token_ids.dim() != 1 or cache.token_ids.dtype not in _INTEGERS:
        raise InputError(
            f"token ids must be int32 or int64 (num_source_tokens,); got {cache.token_ids.dtype} "
            f"{tuple(cache.token_ids.shape)}"
        )
    for place, layer in enumerate(cache.layers):
        kinds = (layer.bias.dtype, layer.offsets.dtype, layer.source_index.dtype)
        if kinds != (torch.float32, torch.int32, torch.int32):
            raise InputError(f"layer {place}: bias, offsets and indices must be float32, int32, int32; got {kinds}")
        index = layer.source_index
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < cache.num_source_tokens:
            raise InputError(f"layer {place}: source indices lie outside the {cache.num_source_tokens} tokens")


def _arrays_of(cache: CompactCache, storage: Storage) -> dict[str, Tensor]:
    arrays = {"token_ids": cache.token_ids}
    for layer, slots in enumerate(cache.layers):
        kept: LayerSlots | QuantisedLayer = slots
        names: tuple[str, ...] = _ARRAYS
        if storage == "int8":
            kept, names = quantise_layer(slots), (*_ARRAYS, "key_scale", "value_scale")
        arrays |= {array_name(layer, name): getattr(kept, name) for name in names}
    return arrays


def _verbatim_of(cache: CompactCache) -> dict[str, Tensor]:
    if cache.verbatim is None:
        return {}
    arrays: dict[str, Tensor] = {}
    for layer, slots in enumerate(cache.layers):
        if slots.window is not None:  # never zoomed: its window is whole already
            continue
        keys, values = cache.verbatim.read(layer, 0, cache.num_source_tokens)
        wanted = (slots.num_heads, cache.num_source_tokens, slots.keys.shape[1])
        if tuple(keys.shape) != wanted or tuple(values.shape) != wanted or not keys.is_floating_point():
            raise InputError(
                f"layer {layer}: verbatim keys and values must be floats {wanted}; "
                f"got {tuple(keys.shape)} and {tuple(values.shape)}"
            )
        arrays |= {array_name(layer, "keys"): keys, array_name(layer, "values"): values}
    return arrays


def _text_of(cache: CompactCache) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the source as UTF-8, and the scenes with where they lie in it, in characters."""
    records, at = [], 0
    for scene in cache.scenes:
        tokens = {"start": scene.start, "end": scene.end, "key": scene.key, "text_only": scene.text_only}
        records.append({**tokens, "text_start": at, "text_end": at + len(scene.text)})
        at += len(scene.text)
    try:
        return "".join(scene.text for scene in cache.scenes).encode(), records
    except UnicodeEncodeError as error:
        raise InputError(f"the scenes' text cannot be stored as UTF-8 ({error})") from error


def _manifest_of(cache: CompactCache, storage: Storage, text: bytes, scenes: list[dict[str, Any]]) -> dict[str, Any]:
    note = () if storage == "same" or _INT8_NOTE in cache.notes else (_INT8_NOTE,)
    unwritten = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": dict(cache.fingerprint),
        "source_id": cache.source_id,
        "source_sha256": hashlib.sha256(text).hexdigest(),
        "num_source_tokens": cache.num_source_tokens,
        "num_slots": cache.num_slots,
        "compaction_ratio": number(cache.compaction_ratio),
        "quality": cache.quality,
        "dtype": str(cache.layers[0].keys.dtype).removeprefix("torch."),
        "storage": storage,
        "windows": [layer.window for layer in cache.layers],
        "block_starts": list(cache.block_starts),
        "zoom_bytes": cache.zoom_bytes,
        "zoom_units": [list(unit) for unit in cache.zoom_units],
        "bytes_in_memory": cache.nbytes,
        "bytes_on_disk": 0,
        "full_cache_bytes": cache.full_nbytes,
        "scenes": scenes,
        "fidelity": {key: number(value) for key, value in cache.fidelity.items()},
        "routing": {key: number(value) for key, value in cache.routing.items()},
        "notes": [*cache.notes, *note],
        "files": {SLOTS: unwritten, SOURCE: unwritten},
    }


def _cache_of(folder: Path, manifest: Mapping[str, Any]) -> CompactCache:
    text = (folder / SOURCE).read_bytes()
    windows = manifest["windows"]
    digest = hashlib.sha256(text).hexdigest()
    if digest != manifest["source_sha256"]:
        raise InputError(f"the source text has SHA-256 {digest}, stored was {manifest['source_sha256']}")
    source = text.decode()
    handle = open_arrays(folder / SLOTS)
    cache = CompactCache(
        layers=tuple(_layer_of(handle, layer, manifest) for layer in range(len(windows))),
        scenes=_scenes_of(source, manifest["scenes"]),
        token_ids=handle.get_tensor("token_ids"),
        compaction_ratio=float(manifest["compaction_ratio"]),
        full_nbytes=manifest["full_cache_bytes"],
        quality=manifest["quality"],
        fingerprint=manifest["fingerprint"],
        source_id=manifest["source_id"],
        block_starts=tuple(manifest["block_starts"]),
        zoom_bytes=manifest["zoom_bytes"],
        zoom_units=tuple((start, end) for start, end in manifest["zoom_units"]),
        fidelity={key: float(value) for key, value in manifest["fidelity"].items()},
        routing={key: float(value) for key, value in manifest["routing"].items()},
        notes=tuple(manifest["notes"]),
        verbatim=FileVerbatim(folder / VERBATIM, len(windows)) if VERBATIM in manifest["files"] else None,
    )
    if cache.verbatim is not None:
        lacking = [n for n, window in enumerate(windows) if window is None and not cache.verbatim.has_layer(n)]
        if lacking:
            raise InputError(f"{VERBATIM} lacks the keys and values of the layers {lacking}")
    for what, held in (("num_source_tokens", cache.num_source_tokens), ("num_slots", cache.num_slots)):
        if held != manifest[what]:
            raise InputError(f"{SLOTS} holds {held} for {what}, the manifest {manifest[what]}")
    return cache


def _layer_of(handle: Any, layer: int, manifest: Mapping[str, Any]) -> LayerSlots:
    arrays = {name: handle.get_tensor(array_name(layer, name)) for name in _ARRAYS}
    window, dtype = manifest["windows"][layer], _DTYPES[manifest["dtype"]]
    if manifest["storage"] == "int8":
        scales = {name: handle.get_tensor(array_name(layer, name)) for name in ("key_scale", "value_scale")}
        return dequantise_layer(QuantisedLayer(**arrays, **scales, dtype=dtype, window=window))
    if arrays["keys"].dtype != dtype or arrays["values"].dtype != dtype or manifest["storage"] != "same":
        raise InputError(f"layer {layer} holds {arrays['keys'].dtype} stored as {manifest['storage']!r}, not {dtype}")
    return LayerSlots(**arrays, window=window)


def _scenes_of(source: str, records: list[dict[str, Any]]) -> tuple[SceneSpan, ...]:
    ends = [0, *(record[key] for record in records for key in ("text_start", "text_end")), len(source)]
    if any(a > b for a, b in pairwise(ends)):
        raise InputError(f"the scenes' text offsets do not ascend within the {len(source)} characters of {SOURCE}")
    return tuple(
        SceneSpan(
            start=record["start"],
            end=record["end"],
            text=source[record["text_start"] : record["text_end"]],
            key=record["key"],
            text_only=record["text_only"],
        )
        for record in records
    )
