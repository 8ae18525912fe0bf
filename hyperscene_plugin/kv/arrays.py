"""Named tensors ↔ a safetensors file, mapped when read: the one place that calls safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyperscene_plugin.errors import HypercodeCorruptError, HypercodeError, HypercodeNotFoundError

__all__ = ["array_name", "open_arrays", "write_arrays"]


def array_name(layer: int, array: str) -> str:
    """Return the name of a layer's array inside a safetensors file."""
    return f"layers.{layer}.{array}"


def write_arrays(arrays: Mapping[str, Tensor], file: Path) -> None:
    """Write arrays of any device as one safetensors file; those that overlap in memory are copied apart first.

    Raises:
        HypercodeError: the file cannot be written.
    """
    apart: dict[str, Tensor] = {}
    last = 0
    ready = {name: array.detach().cpu().contiguous() for name, array in arrays.items()}
    for name, array in sorted(ready.items(), key=lambda item: item[1].data_ptr()):
        apart[name] = array.clone() if array.data_ptr() < last else array
        last = max(last, array.data_ptr() + array.numel() * array.element_size())
    try:
        save_file(apart, file)
    except SafetensorError as error:
        raise HypercodeError(f"{file} could not be written ({error}). Check the rights and the free space") from error


def open_arrays(file: Path) -> Any:
    """Return safetensors' handle of a file, its header read and checked, its arrays mapped and not yet read.

    Raises:
        HypercodeNotFoundError: there is no such file.
        HypercodeCorruptError: it is no safetensors file.
    """
    try:
        return safe_open(str(file), framework="pt")
    except FileNotFoundError:
        raise HypercodeNotFoundError(f"{file} is missing") from None
    except (SafetensorError, OSError) as error:
        raise HypercodeCorruptError(f"{file} cannot be read as safetensors ({error}). Restore it") from error
