"""Settings of a comparison: parsed from text fields, sent as a request, and stored in a link."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self
from urllib.parse import urlencode

MAX_IMAGES = 4  # per prompt


class SettingError(ValueError):
    """Invalid text in a settings field; the message is a sentence for users."""


@dataclass(frozen=True)
class Comparison:
    """Everything that determines the pictures; None means the model's own setting."""

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
        """Parse text fields; an empty one means the model's own setting.

        Raises:
            SettingError: a field is not a number, or not a whole number where one is needed.
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
        """Query string of a link that restores the comparison."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        return urlencode({name: json.dumps(value, ensure_ascii=False) for name, value in given.items()})

    @classmethod
    def from_query(cls, parameters: Mapping[str, str]) -> Self | None:
        """Comparison from the parameters of a link; None if they hold none, or an invalid one."""
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
