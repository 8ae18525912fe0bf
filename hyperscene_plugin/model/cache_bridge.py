"""The one file that touches transformers' cache interface: compact contexts before the live tokens of any forward pass.

``HyperCache`` is an ordinary ``DynamicCache`` of the live tokens. Its ``update`` returns the live keys with the compact
layer attached to that very tensor, and the attention function registered here reads it from there: no global state, no
change to masks or to modelling code. A model is switched over once, at load::

    register()
    model.set_attn_implementation(NAME)          # or, for a while: with use_compact_attention(model): …
    cache = HyperCache(model.config, [context])
    model.generate(ids, position_ids=cache.position_ids(ids.shape[1]), past_key_values=cache, attention_mask=ones)

Without a compact context the registered function is transformers' own SDPA path, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hyperscene_plugin.errors import HypersceneError, InputError, ModelError, OutOfMemoryError
from hyperscene_plugin.kv.attention import compact_attention
from hyperscene_plugin.kv.layout import AssembledContext, AssembledLayer, bytes_of
from hyperscene_plugin.model.architectures import layer_windows

__all__ = [
    "NAME",
    "AttentionRecorder",
    "HyperCache",
    "RecordedLayer",
    "record_attention",
    "register",
    "use_compact_attention",
]

NAME = "hyperscene"
_TAG = "_hyperscene"


@dataclass(frozen=True, slots=True)
class RecordedLayer:
    """One layer of one forward pass, after rotary embedding, of the new tokens only.

    ``query`` (B, Hq, n, d); ``key`` and ``value`` (B, Hkv, n, d).
    """

    query: Tensor
    key: Tensor
    value: Tensor


class AttentionRecorder:
    """Receives each wanted layer as the model computes it; keeps it in :attr:`layers` unless a callback takes it."""

    def __init__(
        self,
        wanted_layers: Sequence[int] | None = None,
        on_layer: Callable[[int, RecordedLayer], AssembledLayer | None] | None = None,
    ) -> None:
        """Record ``wanted_layers`` (all if ``None``); with ``on_layer(layer, record)`` nothing is kept here.

        A layer that ``on_layer`` returns takes the place of the context's for this forward pass.
        """
        self.layers: dict[int, RecordedLayer] = {}
        self._wanted = None if wanted_layers is None else frozenset(wanted_layers)
        self._on_layer = on_layer

    def record(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> AssembledLayer | None:
        """Take one layer's queries and the last as many keys and values; return the layer to use instead, if any."""
        if self._wanted is not None and layer not in self._wanted:
            return None
        new = query.shape[2]
        record = RecordedLayer(query, key[:, :, key.shape[2] - new :], value[:, :, value.shape[2] - new :])
        if self._on_layer is None:
            self.layers[layer] = record
            return None
        return self._on_layer(layer, record)


@dataclass(frozen=True, slots=True)
class _Tag:
    """What rides on the key tensor from the cache to the attention function."""

    layer: int
    compact: tuple[AssembledLayer, ...]
    recorder: AttentionRecorder | None


