"""Contact sheet of a checkpoint's pictures for pairs of prompts that differ in a word."""

from PIL import Image

from model.janus import Janus
from pairs.contact_sheet import contact_sheet
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job

PAIRS = (
    ("three red circles", "four red circles"),
    ("a blue square and an orange heart", "a green square and an orange heart"),
    ("a yellow star to the left of a purple circle", "a yellow star to the right of a purple circle"),
    ("a striped green heart", "an outlined green heart"),
    ("two purple triangles by day", "two purple triangles at night"),
    ('a red sign that says "SUN"', 'a red sign that says "RUN"'),
)
_PAIRS_PER_ROW = 2


def pair_sheet(janus: Janus, *, seeds: tuple[int, ...] = (1, 2)) -> Image.Image:
    """Draw each pair with the same seeds, two pairs per row, the prompt above its first picture."""
    prompts = [prompt for pair in PAIRS for prompt in pair]
    jobs = [Job(janus.encode(prompt), None, seeds, janus.sampling) for prompt in prompts]
    pictures: dict[tuple[Job, int], Image.Image] = {}
    for job, event in draw(Engine(janus), jobs):
        if not isinstance(event, Finished):
            raise ValueError(f"{janus.name} cannot draw {prompts[jobs.index(job)]!r}: {event}")
        pictures[job, event.index] = event.picture
    captions = [text for prompt in prompts for text in (prompt, *[""] * (len(seeds) - 1))]
    cells = [pictures[job, index] for job in jobs for index in range(len(seeds))]
    width = 2 * len(seeds) * _PAIRS_PER_ROW
    starts = range(0, len(cells), width)
    return contact_sheet(
        [cells[start : start + width] for start in starts],
        side=128,
        gap=6,
        captions=[captions[start : start + width] for start in starts],
    )
