"""Hypercode for one loaded model: sources → compact caches; caches and a question → the context it is answered from.

compact   scenes → tokens → blocks behind the prefix → prefill → references → slots        compactor.py
prepare   caches + question → gate → zoom → one context at consecutive positions           zoom.py, composition.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hyperscene_plugin import demo_model
from hyperscene_plugin.errors import FingerprintMismatchError, InputError, UnsupportedModelError
from hyperscene_plugin.kv.budgets import MAX_RATIO, MIN_RATIO
from hyperscene_plugin.kv.fingerprint import check_fingerprint
from hyperscene_plugin.kv.layout import AssembledContext, CompactCache, SceneSpan, VerbatimKV
from hyperscene_plugin.kv.rope import unrotate
from hyperscene_plugin.kv.storage import MemoryVerbatim, load_compact, save_compact
from hyperscene_plugin.model.architectures import check_supported, layer_windows
from hyperscene_plugin.model.cache_bridge import NAME, register
from hyperscene_plugin.model.compactor import (
    QUALITIES,
    Quality,
    compact_block,
    full_global_bytes,
    score_block,
    window_bytes,
)
from hyperscene_plugin.model.composition import ContextPart, assemble_context, place_parts
from hyperscene_plugin.model.context_template import ContextTemplate
from hyperscene_plugin.model.head_profile import FILE_NAME, HeadProfile
from hyperscene_plugin.model.port import PlannedCache
from hyperscene_plugin.model.prefill import SourceKV, prefill_source
from hyperscene_plugin.model.references import build_references
from hyperscene_plugin.model.rope_of import ModelRope
from hyperscene_plugin.model.source_blocks import (
    Budget,
    FinishedBlock,
    ScoredBlock,
    block_file,
    default_zoom_share,
    hash_text,
    join_slots,
    join_verbatim,
    mean_of,
    part_of,
    weights_hash,
)
from hyperscene_plugin.model.source_tokens import cut_blocks, tokenize_source
from hyperscene_plugin.model.zoom import GATE, choose_scenes, choose_zoom, gate_parts, point_at_units
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.types import Message, Scene, Source

__all__ = ["ContextPlan", "Hypercode", "default_zoom_share"]

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``; stages are ``prefill`` and ``compact``, in source tokens."""

_RESERVE = 256
"""Positions kept free behind a block for references and replies."""
_HELD_OUT = 64
_KL_LIMIT = 2.0


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """The context that stands before a question, and how it was chosen. ``nbytes`` are held while generating."""

    context: AssembledContext
    caches: tuple[PlannedCache, ...]
    nbytes: int
    full_nbytes: int
    notes: tuple[str, ...] = ()


