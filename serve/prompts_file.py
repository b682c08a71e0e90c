"""Input of `focusdiff-generate`: one prompt, or a file of JSON lines. Imports no torch."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_N = 1000


@dataclass(frozen=True)
class Entry:
    """A prompt, its number of pictures and their seeds; `place` prefixes error messages: "FILE, line 3: "."""

    prompt: str
    n: int
    seed: int | list[int] | None
    place: str = ""


def read_prompts(arguments: argparse.Namespace) -> list[Entry]:
    """Read and check the prompts, before any model is loaded.

    Raises:
        ValueError: an argument or a line is invalid.
    """
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise ValueError("give either a prompt or --prompts FILE")
    if arguments.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {arguments.batch}")
    if not 1 <= arguments.n <= MAX_N:
        raise ValueError(f"--n must be from 1 to {MAX_N}, not {arguments.n}")
    if arguments.prompts is None:
        return [Entry(arguments.prompt, arguments.n, arguments.seed)]
    # not random: a repeated command must give the same pictures
    seed = 0 if arguments.seed is None else arguments.seed
    entries = list(_read_entries(arguments.prompts, n=arguments.n, seed=seed))
    if not entries:
        raise ValueError(f"{arguments.prompts} has no prompts")
    return entries


def _read_entries(path: Path, *, n: int, seed: int) -> Iterator[Entry]:
    """Parse a prompts file; `n` and `seed` are the defaults of its lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        place = f"{path}, line {number}: "
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{place}not JSON ({error})") from None
        if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
            raise ValueError(f'{place}must be an object with a text "prompt"')
        unknown = set(line) - {"prompt", "n", "seed"}
        if unknown:
            raise ValueError(f"{place}unknown key {sorted(unknown)[0]!r}; known: prompt, n, seed")
        given = {"n": n, "seed": seed} | {name: value for name, value in line.items() if value is not None}
        if not _whole(given["n"]) or not 1 <= given["n"] <= MAX_N:
            raise ValueError(f"{place}n must be a whole number from 1 to {MAX_N}, not {given['n']!r}")
        seeds = given["seed"] if isinstance(given["seed"], list) else [given["seed"]]
        if not all(map(_whole, seeds)):
            raise ValueError(f"{place}seed must be a whole number or a list of them, not {given['seed']!r}")
        yield Entry(**given, place=place)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
