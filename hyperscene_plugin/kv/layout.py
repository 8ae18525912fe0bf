"""The records of a compact key/value cache: ragged slots per layer and head, the scenes they stand for, their bytes.

CompactCache        one source (a document, a chat), compacted: what is saved, loaded and composed
  └ LayerSlots      one layer's slots, keys un-rotated; head h owns rows offsets[h]:offsets[h + 1]
AssembledContext    caches chosen for a prompt, rotated to their positions: what attention reads
  └ AssembledLayer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError

__all__ = [
    "AssembledContext",
    "AssembledLayer",
    "CompactCache",
    "LayerSlots",
    "SceneSpan",
    "VerbatimKV",
    "bytes_of",
    "stack_heads",
]


@dataclass(frozen=True, slots=True)
class SceneSpan:
    """Tokens ``start:end`` of the source, the scene that they are, and whether it may be used as hypercode.

    ``text_only`` says why a scene must go in as text instead (fidelity below the threshold), else it is empty.
    """

    start: int
    end: int
    text: str
    key: str
    text_only: str = ""

    @property
    def num_tokens(self) -> int:
        """Source tokens of the scene."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class LayerSlots:
    """The slots of one layer, all heads in one flat array: no padding.

    ``keys`` and ``values`` have shape (slots, head_dim), keys before rotary embedding; ``bias`` (slots,) float32 is
    added to the scaled score; ``offsets`` (num_kv_heads + 1,) int32; ``source_index`` (slots,) int32 is the source
    token whose key a slot carries, ascending within a head. ``window`` is the sliding window of the layer in tokens
    (its slots are then the last tokens, kept verbatim), or ``None`` for a global layer.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    offsets: Tensor
    source_index: Tensor
    window: int | None = None

    def __post_init__(self) -> None:
        slots = self.keys.shape[0]
        if self.keys.dim() != 2 or self.values.shape != self.keys.shape:
            raise InputError(
                f"slots need keys and values of one shape (slots, head_dim); got {tuple(self.keys.shape)} and "
                f"{tuple(self.values.shape)}"
            )
        if self.bias.shape != (slots,) or self.source_index.shape != (slots,):
            raise InputError(
                f"{slots} slots need as many biases and source indices; got {tuple(self.bias.shape)} and "
                f"{tuple(self.source_index.shape)}"
            )
        ends = self.offsets.tolist()
        if not ends or ends[0] != 0 or ends[-1] != slots or any(a > b for a, b in pairwise(ends)):
            raise InputError(f"head offsets must ascend from 0 to {slots}; got {ends}")

    @property
    def num_heads(self) -> int:
        """Key/value heads of the layer."""
        return len(self.offsets) - 1

    @property
    def num_slots(self) -> int:
        """Slots of all heads together."""
        return self.keys.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all five arrays."""
        return bytes_of(self.keys, self.values, self.bias, self.offsets, self.source_index)

    def head(self, head: int) -> slice:
        """Return the rows of one head."""
        return slice(int(self.offsets[head]), int(self.offsets[head + 1]))

    def only(self, keep: Tensor) -> LayerSlots:
        """Return the slots where ``keep`` (slots,) is true; nothing is shared with the original."""
        ends = self.offsets.tolist()
        counts = [int(keep[a:b].sum()) for a, b in pairwise(ends)]
        offsets = torch.tensor([0, *counts], dtype=torch.int64).cumsum(0).to(torch.int32)
        return LayerSlots(
            self.keys[keep], self.values[keep], self.bias[keep], offsets, self.source_index[keep], self.window
        )


class VerbatimKV(Protocol):
    """The uncompacted keys and values of a source, kept outside the model's memory (a file, host memory)."""

    def read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return un-rotated keys and values of tokens ``start:end``, each (num_kv_heads, tokens, head_dim)."""
        ...

    def read_keys(self, layer: int, head: int) -> Tensor:
        """Return the un-rotated keys of one head for all tokens, (tokens, head_dim)."""
        ...

    def has_layer(self, layer: int) -> bool:
        """Tell whether a layer can be read; those with a sliding window are not kept."""
        ...

    @property
    def num_tokens(self) -> int:
        """Source tokens that can be read."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes it takes where it lies."""
        ...


