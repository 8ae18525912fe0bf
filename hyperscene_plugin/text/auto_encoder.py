"""What the caller said about the encoder → an ``Encoder`` or ``None``, and a note wherever that is a fallback."""

from __future__ import annotations

import logging
from functools import cache

from hyperscene_plugin.encoder import DEFAULT_ENCODER, load_encoder
from hyperscene_plugin.errors import ConfigError, EncoderError, MissingPackageError
from hyperscene_plugin.types import Encoder

__all__ = ["resolve_encoder"]

_LOG = logging.getLogger(__name__)
_OFFLINE = "minilm"


def resolve_encoder(encoder: Encoder | str | None) -> tuple[Encoder | None, tuple[str, ...]]:
    """Return the encoder meant and the notes to put in the result.

    ``"auto"`` tries the multilingual default, then the packaged English model, then none; every step down is noted
    and logged once per process. ``None`` means no encoder on purpose: no note.

    Raises:
        EncoderError: a model named explicitly cannot be loaded.
        MissingPackageError: a model was named explicitly and sentence-transformers is not installed.
        ConfigError: ``encoder`` is neither a name, an encoder nor ``None``.
    """
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
