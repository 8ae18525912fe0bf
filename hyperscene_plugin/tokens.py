"""A tokenizer's name, path or object → a ``TokenCounter``.

Accepted: ``None`` or ``"demo"`` (the bundled demo model's tokenizer), a tiktoken encoding or model name
(``cl100k_base``, ``gpt-4o``), a ``tokenizer.json`` or a model directory that holds one, any object with an
``encode(text)`` method (transformers, tokenizers, tiktoken), or a function ``text -> int``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hyperscene_plugin import demo_model
from hyperscene_plugin.errors import ConfigError, MissingPackageError
from hyperscene_plugin.types import TokenCounter

__all__ = ["token_counter"]


class _FunctionCounter:
    def __init__(self, count: Callable[[str], int], name: str) -> None:
        self._count = count
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def count(self, text: str) -> int:
        return int(self._count(text))

    def count_many(self, texts: Sequence[str]) -> list[int]:
        return [int(self._count(text)) for text in texts]


class _TokenizersCounter:
    """Counts with a ``tokenizers.Tokenizer`` (Rust), batching where it can."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def count_many(self, texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encoded]


def token_counter(tokenizer: object = None) -> TokenCounter:
    """Return a counter for ``tokenizer`` (see the module's docstring for what is accepted).

    Raises:
        ConfigError: the name or path is none of the accepted kinds.
        MissingPackageError: a tiktoken name was given and tiktoken is not installed.
    """
    if tokenizer is None or tokenizer == "demo":
        return _from_file(demo_model.weights_path() / "tokenizer.json", "demo")
    if isinstance(tokenizer, str | Path):
        return _from_name(str(tokenizer))
    if isinstance(tokenizer, TokenCounter):
        return tokenizer
    encode = getattr(tokenizer, "encode", None)
    name = str(getattr(tokenizer, "name_or_path", None) or getattr(tokenizer, "name", type(tokenizer).__name__))
    if callable(encode):
        if type(tokenizer).__module__.startswith("tokenizers"):
            return _TokenizersCounter(tokenizer, name)
        if type(tokenizer).__module__.startswith("tiktoken"):
            return _FunctionCounter(lambda text: len(encode(text, disallowed_special=())), name)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            return _TokenizersCounter(backend, name)
        if type(tokenizer).__module__.startswith("transformers"):
            return _FunctionCounter(lambda text: len(encode(text, add_special_tokens=False)), name)
        return _FunctionCounter(lambda text: len(encode(text)), name)
    if callable(tokenizer):
        return _FunctionCounter(tokenizer, getattr(tokenizer, "__name__", "function"))
    raise ConfigError(
        f"a tokenizer must be a name, a path, an object with encode(text) or a function text -> int; "
        f"got {type(tokenizer).__name__}"
    )


@lru_cache(maxsize=8)
def _from_name(name: str) -> TokenCounter:
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if path.suffix == ".json" and path.exists():
        return _from_file(path, name)
    return _from_tiktoken(name)


def _from_file(path: Path, name: str) -> TokenCounter:
    from tokenizers import Tokenizer

    if not path.exists():
        raise ConfigError(f"tokenizer {name!r}: no file at {path}; name a tokenizer.json or a folder that holds one")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception on a malformed file
        raise ConfigError(f"tokenizer {name!r}: {path} is not a tokenizer.json that can be read ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _TokenizersCounter(tokenizer, name)


def _from_tiktoken(name: str) -> TokenCounter:
    try:
        import tiktoken
    except ImportError as error:
        raise MissingPackageError("tiktoken", "tiktoken", f"the tokenizer {name!r}") from error
    try:
        known = name in tiktoken.list_encoding_names()
        encoding = tiktoken.get_encoding(name) if known else tiktoken.encoding_for_model(name)
    except KeyError as error:
        raise ConfigError(
            f"tokenizer {name!r} is neither a file or folder here nor a name tiktoken knows; "
            f"known encodings: {', '.join(tiktoken.list_encoding_names())}"
        ) from error
    except OSError as error:  # requests' errors are OSErrors: the vocabulary is fetched on first use
        raise ConfigError(
            f"tokenizer {name!r}: tiktoken could not fetch its vocabulary ({error}); "
            "set TIKTOKEN_CACHE_DIR to a folder that holds it, or name a tokenizer.json"
        ) from error
    return _FunctionCounter(lambda text: len(encoding.encode(text, disallowed_special=())), name)
