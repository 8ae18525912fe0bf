"""The one error tree: everything this package raises on purpose, drawn at the top.

    HypersceneError
    ├── InputError            what the caller handed in cannot be used (empty, binary, wrong type)
    │   └── BudgetError       a token, slot or byte budget that nothing can satisfy
    ├── ConfigError           a configuration file, environment variable or flag is wrong
    ├── MissingPackageError   an optional package (an extra) is not installed
    ├── ScopeError            no user, agent or session named, or one that may not see the row
    ├── StoreError            the scene store could not do what was asked
    │   ├── SceneNotFoundError
    │   ├── StoreVersionError     written by a newer release
    │   └── StoreCorruptError     damaged; never treated as empty
    ├── HypercodeError        a compact cache on disk could not be saved or loaded
    │   ├── HypercodeNotFoundError
    │   ├── HypercodeVersionError     written by a newer release
    │   └── HypercodeCorruptError     damaged; never treated as empty
    ├── EncoderError          the sentence encoder could not be loaded or used
    └── ModelError            the local language model could not be loaded or used
        ├── ModelNotFoundError
        ├── UnsupportedModelError
        ├── FingerprintMismatchError  a cache belongs to another model, tokenizer, rope or prefix
        └── OutOfMemoryError

Every message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "ConfigError",
    "EncoderError",
    "FingerprintMismatchError",
    "HypercodeCorruptError",
    "HypercodeError",
    "HypercodeNotFoundError",
    "HypercodeVersionError",
    "HypersceneError",
    "InputError",
    "MissingPackageError",
    "ModelError",
    "ModelNotFoundError",
    "OutOfMemoryError",
    "SceneNotFoundError",
    "ScopeError",
    "StoreCorruptError",
    "StoreError",
    "StoreVersionError",
    "UnsupportedModelError",
]


class HypersceneError(Exception):
    """Base of every error raised by this package."""


class InputError(HypersceneError, ValueError):
    """The input is empty, binary, of the wrong type, or otherwise unusable."""


class BudgetError(InputError):
    """A budget that cannot be met by any selection."""


class ConfigError(HypersceneError, ValueError):
    """A setting is unknown, malformed or out of range."""


class MissingPackageError(HypersceneError, ImportError):
    """An optional package is needed and not installed; the message names the extra."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "hyperscene-plugin[{extra}]"'
        )
        self.package = package
        self.extra = extra


class ScopeError(HypersceneError, PermissionError):
    """No scope was named, or the scope named does not own the row."""


class StoreError(HypersceneError):
    """The scene store could not do what was asked; nothing was half-written."""


class SceneNotFoundError(StoreError, LookupError):
    """No scene of that id is visible in the given scope."""


class StoreVersionError(StoreError):
    """The store was written by a newer release of this package."""


class StoreCorruptError(StoreError):
    """The store's files are damaged. They are left untouched."""


class HypercodeError(HypersceneError):
    """A compact cache on disk could not be saved or loaded; nothing was half-written."""


class HypercodeNotFoundError(HypercodeError, FileNotFoundError):
    """No compact cache lies in that folder."""


class HypercodeVersionError(HypercodeError):
    """The compact cache was written by a newer release of this package."""


class HypercodeCorruptError(HypercodeError):
    """A compact cache's files are damaged, missing or not what the manifest says. They are left untouched."""


class EncoderError(HypersceneError):
    """The sentence encoder could not be loaded or gave an unusable result."""


class ModelError(HypersceneError):
    """The local language model could not be loaded or used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No model at that path, and none to be had under that id."""


class UnsupportedModelError(ModelError):
    """The architecture is not one this package can drive; the message names it."""


class FingerprintMismatchError(ModelError):
    """A cache was built for another model, tokenizer, rope or prefix; the message lists every difference.

    ``differences`` holds ``(key, stored, expected)``; ``None`` stands for a key that one side lacks.
    """

    def __init__(self, where: str, differences: tuple[tuple[str, str | None, str | None], ...]) -> None:
        def shown(value: str | None) -> str:
            return "nothing" if value is None else repr(value)

        lines = "; ".join(f"{key}: stored {shown(old)}, expected {shown(new)}" for key, old, new in differences)
        super().__init__(
            f"{where} does not fit the model in use, {len(differences)} differ: {lines}. "
            "Load the model it was built with, build it anew, or use the scenes as text"
        )
        self.differences = differences


class OutOfMemoryError(ModelError, MemoryError):
    """The model or the prompt does not fit in memory; the message says by how much."""
