"""What a comparison is made with, how it is typed, and how a link carries it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self
from urllib.parse import urlencode

MAX_IMAGES = 4  # of each prompt


class SettingError(ValueError):
    """A setting that was typed and makes no sense, as a sentence."""


@dataclass(frozen=True)
class Comparison:
    """Everything that decides the pictures; None is the model's own settings."""

    first: str
    second: str
    models: tuple[str, ...] = ()
    n: int = 2
    seed: int | None = None  # random
    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    negative_prompt: str | None = None

    @classmethod
    def typed(
        cls,
        first: str,
        second: str,
        models: tuple[str, ...],
        n: float,
        *,
        seed: str,
        guidance: str,
        temperature: str,
        top_k: str,
        top_p: str,
        negative: str,
    ) -> Self:
        """From texts as people type them; what is empty is left to the model.

        Raises:
            SettingError: one is no number, or no whole one.
        """
        return cls(
            first,
            second,
            models,
            int(n),
            _whole("Seed", seed),
            _number("Guidance", guidance),
            _number("Temperature", temperature),
            _whole("Top-k", top_k),
            _number("Top-p", top_p),
            negative.strip() or None,
        )

    @property
    def request(self) -> dict[str, Any]:
        """The body of `POST /v1/images/pairs`."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        prompts = [given.pop("first", ""), given.pop("second", "")]
        return {"prompts": prompts, **given}

    @property
    def query(self) -> str:
        """Of a link that restores it."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        return urlencode({name: json.dumps(value, ensure_ascii=False) for name, value in given.items()})

    @classmethod
    def from_query(cls, parameters: Mapping[str, str]) -> Self | None:
        """What a link carries; None if it carries none, or none that makes sense."""
        known = {field.name for field in fields(cls)}
        try:
            values = {name: json.loads(value) for name, value in parameters.items() if name in known}
            return cls(**{**values, "models": tuple(values.get("models", ()))}) if "first" in values else None
        except (ValueError, TypeError):
            return None


def _number(name: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        raise SettingError(f"{name} must be a number, not {text.strip()!r}.") from None
    if not math.isfinite(value):
        raise SettingError(f"{name} must be a finite number.")
    return value


def _whole(name: str, text: str) -> int | None:
    if not text.strip():
        return None
    try:
        return int(text.strip())
    except ValueError:
        raise SettingError(f"{name} must be a whole number, not {text.strip()!r}.") from None
