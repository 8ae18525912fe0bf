"""The four stages on a small text and on the bundled book: covers, sizes, determinism, honest counts."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperscene_plugin.bench.analysis import main, promises
from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.analysis import Analysis, analyse
from hyperscene_plugin.text.collocations import find_collocations
from hyperscene_plugin.text.couplings import CouplingKind, find_couplings
from hyperscene_plugin.text.hypertokens import MAX_TOKENS, MIN_TOKENS, group_scenes, hypertoken_groups
from hyperscene_plugin.text.lemmas import iter_words
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.text.themes import find_themes
from hyperscene_plugin.types import Scene


def word_tokens(text: str) -> int:
    """A tokenizer for tests: four letters a token, so that counts do not depend on any vocabulary file."""
    return sum(-(-len(word) // 4) for word in text.split())


TEXT = (
    "Mr. Alfred Stone left New Harbour on August 2, 1894. He carried three hundred pounds and a red lamp. "
    "The old lighthouse keeper opened the heavy door. New Harbour slept. In New Harbour nobody saw Alfred Stone.\n\n"
    "Василий Иванович купил двести рублей серебра. Он открыл тяжёлую дверь 3 мая 1859 года."
)


def kinds(text: str) -> dict[CouplingKind, set[str]]:
    scenes = segment(text)
    found: dict[CouplingKind, set[str]] = {}
    for scene, couplings in zip(scenes, find_couplings(scenes), strict=True):
        for coupling in couplings:
            found.setdefault(coupling.kind, set()).add(scene.text[coupling.start : coupling.end])
    return found


def test_each_kind_of_coupling_is_found() -> None:
    found = kinds(TEXT)
    assert {"August 2, 1894", "3 мая 1859 года"} <= found[CouplingKind.DATE]
    assert {"three hundred pounds", "двести рублей"} <= found[CouplingKind.NUMBER_UNIT]
    assert {"New Harbour", "Василий Иванович"} <= found[CouplingKind.ENTITY]
    assert {"opened the heavy door", "открыл тяжёлую дверь"} <= found[CouplingKind.VERB_OBJECT]


@given(st.lists(st.sampled_from([*TEXT.split(), "\n\n", "x" * 130, "中文词", "3.5", "--", "«"]), max_size=80))
@settings(max_examples=60, deadline=None)
def test_couplings_cover_every_word_and_groups_tile_every_scene(words: list[str]) -> None:
    text = " ".join(words)
    if not text.strip():
        return
    scenes = segment(text)
    couplings = find_couplings(scenes)
    groups = group_scenes(scenes, couplings, word_tokens)
    for scene, found, scene_groups in zip(scenes, couplings, groups, strict=True):
        assert sum(coupling.num_words for coupling in found) == len(list(iter_words(scene.text)))
        assert all(a.end <= b.start for a, b in pairwise(found))
        assert all(1 <= coupling.num_words <= 6 for coupling in found)
        assert "".join(scene.text[group.start : group.end] for group in scene_groups) == scene.text
        assert sum(group.num_tokens for group in scene_groups) == word_tokens(scene.text)
        for group in scene_groups:
            inside = [
                c for c in found if c.start < group.start < c.end and word_tokens(scene.text[c.start : c.end]) <= 20
            ]
            assert not inside


def test_groups_hold_ten_to_twenty_tokens_but_for_tails() -> None:
    text = " ".join(f"The {i}th ship brought grain and news of the war to the small harbour." for i in range(40))
    scenes = segment(text)
    groups = [group for found in group_scenes(scenes, find_couplings(scenes), word_tokens) for group in found]
    assert all(group.num_tokens <= MAX_TOKENS for group in groups)
    assert sum(group.num_tokens >= MIN_TOKENS for group in groups) > 0.9 * len(groups)


def test_a_long_scene_is_counted_in_blocks_and_still_adds_up() -> None:
    scene = Scene("row of cells | 1 | 2 |\n" * 200, "s", 0, 4600)
    groups = hypertoken_groups(scene, find_couplings([scene])[0], word_tokens)
    assert sum(group.num_tokens for group in groups) == word_tokens(scene.text)


def test_collocations_are_pairs_that_stand_together_more_often_than_chance() -> None:
    together = ["red", "weed"]
    sequences = [[(word, False) for word in [*together, f"a{i}", f"b{i % 3}"]] for i in range(8)]
    spans = find_collocations(sequences)
    assert {(span.first, span.last) for span in spans if span.sequence == 0} == {(0, 2)}
    scattered = [[("red", False), (f"x{i}", False), ("weed", False)] for i in range(8)]
    assert find_collocations(scattered) == []


def test_themes_gather_the_scenes_of_one_topic_and_are_deterministic() -> None:
    topics = ("ship harbour sail mast", "bread oven flour baker", "engine steam piston boiler")
    texts = [f"The {' and the '.join(topic.split()[i % 3 :])} were there, {i}." for i in range(12) for topic in topics]
    scenes = [Scene(text, f"d{i}", 0, len(text)) for i, text in enumerate(texts)]
    found = find_themes(scenes, find_couplings(scenes), num_themes=3, seed=1)
    again = find_themes(scenes, find_couplings(scenes), num_themes=3, seed=1)
    assert found == again
    assert len(found.themes) == 3
    for theme in found.themes:
        assert len({scene % 3 for scene in theme.scenes}) == 1


def test_the_book_lands_in_the_promised_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tokens", "16000", "--tokenizer", "demo"] if _has_demo() else ["--tokens", "16000"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(result["promises"].values()), result
    assert result["counts"]["morphemes"] > result["counts"]["words"]


def _has_demo() -> bool:
    from hyperscene_plugin.errors import HypersceneError
    from hyperscene_plugin.tokens import token_counter

    try:
        token_counter("demo")
    except HypersceneError:
        return False
    return True


def test_an_account_is_printable_and_json_able() -> None:
    analysis: Analysis = analyse(TEXT, tokenizer=word_tokens)
    assert json.loads(json.dumps(analysis.to_dict(details=True)))["counts"]["words"] == analysis.counts.words
    assert "hypertokens" in str(analysis)
    assert analysis.counts.tokens == sum(word_tokens(scene.text) for scene in analysis.scenes)
    assert not promises(analysis)["themes 50 to 100"] or analysis.counts.themes
    saved = {row.stage: row.saved for row in analysis.rows()}
    assert saved["hypertokens"] > 0.8


def test_a_stage_that_saves_nothing_says_so() -> None:
    text = "Unbelievable nationalization retiring happiness. " * 5
    analysis = analyse(text, tokenizer=lambda part: len(part.split()), language="en")
    row = next(row for row in analysis.rows() if row.stage == "morphemes")
    assert row.saved < 0
    assert "saves nothing" in row.note


def test_nothing_to_analyse_is_an_input_error() -> None:
    with pytest.raises(InputError):
        analyse("  ", tokenizer=word_tokens)
    with pytest.raises(InputError, match="nothing to analyse"):
        analyse([], tokenizer=word_tokens)
    scene = segment("One.")[0]
    with pytest.raises(InputError, match="1 of 2 items are scenes"):
        analyse([scene, "two"], tokenizer=word_tokens)  # type: ignore[arg-type]
