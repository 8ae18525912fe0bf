"""Compact caches, and the scenes of them that are wanted → one context at consecutive positions behind one prefix.

    [prefix ‖ cache A: slots of its active scenes, zoomed spans verbatim ‖ cache B … ] → live tokens

Logical lengths stay: the next token sits after everything that the slots stand for. Where that would pass the window,
the scenes that are not active give up their positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hyperscene_plugin.errors import BudgetError, InputError
from hyperscene_plugin.kv.layout import AssembledContext, AssembledLayer, CompactCache, LayerSlots
from hyperscene_plugin.kv.rope import rotate
from hyperscene_plugin.model.prefill import SourceKV
from hyperscene_plugin.model.rope_of import ModelRope

__all__ = ["ContextPart", "assemble_context", "place_parts"]

_TURNED_ROWS = 8192


@dataclass(frozen=True, slots=True)
class ContextPart:
    """One cache in a prompt: ``scenes`` (numbers, ``None`` for all) as hypercode, ``zoomed`` token spans verbatim."""

    cache: CompactCache
    scenes: tuple[int, ...] | None = None
    zoomed: tuple[tuple[int, int], ...] = field(default=())

    def active(self) -> Tensor:
        """Return (num_source_tokens,) bool: tokens whose scenes are in the prompt."""
        cache = self.cache
        if self.scenes is None:
            return torch.ones(cache.num_source_tokens, dtype=torch.bool)
        unknown = [scene for scene in self.scenes if not 0 <= scene < len(cache.scenes)]
        if unknown:
            raise InputError(f"source {cache.source_id!r} has {len(cache.scenes)} scenes; there is no scene {unknown}")
        mask = torch.zeros(cache.num_source_tokens, dtype=torch.bool)
        for scene in self.scenes:
            mask[cache.scenes[scene].start : cache.scenes[scene].end] = True
        return mask


def place_parts(parts: Sequence[ContextPart], start: int, room: int) -> tuple[list[Tensor], int]:
    """Return each part's logical position of every source token, and the position after the last.

    Sources keep their own gaps while everything fits in ``room`` positions; else each closes up to its active tokens.

    Raises:
        BudgetError: the active scenes do not fit the window even closed up.
    """
    if sum(part.cache.num_source_tokens for part in parts) <= room:
        places, at = [], start
        for part in parts:
            places.append(torch.arange(at, at + part.cache.num_source_tokens))
            at += part.cache.num_source_tokens
        return places, at
    masks = [part.active() for part in parts]
    needed = sum(int(mask.sum()) for mask in masks)
    if needed > room:
        raise BudgetError(
            f"the chosen scenes stand for {needed} tokens and {room} positions are left in the model's window; "
            "choose fewer scenes, or let the relevance gate choose (gate=True)"
        )
    places, at = [], start
    for mask in masks:
        places.append(at + mask.long().cumsum(0) - 1)
        at += int(mask.sum())
    return places, at


def assemble_context(prefix: SourceKV, parts: Sequence[ContextPart], rope: ModelRope, room: int) -> AssembledContext:
    """Build the context on the prefix's device and in its dtype.

    Args:
        prefix: the fixed prefix, prefilled (a source of no tokens).
        parts: caches in the order of their positions.
        room: positions that may be used behind the prefix.

    Raises:
        BudgetError: more positions are needed than there are.
        InputError: a span is to be zoomed of a cache that keeps no verbatim keys and values.
    """
    places, end = place_parts(parts, prefix.num_prefix, room)
    base = prefix.context(prefix_only=True)
    masks = [(part.active(), _zoom_mask(part)) for part in parts]
    layers = []
    for number, own in enumerate(base.layers):
        pieces = [
            _rows(part, mask, zoom, place, number, rope, own)
            for part, (mask, zoom), place in zip(parts, masks, places, strict=True)
        ]
        layers.append(_joined(own, pieces))
    return AssembledContext(tuple(layers), end)


def _zoom_mask(part: ContextPart) -> Tensor:
    mask = torch.zeros(part.cache.num_source_tokens, dtype=torch.bool)
    for start, end in part.zoomed:
        mask[start:end] = True
    if part.zoomed and part.cache.verbatim is None:
        raise InputError(
            f"source {part.cache.source_id!r} keeps no verbatim keys and values to zoom in; compact it with "
            "zoom_share > 0"
        )
    return mask


def _rows(
    part: ContextPart, mask: Tensor, zoom: Tensor, place: Tensor, number: int, rope: ModelRope, like: AssembledLayer
) -> AssembledLayer:
    """Return one cache's rows of one layer: slots of active scenes, and every head's entries of the zoomed spans."""
    slots = part.cache.layers[number]
    device, dtype = like.keys.device, like.keys.dtype
    owner = slots.source_index.long()
    wanted = mask[owner] & ~zoom[owner] if slots.window is None else mask[owner]
    if not bool(wanted.all()):
        slots = slots.only(wanted)
    keys, values = [slots.keys.to(device, dtype)], [slots.values.to(device, dtype)]
    bias, index = [slots.bias.to(device)], [slots.source_index.long()]
    heads = [_head_numbers(slots)]
    if slots.window is None:
        assert part.cache.verbatim is not None or not part.zoomed
        for start, end in part.zoomed:
            full_keys, full_values = part.cache.verbatim.read(number, start, end)  # type: ignore[union-attr]
            count = end - start
            keys.append(full_keys.reshape(-1, full_keys.shape[2]).to(device, dtype))
            values.append(full_values.reshape(-1, full_values.shape[2]).to(device, dtype))
            bias.append(torch.zeros(full_keys.shape[0] * count, device=device))
            index.append(torch.arange(start, end).repeat(full_keys.shape[0]))
            heads.append(torch.repeat_interleave(torch.arange(full_keys.shape[0]), count))
    positions = place[torch.cat(index)].to(device)
    turned = _turned(keys[0] if len(keys) == 1 else torch.cat(keys), positions, number, rope)
    if len(keys) == 1:  # head by head already
        return AssembledLayer(turned, values[0], bias[0], tuple(slots.offsets.tolist()), positions, slots.window)
    head = torch.cat(heads)
    order = head.argsort(stable=True)
    counts = torch.bincount(head, minlength=slots.num_heads).cumsum(0).tolist()
    order = order.to(device)
    return AssembledLayer(
        turned[order], torch.cat(values)[order], torch.cat(bias)[order], (0, *counts), positions[order], slots.window
    )


def _turned(keys: Tensor, positions: Tensor, number: int, rope: ModelRope) -> Tensor:
    """Return the rotated keys of one layer; float32 angles and products are held for a part of the rows at a time."""
    turned = torch.empty_like(keys)
    for start in range(0, len(keys), _TURNED_ROWS):
        part = slice(start, start + _TURNED_ROWS)
        turned[part] = rotate(keys[part], *rope.cos_sin(positions[part], number))
    return turned


def _head_numbers(slots: LayerSlots) -> Tensor:
    ends = slots.offsets.long()
    return torch.repeat_interleave(torch.arange(slots.num_heads), ends[1:] - ends[:-1])


def _joined(prefix: AssembledLayer, pieces: Sequence[AssembledLayer]) -> AssembledLayer:
    """Return the rows of all pieces head by head, the prefix first."""
    everything = [prefix, *pieces]
    heads = len(prefix.offsets) - 1

    def gather(name: str) -> Tensor:
        return torch.cat([getattr(piece, name)[piece.head(head)] for head in range(heads) for piece in everything])

    ends = [0]
    for head in range(heads):
        ends.append(ends[-1] + sum(piece.offsets[head + 1] - piece.offsets[head] for piece in everything))
    return AssembledLayer(
        gather("keys"), gather("values"), gather("bias"), tuple(ends), gather("positions"), prefix.window
    )