class HyperCache(DynamicCache):
    """A cache of live tokens behind compact contexts. Lengths, masks and cropping count live tokens only.

    Changed by every forward pass, like any transformers cache; the contexts are read and never changed.
    """

    def __init__(
        self,
        model_config: Any,
        contexts: Sequence[AssembledContext] = (),
        *,
        recorder: AttentionRecorder | None = None,
        keep_live: bool = True,
    ) -> None:
        """Put ``contexts`` before the live tokens.

        Args:
            model_config: the model's ``config`` object itself.
            contexts: none, one shared by all rows of the batch, or one per row. Rows may repeat one object.
            recorder: receives queries, keys and values of every forward pass.
            keep_live: store live keys and values. Off, for one pass over a text whose cache is not needed after.

        Raises:
            InputError: a context has another number of layers or other windows than the model.
        """
        super().__init__(config=model_config if keep_live else None)
        self._config = model_config.get_text_config()
        self._keep_live = keep_live
        self.recorder = recorder
        windows = layer_windows(self._config)
        for context in contexts:
            found = tuple(layer.window for layer in context.layers)
            if found != windows:
                raise InputError(
                    f"a context with {len(found)} layers and windows {found} does not fit a model with "
                    f"{len(windows)} layers and windows {windows}; compact the source with this model"
                )
        unique = {id(context): context for context in contexts}
        self._contexts = tuple(unique.values())
        self._rows = tuple(list(unique).index(id(context)) for context in contexts)
        self._layers = [[context.layers[layer] for context in self._contexts] for layer in range(len(windows))]

    @property
    def logical_start(self) -> tuple[int, ...]:
        """Position of the first live token: one for each row, or a single one that all rows share."""
        return tuple(self._contexts[row].num_positions for row in self._rows) or (0,)

    @property
    def nbytes(self) -> int:
        """Bytes held: each context once, and the live keys and values."""
        compact = sum(layer.nbytes for layers in self._layers for layer in layers)
        return compact + sum(bytes_of(keys, values) for keys, values, _ in self if keys is not None)

    def position_ids(
        self,
        new_tokens: int,
        live_past: int | None = None,
        attention_mask: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return logical positions (rows, new_tokens) int64 of the tokens after ``live_past`` live ones.

        ``live_past`` is by default what the cache holds; to feed the whole live text again with a grown cache, as
        ``generate`` wants it, ask for all tokens with ``live_past=0``. ``attention_mask`` (B, live_past + new_tokens)
        marks left padding: positions then count real tokens, and there are B rows. ``device`` is by default the
        mask's, else the CPU; it must be the model's for ``generate``.

        Raises:
            InputError: the mask has another shape.
        """
        past = self.get_seq_length() if live_past is None else live_past
        start = torch.tensor(self.logical_start, dtype=torch.int64)[:, None]
        if attention_mask is None:
            return (start + torch.arange(past, past + new_tokens)).to(device)
        rows, tokens = attention_mask.shape
        if tokens != past + new_tokens or len(start) not in (1, rows):
            raise InputError(
                f"the attention mask must have {past + new_tokens} tokens in each row, and {len(start)} rows or any "
                f"number for a shared context; got {rows} rows of {tokens}"
            )
        counted = attention_mask.long().cumsum(-1).sub_(1).clamp_min_(0)[:, past:]
        return (start.to(counted.device) + counted).to(device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add live keys and values; return all live ones, the keys carrying the layer's slots and the recorder.

        Raises:
            ModelError: the model does not run the registered attention function, which alone reads the slots.
            InputError: the batch has another number of rows than there are contexts.
        """
        if (self._rows or self.recorder is not None) and self._config._attn_implementation != NAME:
            raise ModelError(
                f"the model runs attention {self._config._attn_implementation!r}, which would ignore the compact "
                f"context; call register() and model.set_attn_implementation({NAME!r}) first"
            )
        if len(self._rows) not in (0, 1, key_states.shape[0]):
            raise InputError(
                f"the batch has {key_states.shape[0]} rows and the cache contexts for {len(self._rows)}; for several "
                "beams or samples per row call cache.batch_repeat_interleave(n) first"
            )
        keys, values = key_states, value_states
        if self._keep_live:
            keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        tagged = keys.view_as(keys)  # a new object: what the cache stores must not hold on to slots or recorder
        setattr(tagged, _TAG, _Tag(layer_idx, self._compact(layer_idx, key_states), self.recorder))
        return tagged, values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give row i the live part and the context of row ``beam_idx[i]``."""
        super().reorder_cache(cast(torch.LongTensor, beam_idx))
        self._pick(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times, next to each other; a shared context stays shared, nothing is copied."""
        super().batch_repeat_interleave(repeats)
        if len(self._rows) > 1:
            self._rows = tuple(row for row in self._rows for _ in range(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices`` only."""
        super().batch_select_indices(indices)
        self._pick(indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last ``-tokens_to_remove`` live tokens (a number ≤ 0); contexts stay.

        Raises:
            InputError: a positive number, more than there are, or a sliding layer that no longer has the older ones.
        """
        if -tokens_to_remove > self.get_seq_length():
            raise InputError(f"cannot remove {-tokens_to_remove} of {self.get_seq_length()} live tokens")
        try:
            super().crop(tokens_to_remove)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"the live tokens cannot be cropped: {error}") from error

    def _pick(self, indices: Tensor) -> None:
        if len(self._rows) > 1:
            self._rows = tuple(torch.tensor(self._rows)[indices.cpu()].tolist())

    def _compact(self, layer_idx: int, like: Tensor) -> tuple[AssembledLayer, ...]:
        """Return the layer's slots by row, on the device and in the dtype of ``like``: moved once, at first use."""
        layers = self._layers[layer_idx]
        for index, layer in enumerate(layers):
            if layer.keys.device != like.device or layer.keys.dtype != like.dtype:
                layers[index] = replace(
                    layer,
                    keys=layer.keys.to(like),
                    values=layer.values.to(like),
                    bias=layer.bias.to(like.device),
                    positions=layer.positions.to(like.device),
                )
        return tuple(layers[row] for row in self._rows)


def register() -> None:
    """Make ``"hyperscene"`` an attention implementation of transformers in this process; again is harmless."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@contextlib.contextmanager
def use_compact_attention(model: Any) -> Iterator[None]:
    """Run ``model`` with the registered attention inside the block, and with its former one after."""
    register()
    former = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(former)


def record_attention(
    model: Any,
    ids: Tensor,
    position_ids: Tensor,
    cache: HyperCache | None = None,
    wanted_layers: Sequence[int] | None = None,
    on_layer: Callable[[int, RecordedLayer], None] | None = None,
    attention_mask: Tensor | None = None,
) -> dict[int, RecordedLayer]:
    """Run ``ids`` (B, n) once at ``position_ids`` (B or 1, n); return rotated queries, keys and values by layer.

    Args:
        model: a supported model, on any device; gradients are not kept.
        ids: tokens.
        position_ids: their logical positions.
        cache: contexts and live tokens that they see; grows by ``ids``, unless made with ``keep_live=False``. Without
            one they see only each other, and no cache is kept.
        wanted_layers: layers to record; ``None`` for all.
        on_layer: called with each layer as it is computed; then nothing is kept and the result is empty.
        attention_mask: (B, live past + n), 0 for left padding.

    Raises:
        InputError: the cache does not fit the batch.
        OutOfMemoryError: memory ran out.
        ModelError: the forward pass, or the callback, failed otherwise.
    """
    recorder = AttentionRecorder(wanted_layers, on_layer)
    if cache is None:
        cache = HyperCache(model.config, keep_live=False)
    former, cache.recorder = cache.recorder, recorder
    try:
        with use_compact_attention(model), torch.no_grad():
            model(
                input_ids=ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
    except HypersceneError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(
            f"memory ran out in a forward pass of {ids.shape[0]} × {ids.shape[1]} tokens; take shorter blocks ({error})"
        ) from error
    except Exception as error:
        raise ModelError(f"a recorded forward pass failed ({type(error).__name__}: {error})") from error
    finally:
        cache.recorder = former
    return recorder.layers


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers' interface: SDPA, and before it the slots that ride on ``key``."""
    tag: _Tag | None = getattr(key, _TAG, None)
    compact = () if tag is None else tag.compact
    if tag is not None and tag.recorder is not None:
        instead = tag.recorder.record(tag.layer, query, key, value)
        compact = compact if instead is None else (instead,)
    if not any(layer.keys.shape[0] for layer in compact):
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    if dropout:
        raise InputError("attention dropout over a compact context is not supported; call model.eval()")
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    positions = kwargs.get("position_ids")
    return compact_attention(query, key, value, attention_mask, factor, compact, positions), None
