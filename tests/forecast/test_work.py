"""Pairs and FLOPs: against counting by hand and against torch's own counter."""

from __future__ import annotations

import pytest

from hyperscene_plugin.forecast import Request, forecast
from hyperscene_plugin.forecast.cache import full_cache, hypercode
from hyperscene_plugin.forecast.parameters import weights_of
from hyperscene_plugin.forecast.shape import shape_of
from hyperscene_plugin.forecast.work import causal_pairs, work_of
from tests.forecast.shapes import build, config_of


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("past", [0, 1, 5, 20])
@pytest.mark.parametrize("queries", [1, 4, 13])
def test_pairs_are_counted_one_by_one(queries, past, window):
    by_hand = sum(min(past + query + 1, window or 10**9) for query in range(queries))
    assert causal_pairs(queries, past, window) == by_hand


@pytest.mark.parametrize("variant", ["llama, tied", "qwen2", "qwen3", "phi3", "mistral"])
def test_flops_are_those_torch_counts(variant):
    shape, tokens = shape_of(config_of(variant), variant), 40
    linear = _counted(build(variant), tokens)  # the counter does not know the CPU's fused attention
    everything = _counted(build(variant, "eager"), tokens)
    lines = _first_token(shape, Request(context=tokens - 1, question_tokens=1))
    assert lines["full_linear"].value == linear
    # eager attention computes every pair of a prompt; a causal pass needs those up to the diagonal
    assert lines["full_attention"].value * tokens**2 == (everything - linear) * causal_pairs(tokens)


def _counted(model, tokens):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.randint(3, 97, (1, tokens)), logits_to_keep=1)
    return counter.get_total_flops()


def _first_token(shape, request):
    weights = weights_of(shape, "float32")
    work = work_of(shape, request, weights, hypercode(shape, request.context, request.ratio, 4), 4)
    return {line.key: line for line in work.first_token}


def test_the_lines_of_the_first_token_add_up():
    shape = shape_of(config_of("gemma3"), "gemma3")
    lines = _first_token(shape, Request(context=300, question_tokens=10))
    for key in ("full", "hypercode"):
        assert lines[key].value == lines[f"{key}_linear"].value + lines[f"{key}_attention"].value
    assert lines["less"].value == pytest.approx(lines["full"].value / lines["hypercode"].value)
    assert lines["hypercode"].value < lines["kept"].value < lines["full"].value


def test_pairs_as_the_project_counts_them():
    found = forecast("llama-3.1-8b", Request(context=4000, ratio=10))
    pairs = {line.key: line for line in found.work.pairs}
    assert pairs["full"].value == 16_000_000
    assert str(pairs["full"]) == "full = 4,000² = 16,000,000"
    assert 390**2 < pairs["hypercode"].value <= 400**2
    sliding = work_of(
        shape := shape_of(config_of("mistral, sliding"), "sliding"),
        Request(context=400),
        weights_of(shape, "float32"),
        hypercode(shape, 400, 12, 4),
        4,
    )
    assert sliding.pairs == ()  # nothing is compacted, so there is nothing to compare


def test_a_decoded_token_reads_weights_and_cache():
    found = forecast("qwen2.5-0.5b", Request(context=8000, question_tokens=32))
    lines = {line.key: line.value for line in found.work.each_token}
    assert lines["full_read"] == found.weights.bytes + full_cache(found.shape, 8032, 2)  # tied: all weights are read
    assert lines["hypercode_read"] < lines["full_read"]
    assert lines["hypercode"] < lines["full"]
