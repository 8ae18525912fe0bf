"""Seeded scenes of people, places, things, numbers and dates, with questions about them: `World` in, exact answers out.

Pure Python (no torch). `World.make_context` writes a text whose every sentence states one or two facts;
`World.ask` asks for a fact in one of many wordings; the gold answer is short and exact (``"Oslo."``).
Pairings are split for good: a hash of (subject, relation, value) sends about a fifth of them to *held-out*,
and `make_context(held_out=False)` never writes those, so a model trained on such texts has not seen them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hyperscene_plugin.demo_model.lexicon import (
    ADJECTIVES,
    BY_NAME,
    MONTHS,
    NAMES,
    OBJECTS,
    RELATIONS,
    REPEAT_REQUESTS,
    UNKNOWN,
    Relation,
)
from hyperscene_plugin.demo_model.smalltalk import day_line, small_talk
from hyperscene_plugin.errors import InputError

HELD_OUT_SHARE = 0.2
_KNOWN = frozenset(NAMES)


@dataclass(frozen=True)
class Fact:
    """One statement: `subject` (a name, or ``adjective noun`` for a thing), `relation` name, `value` as written."""

    subject: str
    relation: str
    value: str


@dataclass(frozen=True)
class Sentence:
    """One sentence or chat turn of a context: its text, its character span there, the facts it states."""

    text: str
    start: int
    end: int
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Context:
    """A text, all facts it states, and its sentences in order; ``text[s.start:s.end] == s.text``."""

    text: str
    facts: tuple[Fact, ...]
    sentences: tuple[Sentence, ...]

    def subjects(self) -> tuple[str, ...]:
        """The subjects of the facts, in order of first mention."""
        return tuple(dict.fromkeys(f.subject for f in self.facts))


@dataclass(frozen=True)
class Question:
    """A question with its exact answer; `fact` is None when the context does not answer it (`UNKNOWN`)."""

    text: str
    answer: str
    fact: Fact | None
    kind: str  # forward, reverse, absent, quote, repeat


def is_held_out(fact: Fact) -> bool:
    """Whether this pairing belongs to the evaluation's fifth; depends on the three strings only."""
    digest = hashlib.blake2b("|".join((fact.subject, fact.relation, fact.value)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**32


def normalise(answer: str) -> str:
    """The form in which answers are compared: stripped, lower case, without a final full stop."""
    return answer.strip().removesuffix(".").strip().casefold()


def exact_match(answer: str, gold: str) -> bool:
    """True when the two answers are the same after `normalise`."""
    return normalise(answer) == normalise(gold)


class World:
    """A source of facts, contexts and questions; the same seed and calls give the same texts.

    Every method takes an optional `rng`; without it the world's own generator (seeded once) is used.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)

    # -- facts ---------------------------------------------------------------------------------------------

    def values(self, relation: str) -> tuple[str, ...]:
        """All words a relation can take; empty for years, dates and numbers, the names for colleagues."""
        spec = _relation(relation)
        return NAMES if spec.kind == "name" else spec.values

    def make_fact(
        self,
        subject: str,
        relation: str,
        rng: random.Random | None = None,
        held_out: bool | None = None,
        avoid: Sequence[str] = (),
    ) -> Fact:
        """A fact with a random value, on the asked side of the split (None: either), its value not in `avoid`."""
        rng, spec = rng or self.rng, _relation(relation)
        for attempt in range(400):
            fact = Fact(subject, relation, _value(spec, rng))
            if fact.value == subject or (held_out is not None and is_held_out(fact) != held_out):
                continue
            if attempt < 200 and fact.value in avoid:
                continue  # a small list of values can run out of unused ones: then they repeat
            return fact
        raise InputError(f"no {relation!r} value left for {subject!r} with held_out={held_out}")

    def make_facts(
        self,
        rng: random.Random | None = None,
        num_people: int = 4,
        facts_per_person: int = 2,
        relations: Sequence[str] | None = None,
        held_out: bool | None = False,
        num_things: int = 0,
    ) -> tuple[Fact, ...]:
        """Facts about distinct people (and things), grouped by subject; values differ within a relation if they can.

        `relations` limits the kinds; with fewer kinds than `facts_per_person` each person gets one of each.
        """
        rng = rng or self.rng
        kinds = [r.name for r in RELATIONS if r.subject == "person"] if relations is None else list(relations)
        for kind in kinds:
            _relation(kind)
        if num_people > len(NAMES) or num_things > len(ADJECTIVES) * len(OBJECTS):
            raise InputError(
                f"at most {len(NAMES)} people and {len(ADJECTIVES) * len(OBJECTS)} things fit in one context"
            )
        used: dict[str, list[str]] = {}
        facts: list[Fact] = []
        spare = rng.sample(NAMES, len(NAMES))
        for _ in range(num_people):
            for name in iter(spare.pop, None):  # a rare name has no held-out value for a relation: take the next name
                chosen = rng.sample(kinds, min(facts_per_person, len(kinds)))
                try:
                    found = [self.make_fact(name, k, rng, held_out, used.get(k, ())) for k in chosen]
                except ValueError:
                    if spare:
                        continue
                    raise
                facts += found
                for fact in found:
                    used.setdefault(fact.relation, []).append(fact.value)
                break
        things = rng.sample([f"{a} {o}" for a in ADJECTIVES for o in OBJECTS], num_things)
        for thing in things:
            try:
                facts.append(self.make_fact(thing, "place", rng, held_out))
            except ValueError:
                if len(things) == 1 and not facts:
                    raise
        return tuple(facts)

    # -- texts ---------------------------------------------------------------------------------------------

    def state(self, facts: Sequence[Fact], rng: random.Random | None = None, style: str = "plain") -> str:
        """One sentence (without surrounding space) that states one fact, or two facts of one person.

        `style`: ``plain``; ``after`` (never the value before the name); ``chat`` (``Anna: I live in Oslo.``).
        """
        rng = rng or self.rng
        spec = _relation(facts[0].relation)
        subject = facts[0].subject
        if style == "chat" and spec.chat:
            said = " and ".join(rng.choice(_relation(f.relation).chat).format(v=f.value) for f in facts)
            return f"{subject}: {said[0].upper()}{said[1:]}."
        if len(facts) == 2:
            first, second = (rng.choice(_relation(f.relation).vps).format(v=f.value) for f in facts)
            return f"{subject} {first} and {second}."
        forms = [f"{{s}} {vp}." for vp in spec.vps] + list(() if style == "after" else spec.before)
        form = rng.choice(forms)
        if spec.subject == "thing" and form.startswith("{s}"):
            form = "The " + form
        said = form.format(s=subject, v=facts[0].value)
        return said[0].upper() + said[1:]

    def write(
        self,
        facts: Sequence[Fact],
        rng: random.Random | None = None,
        style: str = "plain",
        shuffle: bool = True,
        joined: float = 0.15,
        newline: float = 0.15,
        noise: float = 0.0,
    ) -> Context:
        """A text that states the facts, one sentence each (a `joined` share of them two in a sentence).

        Sentences are in random order unless `shuffle` is False, parted by a space or (share `newline`) a
        newline; in chat style every turn has its own line. `noise` is the share of sentences that get small talk
        around them (in chat style also whole turns of it, and lines with a day).
        """
        rng = rng or self.rng
        groups = self._group(list(facts), rng, joined)
        if shuffle:
            rng.shuffle(groups)
        names = [n for n in dict.fromkeys(f.subject for f in facts) if n in _KNOWN] if noise else []
        pieces: list[str] = []
        sentences: list[Sentence] = []
        at = 0
        for group in groups:
            text = self.state(group, rng, style)
            if noise:
                text = _with_noise(text, rng, names, style, noise)
            gap = "" if not sentences else "\n" if style == "chat" or rng.random() < newline else " "
            sentences.append(Sentence(text, at + len(gap), at + len(gap) + len(text), tuple(group)))
            at += len(gap) + len(text)
            pieces += [gap, text]
        return Context("".join(pieces), tuple(f for s in sentences for f in s.facts), tuple(sentences))

    def make_context(
        self,
        rng: random.Random | None = None,
        num_people: int = 4,
        facts_per_person: int = 2,
        relations: Sequence[str] | None = None,
        held_out: bool | None = False,
        num_things: int = 0,
        style: str = "plain",
        joined: float = 0.15,
        newline: float = 0.15,
        noise: float = 0.0,
    ) -> Context:
        """`make_facts` then `write`. Errors: InputError for an unknown relation or too many people or things."""
        rng = rng or self.rng
        facts = self.make_facts(rng, num_people, facts_per_person, relations, held_out, num_things)
        return self.write(facts, rng, style=style, joined=joined, newline=newline, noise=noise)

    def swap_values(self, facts: Sequence[Fact], rng: random.Random | None = None) -> tuple[Fact, ...]:
        """The same facts with the values of each relation handed on to the next subject (a counterfactual world)."""
        rng = rng or self.rng
        swapped = list(facts)
        for kind in dict.fromkeys(f.relation for f in facts):
            where = [i for i, f in enumerate(facts) if f.relation == kind]
            turn = rng.randrange(1, len(where)) if len(where) > 1 else 0
            for i, j in zip(where, where[turn:] + where[:turn], strict=True):
                if facts[j].value != facts[i].subject:
                    swapped[i] = replace(facts[i], value=facts[j].value)
        return tuple(swapped)

    # -- questions -----------------------------------------------------------------------------------------

    def ask(self, fact: Fact, rng: random.Random | None = None) -> Question:
        """A question for the fact's value, in one of several wordings; the answer is the value and a full stop."""
        rng = rng or self.rng
        form = rng.choice(_relation(fact.relation).questions)
        return Question(form.format(s=fact.subject, v=fact.value), f"{fact.value}.", fact, "forward")

    def ask_reverse(self, fact: Fact, rng: random.Random | None = None) -> Question:
        """A question for the fact's subject; meaningful only while no other fact shares relation and value."""
        rng = rng or self.rng
        forms = _relation(fact.relation).reverse
        if not forms:
            raise InputError(f"{fact.relation!r} has no reverse questions")
        lead = "the " if _relation(fact.relation).subject == "thing" else ""
        return Question(rng.choice(forms).format(v=fact.value), f"{lead}{fact.subject}.", fact, "reverse")

    def ask_absent(self, context: Context, rng: random.Random | None = None) -> Question:
        """A question that the context does not answer (an unstated relation of its people, or a stranger)."""
        rng = rng or self.rng
        people = [s for s in context.subjects() if s in NAMES]
        known = {(f.subject, f.relation) for f in context.facts}
        stated = list(dict.fromkeys(f.relation for f in context.facts if _relation(f.relation).subject == "person"))
        for _ in range(200):
            stranger = not people or rng.random() < 0.5
            subject = rng.choice(NAMES) if stranger else rng.choice(people)
            pool = stated if stated and stranger else [r.name for r in RELATIONS if r.subject == "person"]
            kind = rng.choice(pool)
            if (subject, kind) not in known and not (stranger and subject in people):
                text = rng.choice(_relation(kind).questions).format(s=subject)
                return Question(text, UNKNOWN, None, "absent")
        raise InputError("every person of this context has every relation: nothing is absent")

    def ask_repeat(self, context: Context, rng: random.Random | None = None) -> Question:
        """A request to repeat the whole context; the answer is its text."""
        rng = rng or self.rng
        return Question(rng.choice(REPEAT_REQUESTS), context.text, None, "repeat")

    @staticmethod
    def _group(facts: list[Fact], rng: random.Random, joined: float) -> list[list[Fact]]:
        groups: list[list[Fact]] = []
        for fact in facts:
            last = groups[-1] if groups else []
            pair = len(last) == 1 and last[0].subject == fact.subject and _relation(fact.relation).subject == "person"
            if pair and rng.random() < joined:
                last.append(fact)
            else:
                groups.append([fact])
        return groups


def _with_noise(text: str, rng: random.Random, names: list[str], style: str, noise: float) -> str:
    """`text` with small talk before or after what it says, and (in chats) turns and day lines of none of it."""
    chat = style == "chat"
    if rng.random() < noise:
        head, colon, said = text.partition(": ") if chat else ("", "", text)
        before = small_talk(rng, names, chat) + " " if rng.random() < 0.5 else ""
        after = " " + small_talk(rng, names, chat) if rng.random() < 0.6 else ""
        text = f"{head}{colon}{before}{said}{after}"
    while chat and names and rng.random() < noise * 0.6:
        talk = f"{rng.choice(names)}: {small_talk(rng, names, chat)}"
        text = f"{talk}\n{text}" if rng.random() < 0.5 else f"{text}\n{talk}"
    if chat and rng.random() < noise * 0.1:
        text = f"{day_line(rng)}\n{text}"
    return text


def _relation(name: str) -> Relation:
    try:
        return BY_NAME[name]
    except KeyError:
        raise InputError(f"unknown relation {name!r}; known: {', '.join(BY_NAME)}") from None


def _value(spec: Relation, rng: random.Random) -> str:
    if spec.kind == "year":
        return str(rng.randrange(1900, 2010))
    if spec.kind == "date":
        month, day = rng.choice(MONTHS), rng.randrange(1, 29)
        return f"{month} {day}" if rng.random() < 0.5 else f"{day} {month}"
    if spec.kind == "number":
        return f"{rng.randrange(1000, 10000)}"
    return rng.choice(NAMES if spec.kind == "name" else spec.values)
