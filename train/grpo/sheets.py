"""Contact sheets of a run: the same prompts and seeds every few steps."""

from collections.abc import Sequence

from PIL import Image

from model.params import SamplingParams
from pairs.contact_sheet import contact_sheet
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job

_SIDE = 120  # pixels of a picture on a sheet


def prompt_sheet(
    engine: Engine, pairs: Sequence[tuple[str, ...]], seeds: Sequence[int], params: SamplingParams
) -> Image.Image:
    """One row for each pair: pictures of its first prompt, then of its second with the same seeds."""
    prompts = [prompt for pair in pairs for prompt in pair]
    jobs = {Job(engine.janus.encode(p), None, tuple(seeds), params): i for i, p in enumerate(prompts)}
    blank = Image.new("RGB", (_SIDE, _SIDE), "white")
    pictures = [[blank] * len(seeds) for _ in prompts]
    for job, event in draw(engine, jobs):
        if isinstance(event, Finished):
            pictures[jobs[job]][event.index] = event.picture
    rows, captions, start = [], [], 0
    for pair in pairs:
        own = range(start, start + len(pair))
        rows.append([picture for i in own for picture in pictures[i]])
        captions.append([text for i in own for text in [prompts[i], *[""] * (len(seeds) - 1)]])
        start = own.stop
    return contact_sheet(rows, side=_SIDE, captions=captions)
