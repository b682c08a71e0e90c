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

MAX_N = 1000
MAX_GRID = 64  # pictures


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
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    arguments = parser.parse_args()
    one_line_errors(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> None:
    """Make what is missing of the wanted pictures, then the grid."""
    lines = read_prompts(arguments)

    from PIL import Image

    from model.checkpoint import load_from
    from serve.image import grid, write_png

    janus = load_from(arguments)
    wanted = plan(lines, arguments, janus)
    arguments.out.mkdir(parents=True, exist_ok=True)
    missing = [one for one in wanted if not _is_there(one)]
    for start in range(0, len(missing), arguments.batch):
        part = missing[start : start + arguments.batch]
        label = f"pictures {start + 1}–{start + len(part)} of {len(missing)}"
        for one, image in zip(part, draw(janus, part, label), strict=True):
            write_png(one.path, image, one.metadata)
    if arguments.json:
        for one in wanted:
            print(json.dumps({"file": str(one.path), **one.metadata}, ensure_ascii=False))
    shown = wanted[:MAX_GRID]
    images = [Image.open(one.path).convert("RGB") for one in shown]
    # a line of the grid for each prompt; where each has one picture only, a square
    columns = arguments.n if len(lines) > 1 and arguments.n > 1 else max(4, round(len(shown) ** 0.5))
    sheet = arguments.out / "grid.png"
    write_png(sheet, grid(images, columns=min(len(images), columns)), {})
    if len(wanted) > MAX_GRID:
        print(f"grid.png shows the first {MAX_GRID}", file=sys.stderr)
    print(f"{len(wanted)} pictures ({len(missing)} new) and grid.png in {arguments.out}", file=sys.stderr)


def read_prompts(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The prompts with their own n and seed; checked before any model is loaded."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise ValueError("give either a prompt or --prompts FILE")
    if arguments.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {arguments.batch}")
    if not _whole(arguments.n) or not 1 <= arguments.n <= MAX_N:
        raise ValueError(f"--n must be from 1 to {MAX_N}, not {arguments.n}")
    if arguments.prompts is None:
        return [{"prompt": arguments.prompt, "where": "prompt", "n": arguments.n, "seed": arguments.seed}]
    # a file must give the same pictures when the call is repeated
    defaults = {"n": arguments.n, "seed": arguments.seed if arguments.seed is not None else 0}
    lines = [defaults | line for line in _read_lines(arguments.prompts)]
    if not lines:
        raise ValueError(f"{arguments.prompts} has no prompts")
    return lines


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a prompts file, each with the place it stands at as `where`."""
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{path}, line {number}"
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON ({error})") from None
        if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
            raise ValueError(f'{where}: must be an object with a text "prompt"')
        unknown = set(line) - {"prompt", "n", "seed"}
        if unknown:
            raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}; known: prompt, n, seed")
        line = {name: value for name, value in line.items() if value is not None}
        n, seed = line.get("n", 1), line.get("seed", 0)
        if not _whole(n) or not 1 <= n <= MAX_N:
            raise ValueError(f"{where}: n must be a whole number from 1 to {MAX_N}, not {n!r}")
        if not all(_whole(one) for one in (seed if isinstance(seed, list) else [seed])):
            raise ValueError(f"{where}: seed must be a whole number or a list of them, not {seed!r}")
        yield line | {"where": where}


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def plan(lines: Sequence[dict[str, Any]], arguments: argparse.Namespace, janus: "Janus") -> list[Wanted]:
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
    for number, line in enumerate(lines):
        janus.encode(line["prompt"], name=line["where"] if arguments.prompts is None else f"{line['where']}: prompt")
        stem = _slug(line["prompt"]) if arguments.prompts is None else f"{number:05d}-{_slug(line['prompt'])}"
        try:
            seeds = resolve_seeds(line["seed"], line["n"])
        except ValueError as error:
            raise ValueError(f"{line['where']}: {error}") from None
        for seed in seeds:
            metadata = {"model": janus.name, "prompt": line["prompt"], "seed": seed, **params.as_dict()}
            if arguments.negative_prompt is not None:
                metadata["negative_prompt"] = arguments.negative_prompt
            wanted.append(Wanted(arguments.out / f"{stem}-{seed}.png", metadata))
    return wanted


def draw(janus: "Janus", part: Sequence[Wanted], label: str) -> list[Any]:
    """The pictures of one batch, with a progress bar of image rows."""
    from PIL import Image
    from tqdm import tqdm

    from model.generate import generate
    from model.vq import decode_images

    settings = part[0].metadata
    negative = settings.get("negative_prompt")
    with tqdm(total=janus.grid, desc=label, unit="row", disable=None) as bar:
        codes = generate(
            janus,
            [one.metadata["prompt"] for one in part],
            seeds=[one.metadata["seed"] for one in part],
            negative_prompts=None if negative is None else [negative] * len(part),
            on_token=lambda count, _: bar.update() if count % janus.grid == 0 else None,
            **{name: settings[name] for name in janus.recipe.as_dict()},
        )
    return [Image.fromarray(picture) for picture in decode_images(janus, codes).numpy()]


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
