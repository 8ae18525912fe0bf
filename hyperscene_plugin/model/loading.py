"""A model's path or id → a loaded transformers model and tokenizer, with every refusal explained beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyperscene_plugin import demo_model
from hyperscene_plugin.errors import (
    ConfigError,
    MissingPackageError,
    ModelError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from hyperscene_plugin.hub import why_unavailable

__all__ = ["load_pretrained"]

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_GIB = 1024**3


def load_pretrained(
    path_or_id: str,
    *,
    device_map: str | dict[str, Any] | None,
    dtype: str,
    quantization: object,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple[Any, Any, tuple[str, ...]]:
    """Return ``(model in eval mode, tokenizer, notes)``; errors as ``LocalModel.load``."""
    try:
        import torch
        import transformers
        from safetensors import SafetensorError
    except ImportError as error:
        raise MissingPackageError(error.name or "transformers", "model", "a local model") from error

    if dtype not in _DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}; got {dtype!r}")
    location = str(demo_model.weights_path()) if path_or_id == "demo" else path_or_id
    _check_folder(path_or_id, Path(location).expanduser())
    common = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": Path(location).expanduser().exists(),  # a folder is never looked up on the hub
    }
    config = _load_config(transformers, path_or_id, location, common)
    notes: tuple[str, ...] = ()
    quantization_config = _quantization_config(transformers, quantization)
    if quantization_config is not None and dtype == "auto":
        dtype = "float16"  # what bitsandbytes computes in; anything else it casts, with a warning a call
    if dtype == "auto" and config.dtype == torch.bfloat16 and not torch.cuda.is_available() and _is_small(location):
        dtype = "float32"
        notes = ("bfloat16 weights are computed in float32: faster on this processor",)
    if quantization_config is None:
        _check_memory(path_or_id, Path(location).expanduser(), dtype)
    try:
        auto_model: Any = transformers.AutoModelForCausalLM
        model, report = auto_model.from_pretrained(
            location,
            config=config,
            device_map=device_map,
            dtype=dtype,
            quantization_config=quantization_config,
            use_safetensors=True,
            output_loading_info=True,
            **common,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(location, **common)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(f"model {path_or_id!r} does not fit in the accelerator's memory: {error}") from error
    except ValueError as error:
        raise UnsupportedModelError(
            f"model {path_or_id!r} cannot be used as a causal language model: {error}"
        ) from error
    except (OSError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise ModelError(f"model {path_or_id!r} could not be loaded ({type(error).__name__}): {error}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        raise ModelError(
            f"model {path_or_id!r}: the weights files lack {sorted(report['missing_keys'])[:5]} and have other shapes "
            f"for {sorted(report['mismatched_keys'])[:5]}; transformers would fill these with random numbers. "
            "Get the files again"
        )
    tokenizer.model_max_length = int(1e30)  # the window is checked here, with an error and not with its warning
    return model.eval(), tokenizer, notes


def _check_folder(name: str, folder: Path) -> None:
    """Refuse a path that is not there or lacks files, before any library is asked to guess."""
    looks_local = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists()
    if not looks_local and name != "demo":
        reason = why_unavailable(name)
        if reason is not None:
            raise ModelNotFoundError(f"model {name!r} is not a folder here, and as a hub id {reason}")
        return
    if not folder.exists():
        raise ModelNotFoundError(f"no model at {folder}: the folder does not exist; give a model folder or a hub id")
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is a file; a model is a folder with config.json and *.safetensors")
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} has no config.json; found: {_listing(folder)}")
    if not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"{folder} has no *.safetensors weights (other formats are not loaded, they can run code); "
            f"found: {_listing(folder)}"
        )
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise ModelNotFoundError(f"{folder} has no tokenizer (tokenizer.json); found: {_listing(folder)}")


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:12]) + (" …" if len(names) > 12 else "") if names else "nothing"


def _load_config(transformers: Any, name: str, location: str, common: dict[str, Any]) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(location, **common)
    except ValueError as error:
        raise UnsupportedModelError(
            f"model {name!r}: {error}. Its architecture is not one transformers {transformers.__version__} knows, or "
            "it needs code from its repository (trust_remote_code=True runs that code; read it first)"
        ) from error
    except (OSError, json.JSONDecodeError) as error:
        raise ModelNotFoundError(
            f"model {name!r} is not a folder here and could not be fetched from the hub: {error}"
        ) from error
    architectures = config.architectures or []
    if not any(architecture.endswith(("ForCausalLM", "LMHeadModel")) for architecture in architectures):
        raise UnsupportedModelError(
            f"model {name!r} is {', '.join(architectures) or config.model_type}, not a causal language model; "
            "give a decoder-only model (…ForCausalLM)"
        )
    return config


def _quantization_config(transformers: Any, quantization: object) -> Any:
    if quantization is None or not isinstance(quantization, str):
        return quantization
    if quantization not in ("8bit", "4bit"):
        raise ConfigError(
            f"quantization must be '8bit', '4bit', None or a transformers quantisation config; got {quantization!r}"
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingPackageError("bitsandbytes", "quantization", f"quantization={quantization!r}") from error
    if quantization == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="float16")


def _is_small(location: str) -> bool:
    return sum(path.stat().st_size for path in Path(location).glob("*.safetensors")) < _GIB // 4


def _check_memory(name: str, folder: Path, dtype: str) -> None:
    """Compare the weights' bytes on disk, at the wanted dtype, with all memory accelerate can use."""
    from accelerate.utils import get_max_memory

    on_disk = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    if not on_disk:
        return
    needed = on_disk * (2 if dtype == "float32" and _stored_in_half(folder) else 1)
    available = sum(int(size) for size in get_max_memory().values())
    if needed > available:
        raise OutOfMemoryError(
            f"model {name!r} needs {needed / _GIB:.2f} GiB for its weights; {available / _GIB:.2f} GiB are free on all "
            "devices together. Close other programs, use a smaller model, or quantization='4bit'"
        )


def _stored_in_half(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("dtype", config.get("torch_dtype")) in ("bfloat16", "float16")
