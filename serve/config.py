"""Server settings. Flags take precedence over FOCUSDIFF_* environment variables, and those over a TOML file.

Imports no torch: `--help` and `--print-config` answer at once.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AnyUrl, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pairs.files import user_file
from pairs.judges.settings import (
    AT_ONCE,
    AT_ONCE_HELP,
    KEY_HELP,
    MODEL_HELP,
    QUESTIONS_HELP,
    SECONDS,
    SECONDS_HELP,
    SOURCE_HELP,
    JudgeSettings,
)

MAX_IMAGES = 10  # per request; the queue must hold two such requests
_PREFIX = "FOCUSDIFF_"


class ConfigError(ValueError):
    """Invalid setting; the message names it."""


class ModelSource(BaseModel):
    """A model to serve: its public name and its source.

    `source` is a folder, a hub id or the name of a shipped checkpoint; `weights` is the `overlay` of
    `model.checkpoints.load.load`, which documents the other fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=200)
    source: str = Field(min_length=1)
    weights: Path | None = None
    tokenizer: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelSource":
        """Parse `NAME=SOURCE`, or a source alone: its name is the folder's name, the hub id or the shipped name."""
        name, equals, source = text.partition("=")
        if not equals:
            is_path = text.startswith((".", "/", "~")) or Path(text).is_dir()
            name, source = (Path(text).resolve().name if is_path else text), text
        return cls(name=name, source=source)


