"""`focusdiff-generate`: draw prompts to PNG files."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.cli import CommandParser, add_model_arguments, add_quantization_argument, add_sampling_arguments, run_command
from model.quantization import Quantization
from serve.prompts_file import Entry, read_prompts

if TYPE_CHECKING:
    from model.janus import Janus
    from serve.engine.job import Job

MAX_GRID = 64  # pictures
_SHEET_SIDE = 192  # approximate side of a picture in grid.png, in pixels


@dataclass(frozen=True)
class Wanted:
    """A picture to draw: its file and the settings that determine it."""

    path: Path
    metadata: dict[str, Any]


def main() -> None:
    """Entry point of the console script."""
    parser = CommandParser(
        prog="focusdiff-generate",
        description="Draw pictures of one prompt or of a file of prompts. Run again with the same seed to resume.",
    )
    parser.add_argument("prompt", nargs="?", help="what to draw")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help='JSON lines instead: {"prompt": …, "seed"?: …, "n"?: …}'
    )
    parser.add_argument("--n", type=int, default=1, help="pictures per prompt (default: 1)")
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the first picture, plus 1 for each next one (default: random; 0 with --prompts)",
    )
    parser.add_argument("--negative-prompt", metavar="TEXT", help="prompt to guide away from")
    parser.add_argument(
        "--out", type=Path, default=Path("pictures"), help="folder for the PNG files (default: pictures)"
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures drawn at once (default: 16)")
    parser.add_argument("--json", action="store_true", help="print one JSON line per picture")
    add_quantization_argument(parser)
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    arguments = parser.parse_args()
    run_command(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Draw the pictures that do not exist yet, then write grid.png."""
    entries = read_prompts(arguments)

    from PIL import Image

    from model.checkpoints.load import load_from
    from pairs.contact_sheet import contact_sheet
    from pairs.picture_file import write_png

    janus = load_from(arguments)
    wanted = plan(entries, arguments, janus)
    arguments.out.mkdir(parents=True, exist_ok=True)
    missing = [one for one in wanted if not _exists(one)]
    draw_missing(janus, missing, slots=arguments.batch, quantization=arguments.quantization)
    if arguments.json:
        for one in wanted:
            print(json.dumps({"file": str(one.path), **one.metadata}, ensure_ascii=False))
    shown = wanted[:MAX_GRID]
    images = [Image.open(one.path).convert("RGB") for one in shown]
    # one row per prompt, unless the rows would hold a single picture
    columns = arguments.n if len(entries) > 1 and arguments.n > 1 else max(4, round(len(shown) ** 0.5))
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    side = images[0].height * max(1, round(_SHEET_SIDE / images[0].height))
    write_png(arguments.out / "grid.png", contact_sheet(rows, side=side), {})
    if len(wanted) > MAX_GRID:
        print(f"grid.png shows the first {MAX_GRID}", file=sys.stderr)
    print(f"{len(wanted)} pictures ({len(missing)} new) and grid.png in {arguments.out}", file=sys.stderr)


def plan(entries: Sequence[Entry], arguments: argparse.Namespace, janus: "Janus") -> list[Wanted]:
    """List all pictures with file names and settings.

    Raises:
        ValueError: a prompt or a setting is invalid.
    """
    from model.params import resolve_seeds

    params = janus.sampling.override(
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
            if arguments.quantization:
                metadata["weights"] = arguments.quantization
            if arguments.negative_prompt is not None:
                metadata["negative_prompt"] = arguments.negative_prompt
            wanted.append(Wanted(arguments.out / f"{stem}-{seed}.png", metadata))
    return wanted


def draw_missing(
    janus: "Janus", missing: Sequence[Wanted], *, slots: int, quantization: Quantization | None = None
) -> None:
    """Draw and write pictures; the progress bar counts rows of codes.

    Raises:
        ValueError: some pictures cannot be drawn; all others are written.
    """
    from tqdm import tqdm

    from pairs.picture_file import write_png
    from serve.engine.draw import draw
    from serve.engine.engine import Engine
    from serve.engine.events import Failed, Finished

    failures = []
    engine = Engine(janus, slots=max(1, min(slots, len(missing))), quantization=quantization, release=True)
    wanted = {job_of(one, janus): one for one in missing}
    with tqdm(total=len(missing) * janus.grid, desc="drawing", unit="row", disable=None) as bar:
        for job, event in draw(engine, wanted, on_step=lambda codes: bar.update(codes // janus.grid - bar.n)):
            one = wanted[job]
            if isinstance(event, Finished):
                write_png(one.path, event.picture, one.metadata)
            elif isinstance(event, Failed):
                failures.append(f"{one.path}: {event.reason}")
    if failures:
        raise ValueError(f"{len(failures)} of {len(missing)} pictures could not be made; {failures[0]}")


def job_of(one: Wanted, janus: "Janus") -> "Job":
    """Job that draws one picture."""
    from serve.engine.job import Job

    settings = one.metadata
    negative = settings.get("negative_prompt")
    return Job(
        janus.encode(settings["prompt"]),
        None if negative is None else janus.encode(negative),
        (settings["seed"],),
        janus.sampling.override(**{name: settings[name] for name in janus.sampling.as_dict()}),
    )


def _exists(one: Wanted) -> bool:
    """Whether the file exists; raises ValueError if it was made with other settings."""
    from pairs.picture_file import read_metadata

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
