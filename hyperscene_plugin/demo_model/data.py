"""Training sequences: world texts and question turns to token ids, positions and loss weights, in fixed-size batches.

One sequence is a chat: a context (in the system or in the first user message), then many question and answer
turns. Text is encoded word by word through a cache, which gives exactly the tokenizer's ids (words never
merge across spaces) at a hundredth of its cost.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from hyperscene_plugin.demo_model.lexicon import QUOTE_QUESTIONS, RELATIONS, REPEAT_REQUESTS
from hyperscene_plugin.demo_model.tokenizer import ASSISTANT, BOS, END, PAD, SYSTEM, USER, token_id
from hyperscene_plugin.demo_model.world import Context, World

_CHUNK = re.compile(r"\n| ?[^ \n]+| ")
PERSON_RELATIONS = tuple(r.name for r in RELATIONS if r.subject == "person")
DIGIT_RELATIONS = tuple(r.name for r in RELATIONS if r.kind in ("year", "date", "number"))


class FragmentEncoder:
    """Encode text by cached words; `encode` equals ``tokenizer.encode(text, add_special_tokens=False)``."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ids: list[int] = []
        for chunk in _CHUNK.findall(text):
            known = self._cache.get(chunk)
            if known is None:
                known = self._cache[chunk] = self._tokenizer.encode(chunk, add_special_tokens=False)
            ids += known
        return ids


@dataclass
class Mix:
    """What sequences hold; the curriculum changes these as accuracy grows. Shares are probabilities."""

    people: tuple[int, ...] = (2, 3, 4, 6, 8)
    facts: tuple[int, ...] = (1, 2, 3)
    max_facts: int = 32
    same_relation: float = 0.4
    chat: float = 0.0
    value_first: float = 0.3  # texts (chats aside) in which some sentences put the value before the name
    digits: float = 0.0  # texts of mostly years, dates and numbers
    reverse: float = 0.0
    absent: float = 0.0
    repeat: float = 0.0
    quote: float = 0.0
    turns: int = 16
    joined: float = 0.1
    gap: float = 0.0
    noise: float = 0.0
    max_tokens: int = 512
    lm_share: float = 0.05


@dataclass
class Sample:
    """One sequence: ids, positions and per-token loss weights (0: no loss), equally long."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)  # indices after which a position gap may be put

    def add(self, ids: Sequence[int], weight: float) -> None:
        """Append ids that all carry the same loss weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)


