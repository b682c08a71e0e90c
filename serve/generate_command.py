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


@dataclass(frozen=True)
class Wanted:
    """One picture to make: its file, and the settings that decide it."""

    path: Path
    metadata: dict[str, Any]


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(
        prog="focusdiff-generate",
        description="Make pictures of a prompt, or of every line of a file; a call that was stopped goes on when repeated.",
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
    images = [Image.open(one.path).convert("RGB") for one in wanted[:64]]
    sheet = arguments.out / "grid.png"
    write_png(
        sheet, grid(images, columns=min(len(images), max(4, arguments.n) if len(lines) == 1 else arguments.n)), {}
    )
    print(f"{len(wanted)} pictures ({len(missing)} new) and grid.png in {arguments.out}", file=sys.stderr)


def read_prompts(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The prompts with their own n and seed; checked before any model is loaded."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise ValueError("give either a prompt or --prompts FILE")
    if arguments.batch < 1:
        raise ValueError(f"--batch must be at least 1, not {arguments.batch}")
    lines = [{"prompt": arguments.prompt}] if arguments.prompts is None else list(_read_lines(arguments.prompts))
    for number, line in enumerate(lines, start=1):
        line.setdefault("n", arguments.n)
        line.setdefault("seed", arguments.seed)
        if not isinstance(line["n"], int) or not 1 <= line["n"] <= MAX_N:
            raise ValueError(f"line {number}: n must be a whole number from 1 to {MAX_N}, not {line['n']!r}")
        if arguments.prompts is not None and line["seed"] is None:
            line["seed"] = 0  # a file must give the same pictures when the call is repeated
    return lines


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(line, dict) or not isinstance(line.get("prompt"), str):
            raise ValueError(f'{path}, line {number}: must be an object with a text "prompt"')
        unknown = set(line) - {"prompt", "n", "seed"}
        if unknown:
            raise ValueError(f"{path}, line {number}: unknown key {sorted(unknown)[0]!r}; known: prompt, n, seed")
        yield line


def plan(lines: Sequence[dict[str, Any]], arguments: argparse.Namespace, janus: "Janus") -> list[Wanted]:
    """Every picture with its file name and settings; bad prompts and settings are refused here."""
    from model.params import resolve_seeds

    params = janus.recipe.override(
        guidance_scale=arguments.guidance_scale,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
    )
    wanted = []
    for number, line in enumerate(lines):
        where = "prompt" if arguments.prompts is None else f"{arguments.prompts}, line {number + 1}: prompt"
        janus.encode(line["prompt"], name=where)
        stem = _slug(line["prompt"]) if arguments.prompts is None else f"{number:05d}-{_slug(line['prompt'])}"
        for seed in resolve_seeds(line["seed"], line["n"]):
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
