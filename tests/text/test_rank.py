"""Scores: components add up, neighbours and speakers count, names lead from one document to the next."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.compress import cut
from hyperscene_plugin.text.index import SceneIndex, embedding_text
from hyperscene_plugin.text.links import TitleFinder, title_words
from hyperscene_plugin.text.rank import score_scenes
from hyperscene_plugin.types import Document, Message

if TYPE_CHECKING:
    from collections.abc import Sequence


class WordEncoder:
    """Hashes words into 64 dimensions: real vectors of length 1, the same on every machine."""

    name = "words-64"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.full((len(texts), 64), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.casefold().split():
                vectors[row, hashlib.sha256(word.encode()).digest()[0] % 64] += 1
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


FILMS = [
    Document(
        "Silent Harbour is a 1961 drama film directed by Marta Kell. It was shot in Lisbon.", title="Silent Harbour"
    ),
    Document("Open Road is a 1970 comedy film directed by Paul Dane. It was a success.", title="Open Road (film)"),
    Document("Marta Kell was a Dutch director. She was born in Utrecht in 1920.", title="Marta Kell"),
    Document("Anna Brook was a Welsh painter. She was born in Cardiff in 1931.", title="Anna Brook"),
    Document("Paul Dane was a Danish director. He was born in Odense in 1935.", title="Paul Dane"),
]
CHAT = [
    Message("user", "Did you see the new museum?", name="Nora"),
    Message("user", "I moved to Oslo in March.", name="Nora"),
    Message("user", "My brother moved to Oslo in March.", name="Liam"),
    Message("user", "The weather is fine.", name="Liam"),
]
QUESTION = "Where was the director of the film Silent Harbour born?"


@pytest.mark.parametrize("encoder", [None, WordEncoder()])
@pytest.mark.parametrize(("source", "query"), [(FILMS, QUESTION), (CHAT, "When did Nora move to Oslo?")])
def test_components_add_up_to_the_total(encoder: WordEncoder | None, source: list[object], query: str) -> None:
    scores = score_scenes(SceneIndex.build(cut(source), encoder=encoder), query, encoder)  # type: ignore[arg-type]
    assert np.allclose(scores.total, np.sum(list(scores.components.values()), axis=0))
    assert sum(scores.explain(0).values()) == pytest.approx(float(scores.total[0]), abs=1e-5)


def test_the_second_hop_is_found_through_the_name_in_the_first() -> None:
    index = SceneIndex.build(cut(FILMS))
    scores = score_scenes(index, QUESTION)
    born = {scene.title: scores.total[place] for place, scene in enumerate(index.scenes) if "born" in scene.text}
    assert max(born, key=lambda title: born[title]) == "Marta Kell"
    renamed = [*FILMS[:2], Document(FILMS[2].text.replace("Marta Kell", "Ida Holm"), title="Ida Holm"), *FILMS[3:]]
    index = SceneIndex.build(cut(renamed))
    without = score_scenes(index, QUESTION)
    reached = {scene.title for place, scene in enumerate(index.scenes) if without.components["bridge"][place]}
    assert "Ida Holm" not in reached, "nobody names Ida Holm, so no bridge may lead there"


def test_bridges_survive_russian_endings() -> None:
    finder = TitleFinder([title_words("Нижний Новгород (город)"), title_words("Пётр (князь)")])
    words = [*title_words("дорога к Нижнему Новгороду")]
    assert set(finder.find(words)) == {0}


def test_the_named_speaker_goes_first() -> None:
    index = SceneIndex.build(cut(CHAT))
    scores = score_scenes(index, "When did Nora move to Oslo?")
    assert int(np.argmax(scores.total)) == 1
    assert scores.components["speaker"][1] > scores.components["speaker"][2] == 0
    assert not score_scenes(index, "Who moved to Oslo?").components["speaker"].any()


def test_turns_that_only_ask_are_marked_down() -> None:
    asks = score_scenes(SceneIndex.build(cut(CHAT)), "museum").components["asks_itself"]
    assert asks[0] < 0 == asks[1]


def test_an_index_is_reusable_and_gives_the_same_scores() -> None:
    index = SceneIndex.build(cut(FILMS), encoder=WordEncoder())
    once = score_scenes(index, QUESTION, WordEncoder()).total
    score_scenes(index, "something else", WordEncoder())
    assert np.array_equal(once, score_scenes(index, QUESTION, WordEncoder()).total)


def test_vectors_handed_in_equal_vectors_made() -> None:
    scenes = cut(FILMS)
    made = SceneIndex.build(scenes, encoder=WordEncoder())
    given = SceneIndex.build(scenes, vectors=WordEncoder().encode([embedding_text(scene) for scene in scenes]))
    assert made.vectors is not None
    assert given.vectors is not None
    assert np.array_equal(made.vectors, given.vectors)


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="one vector per scene"):
        SceneIndex.build(cut(FILMS), vectors=np.zeros((2, 8), dtype=np.float32))


def test_derived_words_meet_in_documents_without_titles() -> None:
    texts = ["В городе шёл дождь.", "Победитель турнира получил кубок.", "Рынок открыли утром."]
    index = SceneIndex.build(cut([Document(text) for text in texts]))
    scores = score_scenes(index, "Чья это победа?")
    assert not scores.components["lexical"].any(), "no lemma is shared, or this shows nothing"
    assert int(np.argmax(scores.total)) == 1
    assert not score_scenes(index, "Сколько лет слону?").components["pieces"].any()


def test_what_a_bridge_takes_away() -> None:
    index = SceneIndex.build(cut(FILMS))
    components = score_scenes(index, QUESTION).components
    places = {scene.text.strip(): place for place, scene in enumerate(index.scenes)}
    assert components["anchored_rest"][places["It was shot in Lisbon."]] < 0
    assert np.count_nonzero(components["anchored_rest"]) == 1, (
        "leads, crossing sentences and other documents keep theirs"
    )
    own = [name for name in components if name.startswith("lexical")]
    for place, bridge in enumerate(components["bridge"].tolist()):
        reached = bridge / (7.5 if index.leads[place] else 5.0)
        similarity = sum(float(components[name][place]) for name in own)
        assert components["words_elsewhere"][place] == pytest.approx(-0.3 * reached * similarity, abs=1e-5)
    assert "anchored_rest" not in score_scenes(index, "Who was born in Utrecht?").components