class Settings(BaseSettings):
    """Frozen settings of `focusdiff-serve`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name="focusdiff-serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_shortcuts={"models": "model"},
        env_ignore_empty=True,
    )

    models: Annotated[tuple[ModelSource, ...], NoDecode] = Field(
        default=(ModelSource(name="tiny", source="tiny"),),
        min_length=1,
        description="model to serve: folder, hub id or shipped name, or NAME=SOURCE (default: tiny); repeat for "
        "several models; requests that name no model use the first",
    )
    weights: Path | None = Field(
        default=None, description=".pt state dict whose tensors replace the model's (FocusDiff's format)"
    )
    tokenizer: str | None = Field(default=None, description="folder or hub id to take the tokenizer from")
    revision: str | None = Field(default=None, description="branch, tag or commit of the hub repository")
    aliases: dict[str, str] = Field(
        default={}, description="other names of served models, as ALIAS=NAME (gpt-image-1=tiny)"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or mps")
    dtype: str = Field(default="auto", description="auto, source (the files' own), float32, bfloat16 or float16")
    int8: bool = Field(
        default=False,
        description="store the decoder's weights as 8-bit integers: faster and smaller on a CPU, but pictures change "
        "a little (docs/performance.md)",
    )
    memory_gib: float | None = Field(
        default=None, gt=0, description="memory limit in GiB for all models together (default: what the device has)"
    )
    watch: Path | None = Field(
        default=None, description="folder of a training run; its newest complete checkpoint is also served"
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    public_url: AnyUrl | None = Field(
        default=None, description="URL of the server for clients, used for links in answers"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins of web pages that may call the API (https://example.org)"
    )
    max_body_mib: float = Field(default=32, gt=0, description="largest request body in MiB")

    slots: int = Field(default=16, ge=1, description="guided images drawn at once by each model")
    queue: int = Field(default=256, ge=2 * MAX_IMAGES, description="images that may wait for each model")
    request_seconds: float = Field(default=600, gt=0, description="time limit of a request in seconds")
    drain_seconds: float = Field(
        default=60, ge=0, description="time in seconds to finish accepted requests when stopping"
    )

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="keys accepted from clients; safer in the environment or a file than as a flag"
    )
    api_keys_file: Path | None = Field(default=None, description="file with more API keys, one per line")
    admin_key: SecretStr | None = Field(default=None, description="key for the /admin routes, which are off without it")
    rate_limit: str | None = Field(default=None, description="limit on images per API key: 60/minute, 1000/hour")

    store: str | None = Field(
        default=None,
        description="folder or fsspec URL for pictures of response_format url (default: a temporary folder)",
    )
    store_seconds: float = Field(default=3600, gt=0, description="seconds for which stored pictures are kept")
    store_mib: float = Field(default=1024, gt=0, description="MiB of stored pictures; the oldest are removed first")
    upscale: Literal["lanczos"] | None = Field(
        default=None, description="enlarge pictures to requested sizes above the model's own"
    )
    judge: str | None = Field(default=None, description=f"judge of pictures: {SOURCE_HELP}")
    judge_model: str | None = Field(default=None, description=MODEL_HELP)
    judge_key: SecretStr = Field(default=SecretStr("none"), description=KEY_HELP)
    judge_questions: Path | None = Field(default=None, description=QUESTIONS_HELP)
    judge_at_once: int = Field(default=AT_ONCE, description=AT_ONCE_HELP)
    judge_seconds: float = Field(default=SECONDS, description=SECONDS_HELP)

    ui: bool = Field(default=True, description="serve the demo page at /")
    votes: Path = Field(default=user_file("votes.sqlite"), description="SQLite file for the demo's votes")
    paircomp: Path | None = Field(default=None, description="PairComp.json, to choose pairs from on the demo page")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info")
    log_format: Literal["text", "json"] = Field(default="text")
    log_prompts: bool = Field(default=False, description="write prompts to the log")

    config: Path | None = Field(default=None, description="TOML file with any of these settings")
    print_config: bool = Field(default=False, description="print the settings as JSON and exit")

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Split comma-separated values, alone or in a list."""
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            return value
        parts = [part for one in given for part in (one.split(",") if isinstance(one, str) else [one])]
        return [part.strip() if isinstance(part, str) else part for part in parts if part != ""]

    @field_validator("models", mode="before")
    @classmethod
    def _parse_models(cls, value: Any) -> Any:
        given = cls._split(value)
        if not isinstance(given, list):
            return given
        return [ModelSource.parse(one) if isinstance(one, str) else one for one in given]

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d* ?/ ?(second|minute|hour|day)", value):
            raise ValueError("must be a number of images a second, minute, hour or day: 60/minute")
        return value

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [model.name for model in self.models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two models are called {min(twice)!r}: give one of them another name, as NAME=SOURCE")
        if self.weights is not None and len(names) > 1:
            raise ValueError("weights suits one model; with several give each its own in a config file")
        for alias, name in self.aliases.items():
            if name not in names:
                raise ValueError(f"alias {alias!r} stands for {name!r}, which is not served")
        return self

    @model_validator(mode="after")
    def _judge_can_be_opened(self) -> Self:
        _ = self.judge_settings
        return self

    @property
    def judge_settings(self) -> JudgeSettings | None:
        """Settings of the judge, if there is one; raises JudgeError if one is invalid."""
        if self.judge is None:
            return None
        return JudgeSettings(
            source=self.judge,
            model=self.judge_model,
            key=self.judge_key.get_secret_value(),
            questions=self.judge_questions,
            at_once=self.judge_at_once,
            seconds=self.judge_seconds,
        )

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """Models, with the common weights, tokenizer and revision filled in."""
        common = {"weights": self.weights, "tokenizer": self.tokenizer, "revision": self.revision}
        return tuple(
            model.model_copy(update={name: getattr(model, name) or value for name, value in common.items()})
            for model in self.models
        )

    @property
    def keys(self) -> tuple[SecretStr, ...]:
        """Client keys, including those of `api_keys_file`.

        Raises:
            ConfigError: the file cannot be read or holds no key.
        """
        if self.api_keys_file is None:
            return self.api_keys
        try:
            lines = [line.strip() for line in self.api_keys_file.read_text().splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_keys_file: {error}") from None
        keys = [SecretStr(line) for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ConfigError(f"api_keys_file: {self.api_keys_file} holds no key")
        return (*self.api_keys, *keys)


class _Help(argparse.HelpFormatter):
    """Help formatter that shows value names instead of Python types, and omits empty and secret defaults."""

    _VALUES: ClassVar[dict[str | tuple[str, ...] | None, str]] = {
        "tuple[JSON,...]": "MODEL",
        "dict[str,str]": "ALIAS=NAME",
        "tuple[str,...]": "URL",
        "tuple[SecretStr,...]": "KEY",
        "SecretStr": "KEY",
        "AnyUrl": "URL",
        "Path": "PATH",
        "str": "TEXT",
        "int": "NUMBER",
        "float": "NUMBER",
    }

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        name = self._VALUES.get(action.metavar)
        return (lambda count: (name,) * count) if name else super()._metavar_formatter(action, default_metavar)

    def _expand_help(self, action: argparse.Action) -> str:
        return re.sub(r" \(default: (None|\(.*\)|\{\}|\*+)\)$", "", super()._expand_help(action))


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the settings from flags, environment and TOML file.

    Raises:
        ConfigError: a setting or the file is invalid; the message names it.
    """
    file = _config_file(arguments)

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    try:
        flags: CliSettingsSource[Any] = CliSettingsSource(
            Sourced, cli_parse_args=list(arguments), formatter_class=_Help
        )
        return Sourced(_cli_settings_source=flags)  # type: ignore[call-arg]  # known to pydantic-settings' own plugin
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{place}: {message}" if place else message) from None


def _config_file(arguments: Sequence[str]) -> Path | None:
    """Path given by `--config` or FOCUSDIFF_CONFIG; raises ConfigError if there is no such file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=os.environ.get(f"{_PREFIX}CONFIG") or None)
    named = parser.parse_known_args(arguments)[0].config
    if named is None:
        return None
    if not Path(named).is_file():
        raise ConfigError(f"config: no such file: {named}")
    return Path(named)
