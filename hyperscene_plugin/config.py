"""Settings from a TOML file, then the environment, then flags; each later one wins. The only reader of all three.

The file is the first that exists of: ``$HYPERSCENE_CONFIG``, ``./hyperscene.toml``, the user's configuration folder
(``hyperscene config`` prints which). Environment variables are ``HYPERSCENE_<FIELD>``. Unknown keys are refused
with the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any

from platformdirs import user_config_path, user_data_path
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hyperscene_plugin.errors import ConfigError

__all__ = ["ENVIRONMENT_PREFIX", "Settings", "config_file", "load_settings"]

ENVIRONMENT_PREFIX = "HYPERSCENE_"


class Settings(BaseSettings):
    """Every setting, its default and its meaning."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, validate_default=True)

    store: str = Field(
        default_factory=lambda: str(user_data_path("hyperscene", ensure_exists=True) / "scenes.db"),
        description="Scene store: a file (SQLite) or a database URL (postgresql+psycopg://…).",
    )
    model: str = Field("demo", description="Local model: 'demo' (bundled), a folder, or a hub id.")
    device_map: str = Field("auto", description="Where the model goes (accelerate): auto, cpu, cuda, cuda:0, mps…")
    dtype: str = Field("auto", description="Weights' dtype: auto, float32, bfloat16, float16.")
    quantization: str | None = Field(None, description="'8bit' or '4bit' weights through bitsandbytes; default none.")
    encoder: str | None = Field(
        "auto", description="Sentence encoder: 'auto', 'none', 'minilm' (offline package), a folder, or a hub id."
    )
    tokenizer: str | None = Field(None, description="Tokenizer that counts budgets; default: the local model's own.")
    max_tokens: int | None = Field(
        None, ge=1, description="Token budget of recalled scenes; default: 25% of the window."
    )
    user_id: str | None = Field(None, description="Whose memory: user.")
    agent_id: str | None = Field(None, description="Whose memory: agent.")
    session_id: str | None = Field(None, description="Whose memory: session.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave only what is passed in: ``load_settings`` merges file, environment and flags by itself."""
        return (init_settings,)


def config_file() -> Path | None:
    """Return the configuration file in force, or ``None``. A file named by the environment must exist."""
    named = os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigError(f"{ENVIRONMENT_PREFIX}CONFIG names {path}, which is not a file")
        return path
    candidates = (Path("hyperscene.toml"), user_config_path("hyperscene") / "hyperscene.toml")
    return next((path for path in candidates if path.is_file()), None)


def load_settings(**flags: Any) -> Settings:
    """Merge file, environment and flags (a flag of ``None`` is not given) into validated ``Settings``.

    Raises:
        ConfigError: an unknown key, a value of the wrong kind, or a file that is not TOML; names the source.
    """
    merged: dict[str, Any] = {}
    path = config_file()
    if path is not None:
        merged |= _known(_read_toml(path), str(path))
    merged |= _known(_environment(), "the environment")
    merged |= {name: value for name, value in _known(flags, "the flags").items() if value is not None}
    try:
        return Settings(**merged)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} (got {item['input']!r})"
            for item in error.errors()
        )
        raise ConfigError(f"wrong settings: {problems}") from error


def _environment() -> dict[str, str]:
    prefix = ENVIRONMENT_PREFIX
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in os.environ.items()
        if name.startswith(prefix) and name not in (f"{prefix}CONFIG", f"{prefix}PYTHON")
    }


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error


def _known(values: dict[str, Any], source: str) -> dict[str, Any]:
    known = list(Settings.model_fields)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ConfigError(f"unknown setting {name!r} in {source}{hint}")
    return values
