"""Cache and peaks: the bytes transformers really keeps, identities, and growth that never turns back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.forecast.activations import Pass, largest_moment, moments
from hyperscene_plugin.forecast.cache import full_cache, full_cache_figures, hypercode, token_bytes
from hyperscene_plugin.forecast.fits import fits_of
from hyperscene_plugin.forecast.memory import full_peak, hypercode_peak
from hyperscene_plugin.forecast.parameters import weights_of
from hyperscene_plugin.forecast.references import REFERENCES
from hyperscene_plugin.forecast.request import Request
from hyperscene_plugin.forecast.shape import shape_of
from tests.forecast.shapes import VARIANTS, build, config_of

LLAMA = shape_of(REFERENCES["llama-3.1-8b"], "llama-3.1-8b")
GEMMA = shape_of(REFERENCES["gemma-3-4b"], "gemma-3-4b")
SLIDING = shape_of(config_of("mistral, sliding"), "sliding")
SHAPES = st.sampled_from([LLAMA, GEMMA, SLIDING, shape_of(config_of("phi3"), "phi3")])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_is_what_transformers_keeps(variant):
    """After a prefill and one more token; a sliding layer keeps one token less than its window between passes."""
    import torch

    model, shape, tokens = build(variant), shape_of(config_of(variant), variant), 50
    with torch.inference_mode():
        cache = model(torch.randint(3, 97, (1, tokens)), use_cache=True).past_key_values
        prefilled = sum(_held(layer.keys) + _held(layer.values) for layer in cache.layers)
        cache = model(torch.tensor([[5]]), past_key_values=cache).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    slid = shape.num_sliding_layers * token_bytes(shape, 4)
    assert kept == full_cache(shape, tokens + 1, 4) - slid
    # until that next token, a sliding layer holds the keys of the whole prompt, and so the peak counts them
    request = Request(context=tokens - 1, question_tokens=1, new_tokens=1)
    peak = full_peak(shape, request, 0, 4)
    assert peak.phase == "prefill"
    assert peak.cache == prefilled


def _held(tensor):
    return tensor.untyped_storage().nbytes()


def test_the_lines_of_the_example():
    (figure,) = full_cache_figures(LLAMA, 60_000, 2)
    assert str(figure) == "full = 2 · 32 layers · 8 KV heads · 128 · 2 bytes · 60,000 tokens = 7.32 GiB"
    code = hypercode(LLAMA, 60_000, 12, 2)
    assert code.slots == 4923  # a little under 60,000 ÷ 12: bias, index and offsets are part of the twelfth
    assert code.compact == 32 * 8 * 4923 * (2 * 128 * 2 + 8) + 32 * 9 * 4
    assert [figure.key for figure in code.figures][-1] == "byte_ratio"


@given(shape=SHAPES, context=st.integers(500, 200_000), ratio=st.floats(1, 100), size=st.sampled_from([2, 4]))
def test_the_ratio_is_kept_in_bytes(shape, context, ratio, size):
    code = hypercode(shape, context, ratio, size)
    full = full_cache(shape, context, size) - code.sliding
    slot = shape.num_global_layers * shape.num_kv_heads * (2 * shape.head_dim * size + 8)
    assert code.slots <= context
    if code.slots > 1:  # the largest whole number of slots within the ratio
        assert code.compact <= full / ratio < code.compact + slot


def test_sliding_layers_are_not_compacted():
    code = hypercode(GEMMA, 60_000, 12, 2)
    assert code.sliding == 29 * token_bytes(GEMMA, 2) * 1024
    assert code.byte_ratio < 12
    nothing = hypercode(SLIDING, 60_000, 12, 2)
    assert (nothing.slots, nothing.compact, nothing.byte_ratio) == (0, 0, 1.0)
    assert nothing.sliding == full_cache(SLIDING, 60_000, 2)


def test_a_window_beyond_the_native_one_never_slides():
    phi = shape_of(REFERENCES["phi-3-mini"], "phi-3-mini")
    assert phi.num_sliding_layers == 0
    assert "never slides" in phi.notes[0]


def test_a_chunk_as_long_as_the_prompt_is_one_pass():
    request = Request(context=5000)
    assert full_peak(LLAMA, replace(request, prefill_chunk=5064), 0, 2) == full_peak(LLAMA, request, 0, 2)
    assert full_peak(LLAMA, replace(request, prefill_chunk=512), 0, 2).bytes < full_peak(LLAMA, request, 0, 2).bytes


@given(
    shape=SHAPES,
    context=st.integers(1, 100_000),
    more=st.integers(1, 5000),
    chunk=st.sampled_from([None, 64, 2048]),
    ratio=st.floats(1, 50),
)
def test_peaks_never_fall_as_the_context_grows(shape, context, more, chunk, ratio):
    request = Request(context=context, ratio=ratio, prefill_chunk=chunk)
    longer = replace(request, context=context + more)
    assert full_peak(shape, request, 0, 2).bytes <= full_peak(shape, longer, 0, 2).bytes

    def compact(asked):
        return hypercode_peak(shape, asked, 0, hypercode(shape, asked.context, ratio, 2), 2).bytes

    assert compact(request) <= compact(longer)


@given(context=st.integers(2000, 100_000), ratio=st.floats(2, 40), more=st.floats(1, 40))
def test_a_higher_ratio_never_takes_more(context, ratio, more):
    request = Request(context=context, ratio=ratio)
    low = hypercode_peak(LLAMA, request, 0, hypercode(LLAMA, context, ratio, 2), 2)
    high = hypercode_peak(LLAMA, request, 0, hypercode(LLAMA, context, ratio + more, 2), 2)
    assert high.bytes <= low.bytes < full_peak(LLAMA, request, 0, 2).bytes


def test_moments_name_what_is_alive():
    names = {moment.name for moment in moments(GEMMA, Pass(2048, 8192, 3071), 2)}
    assert names == {"normalise", "head norm", "rotate", "append", "attend", "project out", "MLP", "logits"}
    assert largest_moment(LLAMA, Pass(4096, 4096, 4096), 2).name == "MLP"
    masked = {moment.name: moment for moment in moments(GEMMA, Pass(4096, 4096, 4096), 2)}
    assert masked["attend"].held >= 4096 * 4096  # one byte a pair: the sliding mask


@pytest.mark.parametrize("chunk", [None, 1024])
def test_the_longest_context_that_fits_is_exact(chunk):
    request = Request(context=60_000, prefill_chunk=chunk)
    weights = weights_of(LLAMA, "bfloat16", "4bit").bytes
    found = fits_of(LLAMA, request, weights, 2, cards_gib=(4.0, 8.0, 12.0))
    assert {fit.way for fit in found} == ({"full", "hypercode"} | (set() if chunk else {"full in chunks"}))
    by_way = {(fit.card_gib, fit.way): fit for fit in found}
    assert not by_way[4.0, "hypercode"].fits
    assert by_way[4.0, "hypercode"].longest == 0  # the weights alone are too much
    full = by_way[12.0, "full"]
    assert full_peak(LLAMA, replace(request, context=full.by_memory), weights, 2).bytes <= full.usable_bytes
    assert full_peak(LLAMA, replace(request, context=full.by_memory + 1), weights, 2).bytes > full.usable_bytes
    compact = by_way[12.0, "hypercode"]
    assert compact.fits
    assert compact.window_limits
    assert compact.longest == LLAMA.window - 64 - 256 < compact.by_memory


@pytest.mark.parametrize(("cards", "reserve"), [((0.0,), 0.5), ((8.0,), -1.0), ((float("nan"),), 0.5)])
def test_impossible_cards_are_refused(cards, reserve):
    with pytest.raises(InputError, match="0 GiB"):
        fits_of(LLAMA, Request(context=10), 0, 2, cards_gib=cards, reserve_gib=reserve)
