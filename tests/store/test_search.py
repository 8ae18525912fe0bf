"""Ranking against slow oracles: BM25 from its formula, cosines from all pairs; scopes and filters before ranking."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hyperscene_plugin.store import SceneFilter, SceneStore
from hyperscene_plugin.store.fulltext import Postings, bm25_idf, pack_terms, term_hash, unpack_terms
from hyperscene_plugin.store.vectors import VectorMatrix
from hyperscene_plugin.text.lemmas import lemmatize
from hyperscene_plugin.types import Scene, Scope

USER = Scope("u")
UnitRows = Callable[[int, int, int], np.ndarray]


def bm25_oracle(texts: list[str], query: str) -> list[float]:
    bags = [Counter(lemmatize(text)) for text in texts]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for term in set(lemmatize(query)):
            holding = sum(term in other for other in bags)
            idf = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
            score += idf * bag[term] * 2.2 / (bag[term] + 1.2 * (0.25 + 0.75 * bag.total() / mean))
        scores.append(score)
    return scores


def zipf_texts(number: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(400)]
    weights = [1 / (i + 1) for i in range(400)]
    return [" ".join(rng.choices(words, weights, k=rng.randint(3, 25))) for _ in range(number)]


def test_bm25_is_the_formula(tmp_path: Path) -> None:
    texts = zipf_texts(120, seed=1)
    with SceneStore.open(tmp_path / "s.db") as store:
        store.add([Scene(text, "d", i, i + len(text)) for i, text in enumerate(texts)], USER)
        for query in ("w0 w1 w7", "w3", "w0 w0 w90 w200", "nothing w2"):
            expected = bm25_oracle(texts, query)
            hits = store.search(query, USER, mode="text", top_k=200).hits
            assert len(hits) == sum(score > 0 for score in expected)
            for hit in hits:
                assert hit.score == pytest.approx(expected[hit.scene.start], rel=1e-4)
            assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)


@pytest.mark.parametrize("masked", [False, True])
def test_pruning_changes_no_result(masked: bool) -> None:
    """12,000 documents, so that frequent lemmas are pruned; the oracle weighs every lemma in every document."""
    texts = zipf_texts(12_000, seed=2)
    postings = Postings.build(*unpack_terms([pack_terms(text) for text in texts]), len(texts))
    rng = np.random.default_rng(3)
    allowed = rng.random(len(texts)) < 0.3 if masked else None
    mean = float(postings.lengths.mean())
    pruned = 0
    for query in ("w0 w1 w2", "w0 w350", "w0 w1 w2 w3 w120 w300", "w0"):
        terms = {term_hash(word) for word in query.split()}
        weights = {term: bm25_idf(len(texts), len(postings.find(term)[0])) for term in terms}
        full = np.zeros(len(texts))
        for term, weight in weights.items():
            docs, counts = postings.find(term)
            full[docs] += weight * counts * 2.2 / (counts + 1.2 * (0.25 + 0.75 * postings.lengths[docs] / mean))
        if allowed is not None:
            full[~allowed] = 0
        places, scores = postings.best(weights, mean, allowed, 10)
        best = np.sort(full)[::-1][:10]
        np.testing.assert_allclose(scores, best, rtol=1e-4)
        np.testing.assert_allclose(full[places], best, rtol=1e-4)
        pruned += 1
    assert pruned == 4


@pytest.mark.parametrize("allowed_share", [None, 0.5, 0.01])
def test_sign_codes_find_what_comparing_all_finds(unit: UnitRows, allowed_share: float | None) -> None:
    centres = unit(1, 60, 128)
    rng = np.random.default_rng(2)
    rows = centres[rng.integers(60, size=9000)] + 0.05 * rng.standard_normal((9000, 128)).astype(np.float32)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    matrix = VectorMatrix.build(rows)
    assert matrix.codes is not None
    allowed = None if allowed_share is None else rng.random(9000) < allowed_share
    shares = []
    for query in unit(3, 20, 128) * 0.3 + centres[:20]:
        query = query / np.linalg.norm(query)
        cosines = rows.astype(np.float32) @ query
        if allowed is not None:
            cosines[~allowed] = -2
        true = np.sort(cosines)[::-1][:10]
        places, found = matrix.nearest(query, 10, allowed)
        np.testing.assert_allclose(found, cosines[places], atol=1e-5)
        shares.append(float((found >= true[-1] - 1e-6).mean()))
        np.testing.assert_allclose(matrix.nearest(query, 10, allowed, exact=True)[1], true, atol=1e-5)
    assert np.mean(shares) >= 0.95


def test_a_code_of_nothing_finds_nothing(unit: UnitRows) -> None:
    """Negative control: with the sign bits scrambled, the recall that the test above asks for is out of reach."""
    rows = unit(1, 9000, 128).astype(np.float16)
    whole = VectorMatrix.build(rows)
    assert whole.codes is not None
    broken = VectorMatrix(rows, whole.mean, np.random.default_rng(0).permuted(whole.codes, axis=1))
    shares = []
    for query in unit(3, 20, 128):
        true = np.sort(rows.astype(np.float32) @ query)[-10]
        shares.append(float((broken.nearest(query, 10, None)[1] >= true).mean()))
    assert np.mean(shares) < 0.5


def test_a_small_scope_gets_its_full_share(tmp_path: Path, unit: UnitRows) -> None:
    """Scope and filter come before the ranking: better matches elsewhere do not use up the places."""
    crowd, small = Scope("u", session_id="crowd"), Scope("u", session_id="small")
    rows = unit(1, 5200, 96)
    with SceneStore.open(tmp_path / "s.db") as store:
        store.add_many(
            (Scene(f"ship ship {i}", "crowd", i, i + 1) for i in range(5000)), crowd,
            encode=lambda texts: rows[: len(texts)], encoder_name="e",
        )  # fmt: skip
        few = [Scene(f"a ship of {i} and more words", "small", i, i + 1, metadata={"n": i % 2}) for i in range(20)]
        store.add(few, small, vectors=rows[5100:5120], encoder_name="e")
        for mode in ("text", "vector", "hybrid"):
            found = store.search("ship", small, vector=rows[0], encoder_name="e", mode=mode, top_k=10)
            assert len(found) == 10
            only = SceneFilter(source_id="small", metadata={"n": 1})
            found = store.search("ship", Scope("u"), vector=rows[0], encoder_name="e", mode=mode, top_k=10, where=only)
            assert len(found) == 10
            assert {hit.scene.metadata["n"] for hit in found} == {1}


def test_an_index_follows_other_stores_on_the_same_file(tmp_path: Path, unit: UnitRows) -> None:
    """Interleaved adding, removing and searching by two stores gives what a store opened afterwards gives."""
    rng = random.Random(5)
    vectors = unit(7, 400, 16)
    with SceneStore.open(tmp_path / "s.db") as one, SceneStore.open(tmp_path / "s.db") as two:
        ids: list[str] = []
        for step in range(60):
            writer = rng.choice((one, two))
            if ids and rng.random() < 0.25:
                gone = rng.sample(ids, k=min(len(ids), 3))
                writer.forget(USER, ids=gone, vacuum=False)
                ids = [name for name in ids if name not in gone]
            else:
                first = 6 * step
                batch = [Scene(f"ship w{i % 7} w{i % 11} number {i}", "d", i, i + 1) for i in range(first, first + 6)]
                ids += writer.add(batch, USER, vectors=vectors[first : first + 6], encoder_name="e").ids
            if step % 10 == 9:
                query = {"vector": vectors[step], "encoder_name": "e", "top_k": 20}
                with SceneStore.open(tmp_path / "s.db") as fresh:
                    expected = fresh.search(f"w{step % 7} ship", USER, **query)
                assert len(expected) == 20
                for store in (one, two):
                    found = store.search(f"w{step % 7} ship", USER, **query)
                    assert [hit.scene.id for hit in found] == [hit.scene.id for hit in expected]


def test_least_used_indexes_go_when_memory_is_short(tmp_path: Path) -> None:
    with SceneStore.open(tmp_path / "s.db", index_bytes=20_000) as store:
        for user in range(12):
            store.add([Scene(f"ship number {i}", "d", i, i + 1) for i in range(100)], Scope(f"u{user}"))
        for _ in range(2):
            for user in range(12):
                assert len(store.search("ships", Scope(f"u{user}"), mode="text")) == 10
        assert 0 < store.index_bytes <= 20_000
