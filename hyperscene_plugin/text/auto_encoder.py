"""What the caller said about the encoder → an ``Encoder`` or ``None``, and a note wherever that is a fallback."""

from __future__ import annotations

import logging
from functools import cache

import regex

from hyperscene_plugin.encoder import DEFAULT_ENCODER, load_encoder
from hyperscene_plugin.errors import ConfigError, EncoderError, MissingPackageError
from hyperscene_plugin.types import Encoder

__all__ = ["resolve_encoder"]

_LOG = logging.getLogger(__name__)
_OFFLINE = "minilm"
_LETTER = regex.compile(r"\p{L}")
_LATIN = regex.compile(r"\p{Latin}")


def resolve_encoder(encoder: Encoder | str | None, *texts: str) -> tuple[Encoder | None, tuple[str, ...]]:
    """Return the encoder meant and the notes to put in the result.

    ``texts`` are samples of what it would encode. An encoder that says it is ``latin_only`` is left out, with a note,
    when one of them is mostly in another script: there it is worse than words alone (see ``docs/text-tier.md``).

    ``"auto"`` tries the multilingual default, then the packaged English model, then none; every step down is noted
    and logged once per process. ``None`` means no encoder on purpose: no note.

    Raises:
        EncoderError: a model named explicitly cannot be loaded.
        MissingPackageError: a model was named explicitly and sentence-transformers is not installed.
        ConfigError: ``encoder`` is neither a name, an encoder nor ``None``.
    """
    loaded, notes = _resolve(encoder)
    if getattr(loaded, "latin_only", False) and any(_mostly_other_script(text) for text in texts):
        assert loaded is not None
        return None, (*notes, f"semantic scores off: the encoder {loaded.name!r} is English and the text is not")
    return loaded, notes


def _mostly_other_script(text: str) -> bool:
    letters = len(_LETTER.findall(text))
    return letters > 0 and 2 * len(_LATIN.findall(text)) < letters


def _resolve(encoder: Encoder | str | None) -> tuple[Encoder | None, tuple[str, ...]]:
    if encoder is None:
        return None, ()
    if encoder == "auto":
        return _automatic()
    if isinstance(encoder, str):
        return load_encoder(encoder), ()
    if isinstance(encoder, Encoder):
        return encoder, ()
    raise ConfigError(
        f"encoder must be 'auto', None, a model's name or path, or an object with name and encode(texts); "
        f"got {type(encoder).__name__}"
    )


@cache
def _automatic() -> tuple[Encoder | None, tuple[str, ...]]:
    try:
        return load_encoder(DEFAULT_ENCODER), ()
    except (EncoderError, MissingPackageError) as error:
        reason = str(error).split(". ")[0]
    try:
        fallback: Encoder | None = load_encoder(_OFFLINE)
        note = f"the multilingual encoder could not be loaded, {_OFFLINE!r} (English) is used instead: {reason}"
    except (EncoderError, MissingPackageError):
        fallback, note = None, f"semantic scores off, lexical only: {reason}"
    _LOG.warning(note)
    return fallback, (note,)
