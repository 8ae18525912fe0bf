"""The hypercode benchmark on one small context: every row within its bytes, controls where they must be."""

from __future__ import annotations

import math

import pytest

from hyperscene_plugin.bench.cache_baselines import BASELINES
from hyperscene_plugin.bench.hypercode import Tally, run_case
from hyperscene_plugin.bench.hypercode_cases import make_cases
from hyperscene_plugin.bench.hypercode_extras import composition, off_topic
from hyperscene_plugin.model.hf import LocalModel


@pytest.fixture(scope="module")
def model():
    return LocalModel.load("demo", device_map="cpu")


@pytest.fixture(scope="module")
def tally(model):
    tally = Tally()
    model.hypercode.keep_scores = True
    run_case(model, tally, "short", make_cases(1, 8, 12, seed=3)[0], "best", ablations=True)
    model.hypercode.keep_scores = False
    return tally


def test_every_method_answers_every_question_within_its_bytes(tally):
    for (_, method, ratio), hits in tally.hits.items():
        assert len(hits) == 12
        if method not in ("full context", "no context", "hypercode, int8 on top"):
            assert tally.bytes[_, method, ratio] <= 1.06 / ratio, method  # baselines round to whole tokens and the sink


def test_hypercode_never_takes_more_than_its_share(tally):
    for (_, method, ratio), share in tally.bytes.items():
        if method.startswith("hypercode"):
            assert share <= 1.0 / ratio


def test_controls_stand_where_they_must(tally):
    full = tally.exact("short", "full context", 1.0)
    assert full is not None
    assert full >= 0.9
    assert tally.exact("short", "no context", math.inf) == 0.0
    assert tally.exact("short", "hypercode", 4.0) >= full - 0.1
    assert tally.exact("short", "hypercode + zoom", 12.0) > max(tally.exact("short", name, 12.0) for name in BASELINES)


def test_extras_have_their_baselines(model):
    (row,) = composition(model, seed=1, counts=(2,), contexts=1)
    assert row["documents"] == 2
    assert 0.8 <= row["joint_full"] <= 1.0
    assert row["relative"] > 0.8
    apart = off_topic(model, seed=2, contexts=1, questions=10)
    assert apart["questions"] == 10
    assert apart["full_context_alone"] >= 0.8
