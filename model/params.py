"""Sampling settings and seeds of images, shared by all parts of the project."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

MIN_TEMPERATURE = 0.0001  # smallest above 0, which is greedy; dividing logits by less overflows float32
MAX_SEED = 2**53 - 1  # the largest integer that JSON numbers carry exactly


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one image; the defaults are FocusDiff's published ones.

    guidance_scale: 1–20; 1 is unguided and needs half the work.
    temperature: 0 (greedy), or 0.0001–2.
    top_k: keep the k likeliest codes; 0 keeps all.
    top_p: keep the likeliest codes that together reach this probability; 1 keeps all.

    Raises:
        ValueError: a value is out of its range; the message names the field and the range.
    """

    guidance_scale: float = 5.0
    temperature: float = 1.0
    top_k: int = 4096
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _check("guidance_scale", self.guidance_scale, 1 <= self.guidance_scale <= 20, "from 1 to 20")
        warm = MIN_TEMPERATURE <= self.temperature <= 2
        _check("temperature", self.temperature, warm or self.temperature == 0, f"0, or from {MIN_TEMPERATURE} to 2")
        whole = isinstance(self.top_k, int) and not isinstance(self.top_k, bool)
        _check("top_k", self.top_k, whole and self.top_k >= 0, "a whole number from 0 (off) up")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")

    @property
    def guided(self) -> bool:
        """Whether the unconditional row is needed."""
        return self.guidance_scale != 1

    def override(self, **given: float | int | None) -> "SamplingParams":
        """Copy of these settings with the given fields replaced; None leaves a field unchanged."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, float | int]:
        """Plain values, for JSON and picture metadata."""
        return asdict(self)


def _check(name: str, value: object, fits: bool, range_text: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        fits = False
    if not fits:
        raise ValueError(f"{name} must be {range_text}, not {value!r}")


def resolve_seeds(seed: int | Sequence[int] | None, n: int) -> list[int]:
    """Seeds of n images: s, s + 1, … for an integer s, the list itself for a list, random ones for None.

    Raises:
        ValueError: a seed is outside 0 … 2⁵³ − 1, or the list does not have length n.
    """
    if seed is None:
        return [secrets.randbelow(MAX_SEED + 1) for _ in range(n)]
    seeds = [seed + i for i in range(n)] if isinstance(seed, int) else list(seed)
    if len(seeds) != n:
        raise ValueError(f"seed is a list of {len(seeds)} for {n} images: give one for each, or a single integer")
    for value in seeds:
        if not 0 <= value <= MAX_SEED:
            raise ValueError(f"seed must be from 0 to {MAX_SEED} for every image, not {value}")
    return seeds