class Sampler:
    """Draws samples and batches from the world; one `rng` drives everything, so a seed repeats the stream."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, passages: Sequence[Sequence[str]] = (), held_out: bool | None = False
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = FragmentEncoder(tokenizer)
        self.world = World(0)
        self.passages = passages
        self.held_out = held_out
        self.bos, self.end, self.pad = (token_id(tokenizer, t) for t in (BOS, END, PAD))
        self.system, self.user, self.assistant = (token_id(tokenizer, t) for t in (SYSTEM, USER, ASSISTANT))

    def sample(self, rng: random.Random, mix: Mix) -> Sample:
        """One sequence of at most ``mix.max_tokens`` ids."""
        quote = bool(self.passages) and rng.random() < mix.quote
        if quote:
            sentences = list(rng.choice(self.passages))[: rng.choice((1, 2, 3, 8))]
            context = Context(" ".join(sentences), (), ())
            turns = self._quote_turns(rng, sentences, mix)
        else:
            context = self._context(rng, mix)
            turns = self._turns(rng, context, mix)
        sample = Sample()
        sample.add([self.bos], 0.0)
        in_system = rng.random() < 0.4
        sample.add([self.system if in_system else self.user], 0.0)
        self._add_text(sample, " " + context.text, 0.0)
        if in_system:
            sample.add([self.end], 0.0)
        for i, (question, answer) in enumerate(turns):
            own_turn = in_system or i > 0
            q_ids = self.encoder.encode((" " if own_turn else rng.choice(("\n", "\n\n"))) + question)
            a_ids = self.encoder.encode(" " + answer)
            head = [self.user] if own_turn else []
            if len(sample.ids) + len(q_ids) + len(a_ids) + 4 > mix.max_tokens:
                if i:
                    break
                return self.sample(rng, mix)
            sample.breaks.append(len(sample.ids))
            sample.add([*head, *q_ids, self.end, self.assistant], 0.0)
            weight = min(1.0, 30 / len(a_ids))  # a long copied answer must not drown the others
            sample.add(a_ids, weight)
            sample.add([self.end], 0.3)
        return sample

    def batch(self, rng: random.Random, mix: Mix, tokens: int) -> dict[str, torch.Tensor]:
        """About `tokens` ids (padding included) as right-padded rows.

        Returns ``ids``, ``positions`` (B, T) int64 and ``weights`` (B, T) float32: the loss weight of predicting
        that token from the ones before it.
        """
        samples = [self.sample(rng, mix)]
        width = len(samples[0].ids)
        while True:
            nxt = self.sample(rng, mix)
            if max(width, len(nxt.ids)) * (len(samples) + 1) > tokens:
                break
            samples.append(nxt)
            width = max(width, len(nxt.ids))
        ids = torch.full((len(samples), width), self.pad)
        weights = torch.zeros(len(samples), width)
        positions = torch.arange(width).repeat(len(samples), 1)
        for row, sample in enumerate(samples):
            n = len(sample.ids)
            ids[row, :n] = torch.tensor(sample.ids)
            w = torch.tensor(sample.weights)
            if mix.lm_share:
                w[(w == 0) & (torch.tensor([rng.random() for _ in range(n)]) < mix.lm_share)] = 0.1
            weights[row, :n] = w
            if mix.gap and rng.random() < mix.gap:
                positions[row] += self._gaps(rng, sample, width)
        return {"ids": ids, "positions": positions, "weights": weights}

    def _gaps(self, rng: random.Random, sample: Sample, width: int) -> torch.Tensor:
        spare = 3000 - width
        shift = torch.zeros(width, dtype=torch.long)
        if spare <= 0:
            return shift
        total = rng.randrange(spare)
        points = sorted(rng.sample(sample.breaks, min(len(sample.breaks), rng.randrange(1, 8))))
        cuts = sorted(rng.randrange(total + 1) for _ in points)
        for point, (low, high) in zip(points, zip([0, *cuts], cuts, strict=False), strict=False):
            shift[point:] += high - low
        return shift

    def _add_text(self, sample: Sample, text: str, weight: float) -> None:
        for piece in re.split(r"(?<=[.!?])(?=[ \n])", text):
            sample.breaks.append(len(sample.ids))
            sample.add(self.encoder.encode(piece), weight)

    def _context(self, rng: random.Random, mix: Mix) -> Context:
        people, per = rng.choice(mix.people), rng.choice(mix.facts)
        while people * per > mix.max_facts:
            people, per = rng.choice(mix.people), rng.choice(mix.facts)
        same = rng.random() < mix.same_relation
        style = "chat" if rng.random() < mix.chat else "plain" if rng.random() < mix.value_first else "after"
        relations = rng.sample(PERSON_RELATIONS, 1 if same else max(per, rng.randrange(2, len(PERSON_RELATIONS) + 1)))
        if not same and rng.random() < mix.digits:
            relations = list(dict.fromkeys([*DIGIT_RELATIONS, *rng.sample(PERSON_RELATIONS, 2)]))
        if same:
            people = min(people * per, 24)
        things = rng.randrange(1, 4) if not same and style != "chat" and rng.random() < 0.3 else 0
        newline = rng.choice((0.0, 0.1, 0.3, 1.0))
        noise = rng.choice((0.2, 0.5, 0.8)) if rng.random() < mix.noise * (2 if style == "chat" else 1) else 0.0
        return self.world.make_context(
            rng, people, per, relations, self.held_out, things, style, joined=mix.joined, newline=newline, noise=noise
        )

    def _turns(self, rng: random.Random, context: Context, mix: Mix) -> list[tuple[str, str]]:
        turns: list[tuple[str, str]] = []
        if rng.random() < mix.repeat:
            question = self.world.ask_repeat(context, rng)
            turns.append((question.text, question.answer))
        facts = list(context.facts)
        rng.shuffle(facts)
        counts: dict[tuple[str, str], int] = {}
        for fact in facts:
            counts[fact.relation, fact.value] = counts.get((fact.relation, fact.value), 0) + 1
        for fact in facts[: mix.turns]:
            if rng.random() < mix.absent:
                try:
                    question = self.world.ask_absent(context, rng)
                    turns.append((question.text, question.answer))
                except ValueError:
                    pass
            backwards = counts[fact.relation, fact.value] == 1 and fact.relation != "colleague"
            if backwards and rng.random() < mix.reverse:
                question = self.world.ask_reverse(fact, rng)
            else:
                question = self.world.ask(fact, rng)
            turns.append((question.text, question.answer))
        return turns

    def _quote_turns(self, rng: random.Random, sentences: Sequence[str], mix: Mix) -> list[tuple[str, str]]:
        words: dict[str, int] = {}
        for sentence in sentences:
            for word in set(re.findall(r"[A-Za-z]{5,}", sentence)):
                words[word] = words.get(word, 0) + 1
        turns = []
        for sentence in rng.sample(list(sentences), min(3, len(sentences))):
            marks = [w for w in sorted(set(re.findall(r"[A-Za-z]{5,}", sentence))) if words[w] == 1]
            if marks:
                turns.append((rng.choice(QUOTE_QUESTIONS).format(v=rng.choice(marks)), sentence))
        if not turns or (len(sentences) < 4 and rng.random() < 0.6):
            turns.insert(0, (rng.choice(REPEAT_REQUESTS), " ".join(sentences)))
        return turns


def load_passages(path: Path | None = None, held_out: bool = False) -> tuple[str, list[list[str]]]:
    """The sample book as (its text, passages of 3-8 sentences). The last tenth of the book is kept for evaluation.

    `held_out` asks for the passages of that tenth instead. Returns ``("", [])`` when the book is not installed.
    """
    path = path or Path(__file__).parent.parent / "demo" / "samples" / "the-time-machine.en.md"
    if not path.exists():
        return "", []
    book = path.read_text(encoding="utf-8")
    paragraphs = [" ".join(p.split()) for p in book.split("\n\n") if p.strip() and not p.lstrip().startswith("#")]
    passages: list[list[str]] = []
    sentences: list[str] = []
    for paragraph in paragraphs:
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph):
            if 12 <= len(sentence) <= 220:
                sentences.append(sentence)
            if len(sentences) >= 3 + len(passages) % 6:
                passages.append(sentences)
                sentences = []
    cut = len(passages) * 9 // 10
    return book, passages[cut:] if held_out else passages[:cut]
