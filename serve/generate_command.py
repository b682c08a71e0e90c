"""`focusdiff-generate`: pictures from prompts, as files."""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.cli import add_model_arguments, add_sampling_arguments, one_line_errors

if TYPE_CHECKING:
    from model.janus import Janus
    from serve.request import Job

MAX_N = 1000
MAX_GRID = 64  # pictures


@dataclass(frozen=True)
class Entry:
    """A prompt with how many pictures of it, and their seeds; `place` starts messages about it: "FILE, line 3: "."""

    prompt: str
    n: int
    seed: int | list[int] | None
    place: str = ""


@dataclass(frozen=True)
class Wanted:
    """One picture to make: its file, and the settings that decide it."""

    path: Path
    metadata: dict[str, Any]


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-generate",
        description="Make pictures of a prompt, or of every line of a file. Repeated with its seed, a stopped call goes on.",
    )
    parser.add_argument("prompt", nargs="?", help="what to draw")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help='JSON lines instead: {"prompt": …, "seed"?: …, "n"?: …}'
    )
    parser.add_argument("--n", type=int, default=1, help="pictures of each prompt (default: 1)")
    parser.add_argument(
        "--seed", type=int, help="of the first picture; the next take the next numbers (default: random)"
    )
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what to guide away from")
    parser.add_argument(
        "--out", type=Path, default=Path("pictures"), help="folder for the PNG files (default: pictures)"
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures decoded together (default: 16)")
    parser.add_argument("--json", action="store_true", help="print one JSON line for each picture")
    parser.add_argument(
        "--int8", action="store_true", help="weights as 8-bit integers: faster on a CPU, a little less exact"
    )
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    arguments = parser.parse_args()
    one_line_errors(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Make what is missing of the wanted pictures, then the grid."""
    entries = read_prompts(arguments)

    from PIL import Image

    from model.checkpoint import load_from
    from serve.image import grid, write_png

    janus = load_from(arguments)
    wanted = plan(entries, arguments, janus)
    arguments.out.mkdir(parents=True, exist_ok=True)
    missing = [one for one in wanted if not _is_there(one)]
    draw(janus, missing, images=arguments.batch, int8=arguments.int8)
    if arguments.json:
        for one in wanted:
            print(json.dumps({"file": str(one.path), **one.metadata}, ensure_ascii=False))
    shown = wanted[:MAX_GRID]
    images = [Image.open(one.path).convert("RGB") for one in shown]
    # each of several prompts has a line of its own, unless it is a line of one picture
    columns = arguments.n if len(entries) > 1 and arguments.n > 1 else max(4, round(len(shown) ** 0.5))
    sheet = arguments.out / "grid.png"
    write_png(sheet, grid(images, columns=min(len(images), columns)), {})
    if len(wanted) > MAX_GRID:
        print(f"grid.png shows the first {MAX_GRID}", file=sys.stderr)
    print(f"{len(wanted)} pictures ({len(missing)} new) and grid.png in {arguments.out}", file=sys.stderr)


def read_prompts(arguments: argparse.Namespace) -> list[Entry]:
    """The prompts with their own n and seed; checked before any model is loaded."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise ValueError("give either a prompt or --prompts FILE")
    if arguments.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {arguments.batch}")
    if not 1 <= arguments.n <= MAX_N:
        raise ValueError(f"--n must be from 1 to {MAX_N}, not {arguments.n}")
    if arguments.prompts is None:
        return [Entry(arguments.prompt, arguments.n, arguments.seed)]
    # a file must give the same pictures when the call is repeated
    seed = 0 if arguments.seed is None else arguments.seed
    entries = list(_read_entries(arguments.prompts, n=arguments.n, seed=seed))
    if not entries:
        raise ValueError(f"{arguments.prompts} has no prompts")
    return entries


def _read_entries(path: Path, *, n: int, seed: int) -> Iterator[Entry]:
    """The entries of a prompts file; `n` and `seed` are for lines that give none."""
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


def plan(entries: Sequence[Entry], arguments: argparse.Namespace, janus: "Janus") -> list[Wanted]:
    """Every picture with its file name and settings; bad prompts and settings are refused here."""
    from model.params import resolve_seeds

    params = janus.recipe.override(
        guidance_scale=arguments.guidance_scale,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
    )
    if arguments.negative_prompt is not None:
        janus.encode(arguments.negative_prompt, name="--negative-prompt")
    wanted = []
    for number, entry in enumerate(entries):
        janus.encode(entry.prompt, name=f"{entry.place}prompt")
        stem = _slug(entry.prompt) if arguments.prompts is None else f"{number:05d}-{_slug(entry.prompt)}"
        try:
            seeds = resolve_seeds(entry.seed, entry.n)
        except ValueError as error:
            raise ValueError(f"{entry.place}{error}") from None
        for seed in seeds:
            metadata = {"model": janus.name, "prompt": entry.prompt, "seed": seed, **params.as_dict()}
            if arguments.int8:
                metadata["weights"] = "int8"
            if arguments.negative_prompt is not None:
                metadata["negative_prompt"] = arguments.negative_prompt
            wanted.append(Wanted(arguments.out / f"{stem}-{seed}.png", metadata))
    return wanted


def draw(janus: "Janus", missing: Sequence[Wanted], *, images: int, int8: bool = False) -> None:
    """Make and write pictures, so many at a time, with a progress bar of image rows.

    Raises:
        ValueError: some could not be made; all others are written.
    """
    from tqdm import tqdm

    from serve.engine import Engine
    from serve.events import Failed, Finished
    from serve.image import write_png

    failures = []
    engine = Engine(janus, images=min(images, max(1, len(missing))), int8=int8)
    wanted = {engine.submit(job(one, janus)): one for one in missing}
    with tqdm(total=len(missing) * janus.grid, desc="drawing", unit="row", disable=None) as bar:
        finished = 0
        while not engine.idle:
            for request, event in engine.step():
                one = wanted[request]
                if isinstance(event, Finished):
                    write_png(one.path, event.picture, one.metadata)
                elif isinstance(event, Failed):
                    failures.append(f"{one.path}: {event.reason}")
                finished += isinstance(event, Finished | Failed)
            rows = finished * janus.grid + sum(slot.drawn // janus.grid for slot in engine.scheduler.running)
            bar.update(rows - bar.n)
    if failures:
        raise ValueError(f"{len(failures)} of {len(missing)} pictures could not be made; {failures[0]}")


def job(one: Wanted, janus: "Janus") -> "Job":
    """The engine's job that draws a picture."""
    from serve.request import Job

    settings = one.metadata
    negative = settings.get("negative_prompt")
    return Job(
        janus.encode(settings["prompt"]),
        None if negative is None else janus.encode(negative),
        (settings["seed"],),
        janus.recipe.override(**{name: settings[name] for name in janus.recipe.as_dict()}),
    )


def _is_there(one: Wanted) -> bool:
    """Whether the picture was made before, with just these settings."""
    from serve.image import read_metadata

    if not one.path.exists():
        return False
    found = read_metadata(one.path)
    if found != one.metadata:
        raise ValueError(f"{one.path} exists and was made with other settings; choose another --out")
    return True


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "prompt"


if __name__ == "__main__":
    main()
