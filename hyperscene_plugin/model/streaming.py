"""Token ids out of ``transformers``' generation thread → text pieces, with stop strings and cancellation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Event
from typing import Any

__all__ = ["TextAssembler", "TokenStream"]


class TokenStream:
    """Passes generated token ids from the generating thread to the reading one.

    Fits the streamer interface of ``transformers`` (``put``, ``end``). The first ``put`` is the prompt.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[int | BaseException | None] = SimpleQueue()
        self._prompt_seen = False
        self.cancelled = Event()
        self.first_token_at: float | None = None

    def put(self, value: Any) -> None:
        """Take the ids of one step (a tensor of shape ``(1,)`` or ``(1, n)``)."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        for token in value.flatten().tolist():
            self._queue.put(int(token))

    def end(self) -> None:
        """Mark the end. ``close`` does the same; either may come first."""

    def close(self, error: BaseException | None = None) -> None:
        """Mark the end, with the error that ended it, if any."""
        self._queue.put(error)

    def should_stop(self, *_: Any, **__: Any) -> bool:
        """Say whether the reader has gone (checked after each token)."""
        return self.cancelled.is_set()

    def __iter__(self) -> Iterator[int]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


class TextAssembler:
    """Turns token ids into text pieces that never cut a character and never show part of a stop string.

    Mutated by ``push``; ``stopped`` is true once a stop string has been met.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._window = 0  # ids before this one are no longer decoded
        self._read = 0  # ids before this one are in `text`
        self._shown = 0  # characters already released
        self.stopped = False
        self.text = ""

    def push(self, token: int) -> str:
        """Add one token and return the text that can be shown now (often empty)."""
        self._ids.append(token)
        self._absorb(final=False)
        return self._release(final=False)

    def finish(self) -> str:
        """Return what was held back."""
        self._absorb(final=True)
        return self._release(final=True)

    def _absorb(self, *, final: bool) -> None:
        """Move newly decoded characters into ``text``; a cut character (U+FFFD at the end) waits for its rest."""
        before = self._decode(self._ids[self._window : self._read])
        now = self._decode(self._ids[self._window :])
        if len(now) > len(before) and (final or not now.endswith("\ufffd")):
            self.text += now[len(before) :]
            self._window, self._read = self._read, len(self._ids)

    def _release(self, *, final: bool) -> str:
        found = [place for stop in self._stop if (place := self.text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
        held = 0 if final or found else self._possible_stop()
        end = max(self._shown, len(self.text) - held)
        piece = self.text[self._shown : end]
        self._shown = end
        return piece

    def _possible_stop(self) -> int:
        """Return how many characters at the end may turn out to begin a stop string."""
        starts = (
            length
            for stop in self._stop
            for length in range(1, min(len(stop), len(self.text) + 1))
            if self.text.endswith(stop[:length])
        )
        return max(starts, default=0)
