"""A text or its scenes → the four-stage analysis: morphemes, couplings, hypertoken groups, themes, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.couplings import Coupling, find_couplings
from hyperscene_plugin.text.hypertokens import HypertokenGroup, group_scenes
from hyperscene_plugin.text.lemmas import iter_words
from hyperscene_plugin.text.morphology import Morphemes, detect_language, split_word
from hyperscene_plugin.text.segment import segment
from hyperscene_plugin.text.themes import Themes, find_themes
from hyperscene_plugin.tokens import token_counter
from hyperscene_plugin.types import Encoder, Scene, Source

__all__ = ["Analysis", "Counts", "StageRow", "analyse"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of each there are; ``tokens`` is the sum over scenes by the tokenizer, the measure of all the rest."""

    tokens: int
    words: int
    word_forms: int
    morphemes: int
    endings: int
    couplings: int
    multiword_couplings: int
    hypertokens: int
    short_hypertokens: int
    long_hypertokens: int
    scenes: int
    themes: int
    outlier_scenes: int


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of the report: ``saved`` is the share of units saved against tokens, negative where there are more."""

    stage: str
    count: int
    tokens_per_unit: float
    saved: float
    note: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """What ``analyse`` found. Indices in every field run over ``scenes``.

    ``morphemes`` maps each word form to its morphemes; ``word_counts`` says how often it occurs. Spans of
    ``couplings`` and ``hypertokens`` are offsets into their scene's text. ``notes`` records what was left out or
    fell back.
    """

    tokenizer: str
    language: str
    scenes: tuple[Scene, ...]
    morphemes: Mapping[str, Morphemes]
    word_counts: Mapping[str, int]
    couplings: tuple[tuple[Coupling, ...], ...]
    hypertokens: tuple[tuple[HypertokenGroup, ...], ...]
    themes: Themes
    counts: Counts
    notes: tuple[str, ...] = ()

    def rows(self) -> tuple[StageRow, ...]:
        """The report's lines: each stage's count, its tokens per unit and what it saves against tokens."""
        counts = self.counts
        multi = f"{counts.multiword_couplings:,} of two to six words"
        short = f"{counts.short_hypertokens:,} under 10 tokens, {counts.long_hypertokens:,} over 20"
        stages = (
            ("tokens", counts.tokens, f"by {self.tokenizer}"),
            ("words", counts.words, f"{counts.word_forms:,} different forms"),
            ("morphemes", counts.morphemes, "a finer unit than the word"),
            ("endings", counts.endings, "inflectional endings split off as markers"),
            ("couplings", counts.couplings, multi),
            ("hypertokens", counts.hypertokens, short),
            ("scenes", counts.scenes, f"{counts.outlier_scenes:,} in no theme"),
            ("themes", counts.themes, f"mean stability {self._mean_stability():.2f}"),
        )
        return tuple(
            StageRow(
                stage,
                count,
                counts.tokens / count if count else 0.0,
                0.0 if stage == "endings" or not counts.tokens else 1 - count / counts.tokens,
                f"{note}; saves nothing, there are more of them than tokens" if count > counts.tokens else note,
            )
            for stage, count, note in stages
        )

    def _mean_stability(self) -> float:
        themes = self.themes.themes
        return sum(theme.stability for theme in themes) / max(1, len(themes))

    def to_dict(self, *, details: bool = False) -> dict[str, Any]:
        """A JSON-able account: counts, rows and themes; with ``details`` every scene's couplings and groups too."""
        result: dict[str, Any] = {
            "tokenizer": self.tokenizer,
            "language": self.language,
            "counts": asdict(self.counts),
            "stages": [asdict(row) for row in self.rows()],
            "themes": [asdict(theme) for theme in self.themes.themes],
            "outlier_scenes": list(self.themes.outliers),
            "notes": list(self.notes),
        }
        if details:
            result["scenes"] = [
                {
                    "key": scene.key,
                    "kind": scene.kind.value,
                    "text": scene.text,
                    "couplings": [
                        [coupling.start, coupling.end, coupling.kind.value, coupling.key] for coupling in couplings
                    ],
                    "hypertokens": [list(group) for group in groups],
                }
                for scene, couplings, groups in zip(self.scenes, self.couplings, self.hypertokens, strict=True)
            ]
            result["morphemes"] = {form: list(split.texts) for form, split in self.morphemes.items()}
            result["endings"] = {form: split.ending for form, split in self.morphemes.items() if split.ending}
        return result

    def __str__(self) -> str:
        lines = [f"{'stage':12}{'count':>10}{'tokens each':>13}{'saved':>9}  note"]
        for row in self.rows():
            saved = "" if row.stage in ("tokens", "endings") else f"{row.saved:.1%}"
            lines.append(f"{row.stage:12}{row.count:>10,}{row.tokens_per_unit:>13.2f}{saved:>9}  {row.note}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def analyse(
    source: Source | Sequence[Scene],
    *,
    tokenizer: object = None,
    encoder: Encoder | None = None,
    language: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Analysis:
    """Run all four stages on a source, or on scenes cut before.

    Args:
        source: anything ``segment`` takes, or scenes. A source is cut with sizes in tokens of ``tokenizer`` where
            one is named, else in estimated cl100k tokens.
        tokenizer: what tokens are counted with (anything ``token_counter`` accepts; default the demo model's).
        encoder: where given, themes are clustered on its vectors instead of TF-IDF ones.
        language: ISO 639-1 code; default: detected. Decides how words are cut into morphemes.
        seed: of the clustering.
        progress: called with the name of each stage as it starts.

    Raises:
        InputError: nothing to analyse, or what ``segment`` raises.
        ConfigError: the tokenizer is not of an accepted kind.
    """
    say = progress or (lambda stage: None)
    counter = token_counter(tokenizer)
    say("scenes")
    scenes = _scenes(source, tokenizer)
    notes: list[str] = []
    text_sample = "\n".join(scene.text for scene in scenes[:400])
    code = language or detect_language(text_sample)
    if code not in ("en", "ru"):
        notes.append(
            f"language {code!r}: only endings are split off (by lemma); prefixes and suffixes are for en and ru"
        )
    say("morphemes")
    words = Counter(word for scene in scenes for word, _, _ in iter_words(scene.text))
    morphemes = {form: split_word(form, code) for form in words}
    say("couplings")
    couplings = find_couplings(scenes)
    say("hypertokens")
    groups = group_scenes(scenes, couplings, counter)
    say("themes")
    themes = find_themes(scenes, couplings, encoder=encoder, seed=seed)
    if not themes.themes:
        notes.append("no themes: too few scenes")
    flat = [group for scene_groups in groups for group in scene_groups]
    counts = Counts(
        tokens=sum(group.num_tokens for group in flat),
        words=words.total(),
        word_forms=len(words),
        morphemes=sum(count * len(morphemes[form].parts) for form, count in words.items()),
        endings=sum(count for form, count in words.items() if morphemes[form].ending is not None),
        couplings=sum(map(len, couplings)),
        multiword_couplings=sum(coupling.num_words > 1 for found in couplings for coupling in found),
        hypertokens=len(flat),
        short_hypertokens=sum(group.is_short for group in flat),
        long_hypertokens=sum(group.is_long for group in flat),
        scenes=len(scenes),
        themes=len(themes.themes),
        outlier_scenes=len(themes.outliers),
    )
    return Analysis(
        tokenizer=counter.name,
        language=code,
        scenes=tuple(scenes),
        morphemes=morphemes,
        word_counts=words,
        couplings=tuple(tuple(found) for found in couplings),
        hypertokens=tuple(tuple(found) for found in groups),
        themes=themes,
        counts=counts,
        notes=tuple(notes),
    )


def _scenes(source: Source | Sequence[Scene], tokenizer: object) -> list[Scene]:
    if not isinstance(source, str) and isinstance(source, Sequence) and source:
        scenes = [item for item in source if isinstance(item, Scene)]
        if len(scenes) == len(source):
            return scenes
        if scenes:
            raise InputError(f"{len(scenes)} of {len(source)} items are scenes; expected scenes only, or none")
    cut = segment(source, tokenizer=tokenizer)  # type: ignore[arg-type]
    if not cut:
        raise InputError("nothing to analyse: every item of the source is blank")
    return cut
