"""What is asked of a forecast, checked once: lengths in tokens, the ratio, dtypes."""

from __future__ import annotations

from dataclasses import dataclass

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.forecast.parameters import QUANTIZATIONS
from hyperscene_plugin.forecast.shape import DTYPE_BYTES

__all__ = ["Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """``context`` tokens are remembered, ``question_tokens`` asked about them, ``new_tokens`` answered.

    ``ratio`` is the bytes of the full cache of the context over those of its hypercode, everything counted, in the
    layers that are compacted. ``prefill_chunk`` is the number of tokens prefilled at once; ``None`` is all of them.
    ``dtype`` (``None``: what the configuration names) is that of weights, cache and activations.

    Raises:
        InputError: a length below one, a ratio below one, an unknown dtype or quantisation.
    """

    context: int
    ratio: float = 12.0
    question_tokens: int = 64
    new_tokens: int = 256
    prefill_chunk: int | None = None
    dtype: str | None = None
    quantization: str | None = None

    def __post_init__(self) -> None:
        for name in ("context", "question_tokens", "new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1 token; got {getattr(self, name)}")
        if self.prefill_chunk is not None and self.prefill_chunk < 1:
            raise InputError(f"prefill_chunk must be at least 1 token; got {self.prefill_chunk}")
        if not 1 <= self.ratio < float("inf"):
            raise InputError(
                f"ratio must be a number from 1 (the hypercode takes as many bytes as the full cache); got {self.ratio}"
            )
        if self.dtype is not None and self.dtype not in DTYPE_BYTES:
            raise InputError(f"dtype must be one of {', '.join(DTYPE_BYTES)}; got {self.dtype!r}")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise InputError(f"quantization must be one of {', '.join(QUANTIZATIONS)}; got {self.quantization!r}")

    @property
    def prompt(self) -> int:
        """Tokens of context and question together."""
        return self.context + self.question_tokens
