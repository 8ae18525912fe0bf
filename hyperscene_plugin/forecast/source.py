"""A model's name, file, folder or hub id → its configuration and, where weights lie beside it, their real size.

Nothing is loaded: a ``config.json`` is plain JSON, and a safetensors file says in its header how large each tensor is.
"""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperscene_plugin import demo_model
from hyperscene_plugin.errors import InputError, MissingPackageError, ModelNotFoundError
from hyperscene_plugin.forecast.references import REFERENCES, reference_names
from hyperscene_plugin.hub import why_unavailable

__all__ = ["ModelSource", "StoredWeights", "find_model"]

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights on disk: bytes and elements of all tensors, and bytes per dtype (safetensors' names where unknown)."""

    files: int
    bytes: int
    elements: int
    dtypes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's numbers come from: ``origin`` says it in words; ``stored`` is ``None`` without weight files."""

    name: str
    origin: str
    config: Mapping[str, Any]
    stored: StoredWeights | None


def find_model(model: str) -> ModelSource:
    """Return the configuration ``model`` stands for.

    Args:
        model: ``demo``, a folder with ``config.json``, such a file, a built-in name, or a hub id (``owner/name``).

    Raises:
        ModelNotFoundError: nothing there, or the hub does not give it.
        InputError: the file is not a JSON object, or a weight file beside it is damaged.
        MissingPackageError: a hub id was named and huggingface_hub is not installed.
    """
    if model == "demo":
        return _from_path("demo", demo_model.weights_path())
    try:
        path = Path(model).expanduser()
        found = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be entered, an unknown ~user
        raise ModelNotFoundError(f"{model[:80]!r} cannot be looked up: {error}") from error
    if found:
        return _from_path(model, path)
    if model.lower() in REFERENCES:
        config = REFERENCES[model.lower()]
        return ModelSource(model.lower(), f"built-in figures of {config['_name_or_path']}", config, None)
    if path.is_absolute() or model.startswith((".", "~")) or model.endswith(".json") or model.count("/") != 1:
        near = difflib.get_close_matches(model.lower(), reference_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelNotFoundError(
            f"no model {model!r}: {hint}Give 'demo', a folder with config.json, a config.json, a hub id (owner/name), "
            "or a name from `hyperscene forecast --list`"
        )
    return ModelSource(model, f"config.json of {model} on the hub", _read_json(_from_hub(model)), None)


def _from_path(name: str, path: Path) -> ModelSource:
    folder = path if path.is_dir() else path.parent
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json; give a model folder, or the file itself")
    return ModelSource(name, f"{file}", _read_json(file), _stored(folder) if file.name == "config.json" else None)


def _from_hub(model: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingPackageError("huggingface_hub", "model", f"reading {model!r} from the hub") from error
    reason = why_unavailable(model)
    if reason is not None:
        raise ModelNotFoundError(
            f"model {model!r} is not a file or folder here, and as a hub id {reason}. "
            "Built-in figures: `hyperscene forecast --list`"
        )
    try:
        return Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # the hub's errors and its HTTP client's, whichever client this version uses
        raise ModelNotFoundError(f"config.json of {model!r} could not be fetched from the hub: {error}") from error


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file} is not a readable JSON file ({error}); expected a model's config.json") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds {type(content).__name__}, expected a JSON object with model_type and sizes")
    return content


def _stored(folder: Path) -> StoredWeights | None:
    """Sum up the safetensors files of a folder: those its index names, or all. ``None`` without any."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict):
            raise InputError(f"{index} has no weight_map; get the file again")
        files = [folder / file for file in sorted({str(file) for file in named.values()})]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise InputError(f"{folder} lacks {', '.join(missing[:3])}, which {index.name} names; get the files again")
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    total, elements, dtypes = 0, 0, Counter[str]()
    for file in files:
        for tensor in _header(file).values():
            try:
                start, end = tensor["data_offsets"]
                elements += math.prod(tensor["shape"])
                dtypes[_DTYPES.get(tensor["dtype"], tensor["dtype"])] += end - start
                total += end - start
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{file}: damaged safetensors header ({error!r}); get the file again") from error
    return StoredWeights(len(files), total, elements, dict(dtypes))


def _header(file: Path) -> dict[str, Any]:
    """Return the tensors a safetensors file lists: eight bytes of length (little-endian), then JSON."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not a readable safetensors file ({error}); get the file again") from error
    if not isinstance(header, dict):
        raise InputError(f"{file}: the safetensors header is not a JSON object; get the file again")
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}
