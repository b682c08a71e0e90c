"""Settings from flags, environment and a TOML file."""

import argparse
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

S = TypeVar("S", bound=BaseSettings)
PREFIX = "FOCUSDIFF_"  # of environment variables


def config_of(program: str) -> SettingsConfigDict:
    """Configuration of a command's settings class: frozen, read from flags and FOCUSDIFF_* variables."""
    return SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name=program,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_shortcuts={"models": "model"},
        env_ignore_empty=True,
    )


class ConfigError(ValueError):
    """Invalid setting; the message names it."""


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


def read_settings(kind: type[S], arguments: Sequence[str]) -> S:
    """Read settings; flags take precedence over FOCUSDIFF_* environment variables, and those over a TOML file.

    Raises:
        ConfigError: a setting or the file is invalid; the message names it.
    """
    file = _config_file(arguments)

    class Sourced(kind):  # type: ignore[misc, valid-type]
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
        return Sourced(_cli_settings_source=flags)
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
    parser.add_argument("--config", default=os.environ.get(f"{PREFIX}CONFIG") or None)
    named = parser.parse_known_args(arguments)[0].config
    if named is None:
        return None
    if not Path(named).is_file():
        raise ConfigError(f"config: no such file: {named}")
    return Path(named)
