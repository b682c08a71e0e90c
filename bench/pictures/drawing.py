"""Draw the pictures of a run that are missing.

missing pictures → generator → file → on_picture
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing

from PIL import Image
from tqdm import tqdm

from bench.pictures.codes import pack_codes
from bench.pictures.generator import Drawn, Generator
from bench.pictures.picture import Part, Picture
from bench.pictures.run_folder import RunFolder
from pairs.picture_file import write_png

_WAITING = 8  # pictures for the writers, of which a kill loses at most so many
_WRITERS = 2  # threads; encoding a PNG takes about as long as a small model's share of a step


def draw_pictures(
    run: RunFolder,
    pictures: Sequence[Picture],
    missing: Sequence[Picture],
    generator: Generator,
    *,
    on_picture: Callable[[Picture], object] = lambda picture: None,
) -> None:
    """Draw pictures and write their files, each atomically; a stopped run loses only what is being drawn.

    Args:
        run: folder of the run.
        pictures: all pictures of the run.
        missing: those to be drawn.
        generator: draws them.
        on_picture: called with each picture that is complete; from any thread.

    Raises:
        GenerationError: a picture cannot be drawn.
        OSError: a file cannot be written; the error names it.
    """
    if missing:
        run.record(generator.provenance)
    parts: dict[Picture, dict[int, Drawn]] = {}
    writing: set[Future[None]] = set()

    def write(picture: Picture, drawn: dict[int, Drawn]) -> None:
        in_order = [drawn[number] for number in range(len(picture.seeds))]
        metadata = run.metadata(picture)
        if in_order[0].codes is not None:
            metadata["codes"] = [pack_codes(one.codes) for one in in_order if one.codes is not None]
        if in_order[0].seed is not None:
            metadata["drawn seeds"] = [one.seed for one in in_order]
        path = run.images / picture.file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, _grid([one.image for one in in_order]), metadata)
        on_picture(picture)
        bar.update()

    done = len(pictures) - len(missing)
    wanted = [Part(picture, number) for picture in missing for number in range(len(picture.seeds))]
    with (
        tqdm(total=len(pictures), initial=done, desc="pictures", disable=None) as bar,
        ThreadPoolExecutor(_WRITERS, thread_name_prefix="writer") as pool,
        closing(generator.draw(wanted)) as drawings,
    ):
        for drawn in drawings:
            picture = drawn.part.picture
            own = parts.setdefault(picture, {})
            own[drawn.part.number] = drawn
            if len(own) == len(picture.seeds):
                writing.add(pool.submit(write, picture, parts.pop(picture)))
            full = len(writing) >= _WAITING
            finished, writing = wait(writing, timeout=None if full else 0, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
        wait(writing)
        for future in writing:
            future.result()


def _grid(images: Sequence[Image.Image]) -> Image.Image:
    """One picture, or four as a square, row by row."""
    if len(images) == 1:
        return images[0]
    side = round(len(images) ** 0.5)
    width, height = images[0].size
    grid = Image.new("RGB", (side * width, side * height))
    for number, image in enumerate(images):
        grid.paste(image, (number % side * width, number // side * height))
    return grid
