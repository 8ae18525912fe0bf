"""One block on tiny random models of every architecture: slots within their bytes; nothing dropped, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperscene_plugin.errors import BudgetError, InputError
from hyperscene_plugin.kv.layout import AssembledContext, CompactCache, SceneSpan, bytes_of
from hyperscene_plugin.model.cache_bridge import NAME, HyperCache, register
from hyperscene_plugin.model.compactor import (
    QUALITIES,
    BlockScores,
    CompactBlock,
    compact_block,
    evicted_context,
    full_global_bytes,
    score_block,
    select_keys,
    window_bytes,
)
from hyperscene_plugin.model.composition import ContextPart, assemble_context
from hyperscene_plugin.model.prefill import SourceKV, prefill_source
from hyperscene_plugin.model.references import ReferenceBatch, hidden_states
from hyperscene_plugin.model.rope_of import ModelRope
from tests.model.tiny_architectures import MODELS, tiny_model, tokens

PREFIX, T, N = 3, 40, 7
SCENES = [(0, 11), (11, 25), (25, 40)]
GLOBAL = [name for name in MODELS if name not in ("mistral-window", "phi3-window")]  # these have no global layer


class Block:
    """A source of 40 tokens behind a prefix of three, and random questions about it."""

    def __init__(self, name: str = "llama") -> None:
        register()
        self.model: Any = tiny_model(name)
        self.model.set_attn_implementation(NAME)
        self.rope = ModelRope(self.model)
        self.ids = tokens(1, PREFIX + T, seed=3)[0].tolist()
        self.source = prefill_source(self.model, tuple(self.ids[:PREFIX]), self.ids[PREFIX:])
        real = torch.ones(12, N, dtype=torch.bool)
        reply = torch.zeros_like(real)
        reply[:, 3:-1] = True
        self.references = ReferenceBatch(tokens(12, N, seed=4), reply, real, reply.float(), torch.arange(12) % 3)
        scene_of = torch.repeat_interleave(torch.arange(3), torch.tensor([b - a for a, b in SCENES]))
        self.scores, self.weighed = score_block(self.model, self.source, self.references, scene_of, lambda _: None)

    def compact(self, budget_bytes: int, quality: str = "balanced", **changes: Any) -> CompactBlock:
        options = {"budget_bytes": budget_bytes, "head_weights": None, "quality": QUALITIES[quality], **changes}
        return compact_block(
            self.model, self.rope, self.source, SCENES, self.scores, self.weighed, self.references, **options
        )

    def cache(self, block: CompactBlock) -> CompactCache:
        return CompactCache(
            layers=block.layers,
            scenes=tuple(SceneSpan(a, b, "", "") for a, b in SCENES),
            token_ids=torch.tensor(self.ids[PREFIX:]),
            compaction_ratio=1.0,
            full_nbytes=full_global_bytes(self.source) + window_bytes(self.source),
            quality="balanced",
            fingerprint={},
        )

    def prefix(self) -> SourceKV:
        return prefill_source(self.model, tuple(self.ids[:PREFIX]), [])

    def logits(self, context: AssembledContext) -> Tensor:
        cache, live = HyperCache(self.model.config, [context]), tokens(1, N, seed=8)
        with torch.no_grad():
            out = self.model(live, past_key_values=cache, position_ids=cache.position_ids(N))
        logits: Tensor = out.logits[0]
        return logits

    def plain(self) -> Tensor:
        with torch.no_grad():
            whole = torch.cat([torch.tensor([self.ids]), tokens(1, N, seed=8)], 1)
            logits: Tensor = self.model(whole).logits[0, PREFIX + T :]
        return logits


@pytest.fixture(scope="module", params=GLOBAL)
def block(request: pytest.FixtureRequest) -> Block:
    return Block(request.param)


def test_keeping_every_key_reproduces_the_logits(block: Block) -> None:
    everything = 4 * full_global_bytes(block.source)
    for quality in ("fast", "balanced"):
        made = block.compact(everything, quality)
        assert {layer.num_slots for layer in made.layers if layer.window is None} == {
            layer.num_heads * T for layer in made.layers
        }
        context = assemble_context(block.prefix(), [ContextPart(block.cache(made))], block.rope, 200)
        torch.testing.assert_close(block.logits(context), block.plain(), atol=1e-3, rtol=1e-3)
        assert made.fidelity["kl"] < 1e-5
        assert made.fidelity["top1_agreement"] == 1.0
    kept = {where: torch.arange(T) for where in block.scores.keys}
    torch.testing.assert_close(block.logits(evicted_context(block.source, kept)), block.plain(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_slots_stay_within_the_bytes(block: Block, ratio: int) -> None:
    budget = full_global_bytes(block.source) // ratio
    made = block.compact(budget)
    held = sum(layer.nbytes for layer in made.layers if layer.window is None)
    slot = next(layer.keys.shape[1] for layer in made.layers) * 8 + 8
    assert budget - slot < held <= budget
    for layer in made.layers:
        assert torch.isfinite(layer.keys).all()
        assert torch.isfinite(layer.values).all()
        assert torch.isfinite(layer.bias).all()
        for head in range(layer.num_heads):
            own = layer.source_index[layer.head(head)].tolist()
            assert own == sorted(set(own))
            assert all(0 <= place < T for place in own)


def test_windowed_layers_stay_whole(block: Block) -> None:
    made = block.compact(full_global_bytes(block.source) // 4)
    whole = [layer for layer in made.layers if layer.window is not None]
    assert sum(bytes_of(layer.keys, layer.values) for layer in whole) == window_bytes(block.source)
    for layer in whole:
        assert layer.window is not None
        last = list(range(T - (layer.window - 1), T))
        assert layer.source_index[layer.head(0)].tolist() == last
        assert torch.equal(layer.bias, torch.zeros(layer.num_slots))


def test_what_ships_is_no_worse_than_eviction_on_the_questions_it_was_fitted_to(block: Block) -> None:
    budget = full_global_bytes(block.source) // 4
    fitted, evicted = block.compact(budget), block.compact(budget, "fast")
    assert fitted.fidelity["output_error"] <= fitted.fidelity["output_error_of_eviction"] + 1e-6
    if not fitted.fidelity["fitted"]:
        for mine, other in zip(fitted.layers, evicted.layers, strict=True):
            assert torch.equal(mine.values, other.values)
            assert torch.equal(mine.bias, other.bias)


def test_scores_are_what_the_model_s_own_attention_gives() -> None:
    block = Block()
    model = block.model
    model.set_attn_implementation("eager")
    weights, reply = block.weighed.weights, block.weighed.reply
    ids = torch.cat([torch.tensor([block.ids]).expand(12, -1), block.weighed.ids], 1)
    with torch.no_grad():
        attention = model(ids, output_attentions=True).attentions
    model.set_attn_implementation(NAME)
    for layer in range(3):
        seen = attention[layer][:, :, PREFIX + T :, PREFIX : PREFIX + T]  # (B, Hq, n, keys)
        for head in range(2):
            own = seen[:, 2 * head : 2 * head + 2]
            expected = (own * weights[:, None, :, None]).amax((0, 1, 2))
            torch.testing.assert_close(block.scores.keys[layer, head], expected, atol=1e-5, rtol=1e-3)
            first = own[:, :, 3].mean(1)  # the first place of the reply
            on_scene = sum(float(first[row, slice(*SCENES[int(block.weighed.scenes[row])])].sum()) for row in range(12))
            assert block.scores.on_scene[layer, head] == pytest.approx(on_scene, rel=1e-3)
    assert bool((weights[reply] <= 1).all())
    assert bool((weights >= 0).all())


def test_head_weights_move_slots_to_the_heads_they_raise() -> None:
    block = Block()
    budget = full_global_bytes(block.source) // 4
    plain = select_keys(block.source, block.scores, budget, None)
    factors = torch.zeros(3, 2)
    assert all(torch.equal(a, plain[k]) for k, a in select_keys(block.source, block.scores, budget, factors).items())
    factors[1, 0] = 6.0
    raised = select_keys(block.source, block.scores, budget, factors)
    assert len(raised[1, 0]) == T > len(plain[1, 0])
    assert sum(map(len, raised.values())) == sum(map(len, plain.values()))


def test_a_scene_s_slots_are_the_same_whatever_is_loaded_beside_it() -> None:
    block = Block()
    cache = block.cache(block.compact(full_global_bytes(block.source) // 3))
    prefix = block.prefix()
    both = block.logits(assemble_context(prefix, [ContextPart(cache, (0, 2))], block.rope, 200))
    turned = block.logits(assemble_context(prefix, [ContextPart(cache, (2, 0))], block.rope, 200))
    assert torch.equal(both, turned)
    keep = [(layer.source_index < 11) | (layer.source_index >= 25) for layer in cache.layers]
    removed = replace(cache, layers=tuple(layer.only(k) for layer, k in zip(cache.layers, keep, strict=True)))
    never = block.logits(assemble_context(prefix, [ContextPart(removed)], block.rope, 200))
    torch.testing.assert_close(both, never, atol=0, rtol=0)
    whole = block.logits(assemble_context(prefix, [ContextPart(cache)], block.rope, 200))
    assert not torch.allclose(whole, both, atol=1e-3)  # the control: the scene was read


def test_slots_in_another_order_say_the_same() -> None:
    block = Block()
    cache = block.cache(block.compact(full_global_bytes(block.source) // 3))
    layers = []
    for layer in cache.layers:
        turned = [torch.arange(s.stop - 1, s.start - 1, -1) for s in map(layer.head, range(layer.num_heads))]
        order = torch.cat(turned)
        layers.append(
            replace(layer, **{n: getattr(layer, n)[order] for n in ("keys", "values", "bias", "source_index")})
        )
    prefix = block.prefix()
    contexts = [
        assemble_context(prefix, [ContextPart(c)], block.rope, 200)
        for c in (cache, replace(cache, layers=tuple(layers)))
    ]
    torch.testing.assert_close(block.logits(contexts[0]), block.logits(contexts[1]), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_compacted_is_refused() -> None:
    block = Block()
    with pytest.raises(BudgetError, match="hold no slot"):
        block.compact(40)
    with pytest.raises(InputError, match="tile the 40 tokens"):
        compact_block(
            block.model,
            block.rope,
            block.source,
            [(0, 11)],
            BlockScores(),
            block.weighed,
            None,
            budget_bytes=1000,
            head_weights=None,
            quality=QUALITIES["fast"],
        )


def test_references_see_the_context_where_it_is() -> None:
    """Behind the whole context, the references' hidden states are the model's own on the whole text."""
    block = Block("qwen3")
    hidden = hidden_states(block.model, block.references, block.source.context())
    ids = torch.cat([torch.tensor([block.ids]).expand(12, -1), block.references.ids], 1)
    with torch.no_grad():
        expected = block.model.model(ids).last_hidden_state[:, PREFIX + T :]
    torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=1e-3)
