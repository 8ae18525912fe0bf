"""World: every question is answerable by a slow reader of the text alone; the split holds; seeds repeat."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from hyperscene_plugin.demo_model.lexicon import BY_NAME, NAMES, RELATIONS, UNKNOWN, Relation
from hyperscene_plugin.demo_model.world import Fact, World, exact_match, is_held_out, normalise


def read_facts(text: str) -> set[Fact]:
    """An oracle that knows the phrasings and nothing of the generator: every fact it can read off `text`."""
    return {fact for sentence in re.split(r"(?<=\.)[ \n]", text) for fact in read_sentence(sentence)}


def read_sentence(sentence: str) -> set[Fact]:
    """The facts of one sentence, by matching it against every phrasing of every relation."""
    found: set[Fact] = set()
    chat = re.fullmatch(r"(\w+): (.*)\.", sentence)
    for relation in RELATIONS:
        for pattern in phrasings(relation, bool(chat)):
            said = [chat[2], chat[2][0].lower() + chat[2][1:]] if chat else [sentence.removesuffix(".")]
            for match in filter(None, (re.fullmatch(pattern, text) for text in said)):
                found.add(Fact(chat[1] if chat else match["s"], relation.name, match["v"]))
    return found


def phrasings(relation: Relation, chat: bool) -> Iterator[str]:
    """Patterns with groups s (not in chat turns) and v for one relation; a verb phrase may stand beside another."""
    value = r"(?P<v>[A-Z]\w+ \d+|\d+ [A-Z]\w+|\w+)"
    if chat:
        yield from (f"(?:.* and )?{form.format(v=value)}(?: and .*)?" for form in relation.chat)
        return
    person = relation.subject == "person"
    subject = r"(?P<s>[A-Z]\w+)" if person else r"(?P<s>\w+ \w+)"
    for vp in relation.vps:
        said = vp.format(v=value)
        yield f"{subject} (?:.* and )?{said}(?: and .*)?" if person else f"The {subject} {said}"
    for form in relation.before:
        yield form.removesuffix(".").format(s=subject, v=value)


@pytest.mark.parametrize("style", ["plain", "after", "chat"])
@pytest.mark.parametrize("seed", range(6))
def test_every_question_is_answered_by_its_context(style: str, seed: int) -> None:
    rng = random.Random(seed)
    world = World(seed)
    context = world.make_context(rng, 8, 4, num_things=0 if style == "chat" else 3, style=style)
    read = read_facts(context.text)
    for fact in context.facts:
        question = world.ask(fact, rng)
        answers = {f.value for f in read if (f.subject, f.relation) == (fact.subject, fact.relation)}
        assert fact.value in answers, (fact, context.text)
        assert fact.subject in question.text
        assert exact_match(question.answer, fact.value)


def test_sentences_tile_the_text_and_carry_the_facts() -> None:
    context = World(3).make_context(num_people=5, facts_per_person=3, num_things=2)
    for sentence in context.sentences:
        assert context.text[sentence.start : sentence.end] == sentence.text
        for fact in sentence.facts:
            assert fact.value in sentence.text
            assert fact.subject in sentence.text
    assert context.facts == tuple(f for s in context.sentences for f in s.facts)


def test_training_and_held_out_pairings_are_disjoint() -> None:
    world, rng = World(0), random.Random(0)
    train = {f for _ in range(60) for f in world.make_facts(rng, 10, 3, held_out=False, num_things=2)}
    held = {f for _ in range(60) for f in world.make_facts(rng, 10, 3, held_out=True, num_things=2)}
    assert train
    assert held
    assert not train & held
    assert not any(map(is_held_out, train))
    assert all(map(is_held_out, held))


def test_about_a_fifth_is_held_out() -> None:
    facts = World(0).make_facts(random.Random(0), 200, 10, held_out=None)
    assert 0.15 < sum(map(is_held_out, facts)) / len(facts) < 0.25


def test_same_seed_same_text_and_another_seed_another_text() -> None:
    texts = [World(seed).make_context(num_people=6, facts_per_person=3).text for seed in (5, 5, 6)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_absent_questions_are_not_answered_by_the_context() -> None:
    world, rng = World(0), random.Random(1)
    context = world.make_context(rng, 6, 3)
    known = {(f.subject, f.relation) for f in context.facts}
    for _ in range(200):
        question = world.ask_absent(context, rng)
        subject = next(n for n in NAMES if n in re.findall(r"\w+", question.text))
        kinds = {r.name for r in RELATIONS for q in r.questions if q.format(s=subject) == question.text}
        assert question.answer == UNKNOWN
        assert kinds
        assert not any((subject, kind) in known for kind in kinds)


def test_swapped_values_stay_within_their_relation_and_change() -> None:
    world, rng = World(0), random.Random(2)
    facts = world.make_facts(rng, 6, 2, ["city", "pet"])
    swapped = world.swap_values(facts, rng)
    assert [(f.subject, f.relation) for f in facts] == [(f.subject, f.relation) for f in swapped]
    assert sorted(f.value for f in facts) == sorted(f.value for f in swapped)
    assert all(a.value != b.value for a, b in zip(facts, swapped, strict=True))


def test_reverse_questions_name_the_subject() -> None:
    world = World(0)
    fact = Fact("Anna", "city", "Oslo")
    assert world.ask_reverse(fact).answer == "Anna."
    assert "Oslo" in world.ask_reverse(fact).text


def test_wrong_use_is_refused_by_name() -> None:
    world = World(0)
    with pytest.raises(ValueError, match="unknown relation 'shoe'"):
        world.make_fact("Anna", "shoe")
    with pytest.raises(ValueError, match="at most"):
        world.make_context(num_people=10_000)
    with pytest.raises(ValueError, match="no reverse"):
        world.ask_reverse(Fact("Anna", "colleague", "Peter"))


def test_normalised_answers() -> None:
    assert normalise("  Oslo. ") == "oslo"
    assert exact_match("Oslo", " oslo.")
    assert not exact_match("Oslo", "Bergen.")


def test_a_world_with_every_relation_stated_has_nothing_absent_for_its_people() -> None:
    world = World(0)
    people = [r.name for r in BY_NAME.values() if r.subject == "person"]
    context = world.make_context(random.Random(0), 2, len(people), held_out=None)
    assert world.ask_absent(context, random.Random(0)).answer == UNKNOWN  # then a stranger is asked about
