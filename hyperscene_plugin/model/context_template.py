"""A tokenizer's chat template → the fixed tokens before a context, and the tokens that follow it for any messages.

The context stands in the system message (in the first user message where the template has no system role). What comes
before it never changes: it is prefilled once, and compact caches are made behind it. Raw prompts have the tokenizer's
own beginning (usually BOS) as prefix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from hyperscene_plugin.errors import InputError, ModelError
from hyperscene_plugin.model.template import apply_to_text
from hyperscene_plugin.types import Message

__all__ = ["ContextTemplate"]

_MARK = "\ue000context\ue001"


class ContextTemplate:
    """Where the context stands in a prompt. ``chat=False`` for raw text: prefix, context, then the prompt as it is."""

    def __init__(self, tokenizer: Any, *, instructions: str = "", chat: bool = True) -> None:
        self._tokenizer = tokenizer
        self._instructions = instructions
        self.chat = chat
        self.notes: tuple[str, ...] = ()
        before, _ = self._around([Message("user", "?")]) if chat else ("", "")
        stripped = before.rstrip(" \n\t")
        self._lead = before[len(stripped) :]
        self.prefix_ids: tuple[int, ...] = tuple(self._tokens(stripped)) if chat else tuple(self._beginning())

    @property
    def fingerprint(self) -> str:
        """Hash of the prefix tokens and of what leads into the context."""
        return hashlib.sha256(f"{self.prefix_ids}{self._lead!r}{self.chat}".encode()).hexdigest()

    def context_text(self, text: str) -> tuple[str, int]:
        """Return the context as it is tokenized, and how many characters were put before ``text``."""
        return self._lead + text, len(self._lead)

    def suffix_ids(self, prompt: str | Sequence[Message]) -> list[int]:
        """Return the tokens after the context: the messages up to the reply, or the raw prompt.

        System messages among ``prompt`` go in with the first user message (where there is none, as one before the
        others), for the context has the system's place.
        """
        if isinstance(prompt, str):
            if not self.chat:
                return self._tokens(prompt)
            prompt = [Message("user", prompt)]
        if not prompt:
            raise InputError("the list of messages is empty; give at least one message")
        return self._tokens(self._around(prompt)[1])

    def reply_ids(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a question after the context, and those of ``answer`` as the model would write it."""
        if not self.chat:
            return self._tokens(f"\n{question}\n"), self._tokens(answer)
        ask = Message("user", question)
        asked = self._around([ask])[1]
        told = self._around([ask, Message("assistant", answer)], reply=False)[1]
        return self._tokens(asked), self._tokens(told[len(asked) :] if told.startswith(asked) else answer)

    def _around(self, messages: Sequence[Message], *, reply: bool = True) -> tuple[str, str]:
        system = [m.content for m in messages if m.role == "system"]
        rest = [m for m in messages if m.role != "system"]
        if system:
            place = next((n for n, m in enumerate(rest) if m.role == "user"), None)
            said = [rest.pop(place).content] if place is not None else []
            rest.insert(place or 0, Message("user", "\n\n".join([*system, *said])))
        head = f"{self._instructions}\n\n{_MARK}" if self._instructions else _MARK
        try:
            text = apply_to_text(self._tokenizer, [Message("system", head), *rest], reply)
        except Exception as error:  # templates without a system role raise whatever they like
            if rest[0].role != "user":
                raise _refused(error) from error
            folded = [Message("user", f"{head}\n\n{rest[0].content}"), *rest[1:]]
            try:
                text = apply_to_text(self._tokenizer, folded, reply)
            except Exception as again:
                raise _refused(again) from again
        before, mark, after = text.partition(_MARK)
        if not mark:
            raise ModelError("the chat template dropped the context; use raw prompts (chat=False)")
        return before, after

    def _beginning(self) -> list[int]:
        special = list(self._tokenizer("")["input_ids"])
        eos = self._tokenizer.eos_token_id
        return [token for token in special if token != eos] or special[:1]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _refused(error: Exception) -> ModelError:
    return ModelError(
        f"the chat template refused the messages ({type(error).__name__}: {error}); check the roles and their order, "
        "or use raw prompts (chat=False)"
    )
