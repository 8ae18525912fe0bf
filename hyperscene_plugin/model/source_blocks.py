"""The parts of a compaction: a block's budget, what was read of it, what became of it; and joining blocks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hyperscene_plugin.kv.budgets import bytes_per_slot
from hyperscene_plugin.kv.layout import CompactCache, LayerSlots, SceneSpan, VerbatimKV
from hyperscene_plugin.model.compactor import BlockScores, CompactBlock, full_global_bytes, window_bytes
from hyperscene_plugin.model.prefill import SourceKV
from hyperscene_plugin.model.references import ReferenceBatch
from hyperscene_plugin.types import Scene

__all__ = [
    "Budget",
    "FinishedBlock",
    "ScoredBlock",
    "block_file",
    "default_zoom_share",
    "hash_text",
    "join_slots",
    "join_verbatim",
    "mean_of",
    "part_of",
    "weights_hash",
]


def default_zoom_share(compaction_ratio: float) -> float:
    """Return the part of the budget that is kept for zoom: a half up to 20×, nine tenths from 50× on.

    The smaller the budget, the less of a source fits in slots, and the more a sentence read verbatim is worth.
    """
    if compaction_ratio <= 20:
        return 0.5
    return min(0.9, 0.5 + 0.4 * math.log(compaction_ratio / 20) / math.log(2.5))


@dataclass(frozen=True, slots=True)
class Budget:
    ratio: float
    zoom_share: float
    max_bytes: int | None
    max_slots: int | None

    def total_bytes(self, kv: SourceKV) -> int:
        """Return the bytes for slots and zoom together in the global layers."""
        if self.max_bytes is not None:
            return max(0, self.max_bytes - window_bytes(kv))
        if self.max_slots is not None:
            keys = next(k for k, w in zip(kv.keys, kv.windows, strict=True) if w is None)
            heads = sum(k.shape[0] for k, w in zip(kv.keys, kv.windows, strict=True) if w is None)
            offsets = sum(4 * (k.shape[0] + 1) for k, w in zip(kv.keys, kv.windows, strict=True) if w is None)
            return self.max_slots * heads * bytes_per_slot(keys.shape[2], keys.element_size()) + offsets
        return int(full_global_bytes(kv) / self.ratio)


@dataclass(frozen=True, slots=True)
class ScoredBlock:
    """A block read and scored, under the hash of what it depends on."""

    key: str
    kv: SourceKV
    scores: BlockScores
    asked: ReferenceBatch
    held_out: ReferenceBatch


@dataclass(frozen=True, slots=True)
class FinishedBlock:
    """One compacted block with what is kept beside its slots."""

    block: CompactBlock
    verbatim: VerbatimKV | None
    zoom_bytes: int
    full_nbytes: int

    def to_cache(
        self,
        scenes: Sequence[Scene],
        spans: Sequence[tuple[int, int]],
        ids: list[int],
        identity: dict[str, str],
        quality: str,
    ) -> CompactCache:
        """Return the block in the form that is saved as a checkpoint."""
        return CompactCache(
            layers=self.block.layers,
            scenes=tuple(SceneSpan(a, b, s.text, s.key) for s, (a, b) in zip(scenes, spans, strict=True)),
            token_ids=torch.tensor(ids),
            compaction_ratio=0.0,
            full_nbytes=self.full_nbytes,
            quality=quality,
            fingerprint=identity,
            zoom_bytes=self.zoom_bytes,
            fidelity={**self.block.fidelity, **{f"scene {n}": kl for n, kl in self.block.scene_kl.items()}},
            routing=self.block.routing,
            verbatim=self.verbatim,
        )

    @classmethod
    def of(cls, cache: CompactCache) -> FinishedBlock:
        """Read a checkpoint back."""
        scene_kl = {int(k.removeprefix("scene ")): v for k, v in cache.fidelity.items() if k.startswith("scene ")}
        fidelity = {k: v for k, v in cache.fidelity.items() if not k.startswith("scene ")}
        block = CompactBlock(cache.layers, fidelity, dict(cache.routing), scene_kl)
        return cls(block, cache.verbatim, cache.zoom_bytes, cache.full_nbytes)


def join_slots(parts: Sequence[LayerSlots], starts: Sequence[int], num_tokens: int) -> LayerSlots:
    """Return the slots of all blocks, head by head; a windowed layer keeps the last block's window."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].window is not None:
        last = parts[-1]
        return replace(last, source_index=last.source_index + starts[-1])
    heads = parts[0].num_heads
    pick = [(p, s, p.head(h)) for h in range(heads) for p, s in zip(parts, starts, strict=True)]
    counts = [sum(p.head(h).stop - p.head(h).start for p in parts) for h in range(heads)]
    return LayerSlots(
        torch.cat([p.keys[rows] for p, _, rows in pick]),
        torch.cat([p.values[rows] for p, _, rows in pick]),
        torch.cat([p.bias[rows] for p, _, rows in pick]),
        torch.tensor([0, *counts]).cumsum(0).to(torch.int32),
        torch.cat([p.source_index[rows] + s for p, s, rows in pick]).to(torch.int32),
        None,
    )


def join_verbatim(parts: Sequence[VerbatimKV], layer: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not all(part.has_layer(layer) for part in parts):
        return None
    pairs = [part.read(layer, 0, part.num_tokens) for part in parts]
    return torch.cat([keys for keys, _ in pairs], 1), torch.cat([values for _, values in pairs], 1)


def mean_of(records: Sequence[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for record in records for name in record})
    return {n: sum(r.get(n, 0.0) for r in records) / len(records) for n in names}


def part_of(whole: int | None, share: float) -> int | None:
    return None if whole is None else max(1, int(whole * share))


def block_file(checkpoint: str | Path | None, number: int) -> Path | None:
    if checkpoint is None:
        return None
    Path(checkpoint).mkdir(parents=True, exist_ok=True)
    return Path(checkpoint) / f"block-{number:05d}"


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def weights_hash(model: Any) -> str:
    """Hash names, shapes and a spread of elements of every weight: different weights differ, and it takes no time."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}{[round(x, 6) for x in sample.tolist()]}".encode())
    return digest.hexdigest()