class Hypercode:
    """Compacts and assembles for one transformers model. Sets the model's attention once, when made.

    Raises:
        UnsupportedModelError: the architecture is not one that compact caches can stand behind; names it.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        check_supported(model)
        if None not in layer_windows(model):
            raise UnsupportedModelError(
                f"every layer of {type(model).__name__} {name!r} has a sliding window ({layer_windows(model)[0]} "
                "tokens): nothing older is seen, so there is nothing to compact. Use the text tier, or another model"
            )
        register()
        model.set_attn_implementation(NAME)
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.rope = ModelRope(model)
        self.profile = self._find_profile()
        self._templates: dict[tuple[str, bool], ContextTemplate] = {}
        self._prefixes: dict[tuple[int, ...], SourceKV] = {}
        self._identity: dict[str, str] | None = None
        self.keep_scores = False
        """Keep the last block's full cache and scores, so that the same source at another ratio costs only the fit."""
        self._scored: ScoredBlock | None = None

    # identity -----------------------------------------------------------------------------------------------

    def fingerprint(self, template: ContextTemplate) -> dict[str, str]:
        """Return what a cache depends on: model, weights, tokenizer, chat template, rope, prefix and dtype."""
        if self._identity is None:
            config = self.model.config.to_json_string(use_diff=False)
            sample = next(iter(self.model.parameters())).detach()
            drop = ("_attn_implementation", "transformers_version", "_name_or_path", "dtype")
            plain = {k: v for k, v in json.loads(config).items() if k not in drop}
            self._identity = {
                "architecture": type(self.model).__name__,
                "config": hash_text(json.dumps(plain, sort_keys=True)),
                "weights": weights_hash(self.model),
                "tokenizer": hash_text(json.dumps(sorted(self.tokenizer.get_vocab().items()))),
                "chat_template": hash_text(str(self.tokenizer.chat_template)),
                "rope": self.rope.fingerprint(),
                "dtype": str(sample.dtype).removeprefix("torch."),
            }
        return {**self._identity, "prefix": template.fingerprint}

    def template(self, instructions: str = "", chat: bool = True) -> ContextTemplate:
        """Return (and keep) the template for these instructions."""
        key = (instructions, chat)
        if key not in self._templates:
            self._templates[key] = ContextTemplate(self.tokenizer, instructions=instructions, chat=chat)
        return self._templates[key]

    def prefix(self, template: ContextTemplate) -> SourceKV:
        """Return the prefilled prefix; computed once."""
        if template.prefix_ids not in self._prefixes:
            self._prefixes[template.prefix_ids] = prefill_source(self.model, template.prefix_ids, [])
        return self._prefixes[template.prefix_ids]

    @property
    def window(self) -> int:
        """Positions that may be used in all."""
        native = int(self.model.config.get_text_config().max_position_embeddings)
        return native if self.rope.max_positions is None else min(native, self.rope.max_positions)

    def save(self, cache: CompactCache, folder: str | Path, **options: Any) -> Path:
        """Save a cache; see ``kv.storage.save_compact``."""
        return save_compact(cache, folder, **options)

    def load(self, folder: str | Path, *, instructions: str = "", chat: bool = True) -> CompactCache:
        """Load a cache made with this very model, tokenizer and prefix; see ``kv.storage.load_compact``."""
        return load_compact(folder, expected=self.fingerprint(self.template(instructions, chat)))

    # compact ------------------------------------------------------------------------------------------------

    def compact(
        self,
        source: Source | Sequence[Scene],
        compaction_ratio: float = 12.0,
        *,
        quality: str = "balanced",
        zoom_share: float | None = None,
        max_bytes: int | None = None,
        max_slots: int | None = None,
        source_id: str | None = None,
        instructions: str = "",
        chat: bool = True,
        checkpoint: str | Path | None = None,
        progress: Progress | None = None,
        seed: int = 0,
    ) -> CompactCache:
        """Compact a source; arguments and errors as ``LocalModel.compact``."""
        if quality not in QUALITIES:
            raise InputError(f"quality must be one of {', '.join(QUALITIES)}; got {quality!r}")
        if zoom_share is None:
            zoom_share = default_zoom_share(compaction_ratio)
        if not 0.0 <= zoom_share < 1.0:
            raise InputError(f"zoom_share must be at least 0 and below 1; got {zoom_share}")
        if max_bytes is None and max_slots is None and not MIN_RATIO <= compaction_ratio <= MAX_RATIO:
            raise InputError(
                f"compaction_ratio must lie between {MIN_RATIO:g} and {MAX_RATIO:g}; got {compaction_ratio}"
            )
        for name, most in (("max_bytes", max_bytes), ("max_slots", max_slots)):
            if most is not None and most < 1:
                raise InputError(f"{name} must be at least 1; got {most}")
        scenes = _scenes_of(source, source_id)
        template = self.template(instructions, chat)
        ids, spans, units = self.tokens_of(scenes, template)
        blocks = cut_blocks(spans, self.window - len(template.prefix_ids) - _RESERVE)
        done: list[FinishedBlock] = []
        for number, (first, last) in enumerate(blocks):
            start, end = spans[first][0], spans[last - 1][1]
            share = (end - start) / len(ids)
            block = self._block(
                scenes[first:last],
                ids[start:end],
                [(a - start, b - start) for a, b in spans[first:last]],
                template,
                Budget(compaction_ratio, zoom_share, part_of(max_bytes, share), part_of(max_slots, share)),
                quality,
                seed,
                block_file(checkpoint, number),
                None if progress is None else _shifted(progress, start, len(ids)),
            )
            done.append(block)
        return self._merge(done, scenes, ids, spans, units, blocks, template, compaction_ratio, quality, source_id)

    def _block(
        self,
        scenes: Sequence[Scene],
        ids: list[int],
        spans: list[tuple[int, int]],
        template: ContextTemplate,
        budget: Budget,
        quality: str,
        seed: int,
        checkpoint: Path | None,
        progress: Progress | None,
    ) -> FinishedBlock:
        identity = {
            **self.fingerprint(template),
            "budget": str(budget),
            "quality": quality,
            "seed": str(seed),
            "tokens": hash_text(str(ids)),
        }
        if checkpoint is not None and checkpoint.exists():
            try:
                return FinishedBlock.of(load_compact(checkpoint, expected=identity))
            except FingerprintMismatchError:
                pass  # left by another source or other settings: done again and overwritten
        level = QUALITIES[quality]
        key = hash_text(f"{ids}{spans}{quality}{seed}{template.fingerprint}")
        if self._scored is None or self._scored.key != key:
            self._scored = None  # the former source's keys and values go before the next one's come
            self._scored = self._score(key, scenes, ids, spans, template, level, seed, progress or _silent)
        read = self._scored
        if not self.keep_scores:
            self._scored = None
        kv = read.kv
        total = budget.total_bytes(kv)
        zoom_bytes = int(budget.zoom_share * total)
        ratio = full_global_bytes(kv) / max(1, total - zoom_bytes)
        block = compact_block(
            self.model,
            self.rope,
            kv,
            spans,
            read.scores,
            read.asked,
            read.held_out,
            budget_bytes=total - zoom_bytes,
            head_weights=self.profile.at(ratio) if self.profile else None,
            quality=level,
        )
        verbatim = self._verbatim(kv) if budget.zoom_share else None
        finished = FinishedBlock(block, verbatim, zoom_bytes, full_global_bytes(kv) + window_bytes(kv))
        if checkpoint is not None:
            save_compact(finished.to_cache(scenes, spans, ids, identity, quality), checkpoint, overwrite=True)
        return finished

    def _score(
        self,
        key: str,
        scenes: Sequence[Scene],
        ids: list[int],
        spans: list[tuple[int, int]],
        template: ContextTemplate,
        level: Quality,
        seed: int,
        report: Progress,
    ) -> ScoredBlock:
        """Prefill a block, ask its references, and score its keys: all that does not depend on the budget."""
        kv = prefill_source(
            self.model, template.prefix_ids, ids, lambda done: report("prefill", min(done, len(ids)), len(ids))
        )
        wanted = min(level.most_reference_tokens, int(level.references_per_token * len(ids)))
        references = build_references(
            self.tokenizer,
            template,
            scenes,
            max_tokens=max(256, int(wanted * 1.15)),
            longest=min(_RESERVE, self.window - len(template.prefix_ids) - len(ids)),
            device=self.model.device,
            seed=seed,
        )
        if references is None:
            raise InputError("the source has no words to ask about; put it in as text")
        held = min(_HELD_OUT, max(1, len(references) // 8))
        rows = torch.arange(len(references), device=references.ids.device)
        held_out, asked = references.rows(rows[-held:]), references.rows(rows[:-held] if len(rows) > held else rows)
        scene_of = torch.repeat_interleave(
            torch.arange(len(spans), device=self.model.device),
            torch.tensor([b - a for a, b in spans], device=self.model.device),
        )
        scores, asked = score_block(
            self.model, kv, asked, scene_of, lambda part: report("compact", int(part * len(ids)), len(ids))
        )
        return ScoredBlock(key, kv, scores, asked, held_out)

    def _verbatim(self, kv: SourceKV) -> MemoryVerbatim:
        layers: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        positions = torch.arange(kv.num_prefix, kv.num_prefix + kv.num_tokens, device=self.model.device)
        for number, (keys, values, window) in enumerate(zip(kv.keys, kv.values, kv.windows, strict=True)):
            if window is not None:  # a windowed layer is never zoomed: its window is whole already
                layers.append(None)
                continue
            cos, sin = self.rope.cos_sin(positions, number)
            layers.append((unrotate(keys[:, kv.num_prefix :], cos, sin).cpu(), values[:, kv.num_prefix :].cpu()))
        return MemoryVerbatim(layers)

    def tokens_of(
        self, scenes: Sequence[Scene], template: ContextTemplate
    ) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the source's tokens, each scene's token span, and the token spans of its sentences."""
        return tokenize_source(self.tokenizer, template, scenes)

    def _merge(
        self,
        done: Sequence[FinishedBlock],
        scenes: Sequence[Scene],
        ids: list[int],
        spans: Sequence[tuple[int, int]],
        units: Sequence[tuple[int, int]],
        blocks: Sequence[tuple[int, int]],
        template: ContextTemplate,
        ratio: float,
        quality: str,
        source_id: str | None,
    ) -> CompactCache:
        starts = [spans[first][0] for first, _ in blocks]
        layers = tuple(
            join_slots([f.block.layers[layer] for f in done], starts, len(ids))
            for layer in range(len(done[0].block.layers))
        )
        kl = {first + s: v for f, (first, _) in zip(done, blocks, strict=True) for s, v in f.block.scene_kl.items()}
        weak = {n: value for n, value in kl.items() if value > _KL_LIMIT}
        zoomable = all(f.verbatim is not None for f in done)  # a weak scene is then read verbatim when it is asked for
        poor = {} if zoomable else {n: f"fidelity: KL {value:.2f} > {_KL_LIMIT:g}" for n, value in weak.items()}
        spans_of = tuple(
            SceneSpan(a, b, s.text, s.key, poor.get(n, ""))
            for n, (s, (a, b)) in enumerate(zip(scenes, spans, strict=True))
        )
        kept = [f.verbatim for f in done if f.verbatim is not None]
        verbatim: VerbatimKV | None = None
        if len(kept) == len(done):
            whole = [join_verbatim(kept, layer) for layer in range(len(layers))] if len(kept) > 1 else []
            verbatim = MemoryVerbatim(whole) if whole else kept[0]
        return CompactCache(
            layers=layers,
            scenes=spans_of,
            token_ids=torch.tensor(ids),
            compaction_ratio=ratio,
            full_nbytes=sum(f.full_nbytes for f in done),
            quality=quality,
            fingerprint=self.fingerprint(template),
            source_id=source_id or scenes[0].source_id,
            block_starts=tuple(starts),
            zoom_bytes=sum(f.zoom_bytes for f in done),
            zoom_units=tuple(units),
            fidelity={**mean_of([f.block.fidelity for f in done]), "weak_scenes": float(len(weak))},
            routing=mean_of([f.block.routing for f in done]),
            notes=() if self.profile else ("no head profile of this model: run calibrate() once for better budgets",),
            verbatim=verbatim,
        )

    # prepare ------------------------------------------------------------------------------------------------

    def prepare(
        self,
        prompt: str | Sequence[Message],
        caches: Sequence[CompactCache],
        *,
        instructions: str = "",
        chat: bool = True,
        gate: bool = True,
        zoom: bool = True,
        reserve: int = _RESERVE,
    ) -> tuple[list[int], ContextPlan]:
        """Return the live tokens of ``prompt`` and the context to put before them.

        Raises:
            FingerprintMismatchError: a cache belongs to another model, tokenizer or prefix; lists the differences.
            BudgetError: the caches do not fit the window, even after the gate.
        """
        template = self.template(instructions, chat)
        for cache in caches:
            check_fingerprint(cache.fingerprint, self.fingerprint(template), cache.source_id or "the given cache")
        live = template.suffix_ids(prompt)
        prefix = self.prefix(template)
        room = self.window - prefix.num_prefix - len(live) - reserve
        parts = [ContextPart(cache) for cache in caches]
        pointed = [0.0] * len(parts)
        reasons = [""] * len(parts)
        notes: list[str] = []
        zoomed: list[tuple[tuple[int, int], ...]] = [()] * len(parts)
        can_zoom = zoom and any(c.verbatim is not None and c.zoom_bytes for c in caches)
        too_long = sum(cache.num_source_tokens for cache in caches) > room
        if parts and (can_zoom or (gate and (len(parts) > 1 or too_long))):
            places, context = self._compact_only(prefix, parts, room)
            pointing = point_at_units(self.model, self.rope, context, parts, places, live)
            pointed = [float(p.scores.max()) if len(p.scores) else 0.0 for p in pointing]
            stay = gate_parts(pointing, GATE) if gate else [True] * len(parts)
            best = max(pointed)
            reasons = [
                "" if stays else f"gate: pointed at {own:.3f}, the best {best:.3f}"
                for stays, own in zip(stay, pointed, strict=True)
            ]
            active = [i for i, stays in enumerate(stay) if stays]
            if gate and too_long:
                fitting = choose_scenes([parts[i] for i in active], [pointing[i] for i in active], room)
                for i, some in zip(active, fitting, strict=True):
                    if some is not None:
                        parts[i] = replace(parts[i], scenes=some)
                        notes.append(
                            f"gate: {len(some)} of the {len(caches[i].scenes)} scenes of {caches[i].source_id!r} fit "
                            "the window"
                        )
            if can_zoom:
                # what the caches that were left out would have held is free for zoom
                gated = [i for i in range(len(parts)) if i not in active]
                chosen = choose_zoom(
                    [parts[i] for i in active],
                    [pointing[i] for i in active],
                    sum(c.zoom_bytes for c in caches) + sum(caches[i].nbytes for i in gated),
                )
                for i, spans in zip(active, chosen, strict=True):
                    zoomed[i] = spans
        used = [replace(part, zoomed=zoomed[i]) for i, part in enumerate(parts) if not reasons[i]]
        context = assemble_context(prefix, used, self.rope, room)
        planned = tuple(
            PlannedCache(
                cache.source_id,
                not reasons[i],
                reasons[i],
                cache.num_source_tokens,
                zoomed[i],
                tuple(str(self.tokenizer.decode(cache.token_ids[a:b].tolist())) for a, b in zoomed[i]),
                pointed[i],
            )
            for i, cache in enumerate(caches)
        )
        full = sum(cache.full_nbytes for cache in caches) + prefix.nbytes
        return live, ContextPlan(context, planned, context.nbytes, full, tuple(notes))

    def _compact_only(
        self, prefix: SourceKV, parts: Sequence[ContextPart], room: int
    ) -> tuple[list[torch.Tensor], AssembledContext]:
        """Return places and context of all parts for pointing; where they do not fit together, over each other.

        Caches that are only pointed at may share positions: rotary distance matters little there, and none is left out
        unheard.
        """
        if sum(part.cache.num_source_tokens for part in parts) <= room:
            places, _ = place_parts(parts, prefix.num_prefix, room)
            return places, assemble_context(prefix, parts, self.rope, room)
        places = [torch.arange(part.cache.num_source_tokens) % max(1, room) + prefix.num_prefix for part in parts]
        return places, assemble_context(prefix, [], self.rope, room)

    def _find_profile(self) -> HeadProfile | None:
        folder = demo_model.weights_path() if self.name == "demo" else Path(self.name).expanduser()
        file = folder / FILE_NAME
        return HeadProfile.load(file) if file.is_file() else None


def _scenes_of(source: Source | Sequence[Scene], source_id: str | None) -> list[Scene]:
    if isinstance(source, Sequence) and not isinstance(source, str) and source and isinstance(source[0], Scene):
        scenes = [scene for scene in source if isinstance(scene, Scene)]
    else:
        scenes = segment(source, source_id=source_id)  # type: ignore[arg-type]
    if not any(scene.text.strip() for scene in scenes):
        raise InputError("there is nothing to compact: the source is empty or blank")
    return scenes


def _shifted(progress: Progress, start: int, total: int) -> Progress:
    """Return what reports a block's tokens as tokens of the whole source."""
    return lambda stage, done, _: progress(stage, start + done, total)


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""