@dataclass(frozen=True, slots=True)
class CompactCache:
    """One source as a compact cache. Frozen: every change gives a new one.

    ``token_ids`` are the source's tokens (num_source_tokens,); ``scenes`` tile them. ``block_starts`` are the tokens
    at which a new block was prefilled (``(0,)`` for a source that fits the window): scenes of one block have seen each
    other. ``fingerprint`` names the model, tokenizer, rope and prefix that it belongs to; ``fidelity`` holds the
    held-out measurements of the compaction; ``routing`` maps ``"layer.head"`` to how well that head points at scenes.
    ``verbatim`` is where the full keys and values can be read, if they were kept. ``zoom_units`` are the token spans
    (sentences) that may be read from there at query time, within ``zoom_bytes`` in all.
    """

    layers: tuple[LayerSlots, ...]
    scenes: tuple[SceneSpan, ...]
    token_ids: Tensor
    compaction_ratio: float
    full_nbytes: int
    quality: str
    fingerprint: Mapping[str, str]
    source_id: str = ""
    block_starts: tuple[int, ...] = (0,)
    zoom_bytes: int = 0
    zoom_units: tuple[tuple[int, int], ...] = ()
    fidelity: Mapping[str, float] = field(default_factory=dict)
    routing: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verbatim: VerbatimKV | None = None

    @property
    def num_source_tokens(self) -> int:
        """Tokens of the source."""
        return len(self.token_ids)

    @property
    def num_slots(self) -> int:
        """Slots of all layers and heads together."""
        return sum(layer.num_slots for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of the slots in memory, with their biases, offsets and indices."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def byte_ratio(self) -> float:
        """Bytes of the full cache of the same source and dtype ÷ bytes of this one."""
        return self.full_nbytes / self.nbytes if self.nbytes else float("inf")

    def save(self, folder: str | Path, *, storage: Literal["same", "int8"] = "same", overwrite: bool = False) -> Path:
        """Save as a folder of safetensors files and a manifest; see ``kv.storage.save_compact``."""
        from hyperscene_plugin.kv.storage import save_compact

        return save_compact(self, folder, storage=storage, overwrite=overwrite)

    @property
    def tokens_per_hypertoken(self) -> float:
        """Source tokens ÷ mean slots per layer and head: what one hypertoken stands for."""
        heads = sum(layer.num_heads for layer in self.layers)
        return self.num_source_tokens * heads / self.num_slots if self.num_slots else float("inf")


@dataclass(frozen=True, slots=True)
class AssembledLayer:
    """One layer of an assembled context: rotated keys (slots, head_dim), values, bias (slots,) float32, offsets.

    ``positions`` (slots,) int64 are logical; only layers with a ``window`` use them.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    offsets: tuple[int, ...]
    positions: Tensor
    window: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held while generating."""
        return bytes_of(self.keys, self.values, self.bias) + (bytes_of(self.positions) if self.window else 0)

    def head(self, head: int) -> slice:
        """Return the rows of one head."""
        return slice(self.offsets[head], self.offsets[head + 1])


@dataclass(frozen=True, slots=True)
class AssembledContext:
    """What stands before the live tokens: the fixed prefix and the chosen caches, at consecutive positions.

    ``num_positions`` is the logical length: the first live token sits there, though fewer entries are held.
    """

    layers: tuple[AssembledLayer, ...]
    num_positions: int

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)


def bytes_of(*tensors: Tensor) -> int:
    """Return the bytes of the tensors' elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def stack_heads(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return ``(all rows, offsets)`` of one tensor per head."""
    counts = torch.tensor([0, *(len(part) for part in parts)], dtype=torch.int64)
    return torch.cat(list(parts)), counts.cumsum(0).to(torch.int32)
