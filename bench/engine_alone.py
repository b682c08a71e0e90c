"""How many images a second an engine draws that never waits: a process of its own, beside which HTTP is measured."""

import argparse
import time

import torch

from model.checkpoint import load
from serve.engine import Engine
from serve.events import Finished
from serve.request import Job


def images_per_second(model: str, prompt: str, *, slots: int, seconds: float) -> float:
    """Of single images by the checkpoint's recipe, each with one preview; counted once every slot has had one.

    They begin evenly spread over the time of one, as people do not ask all at once.
    """
    janus = load(model, device="cpu")
    engine = Engine(janus, images=slots)
    ids = janus.encode(prompt)
    middle = frozenset({round(janus.grid / 2)})
    seed = ended = steps = 0
    started: float | None = None
    while started is None or time.perf_counter() - started < seconds:
        due = slots if steps >= janus.image_tokens else 1 + steps * slots // janus.image_tokens
        while seed < due or (due == slots and engine.scheduler.waiting_images < slots):
            engine.submit(Job(ids, None, (seed,), janus.recipe, preview_rows=middle))
            seed += 1
        steps += 1
        ended += sum(isinstance(event, Finished) for _, event in engine.step())
        if started is None and ended >= slots:
            started, ended = time.perf_counter(), 0
    return ended / (time.perf_counter() - started)


def main() -> None:
    """Prints the rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(images_per_second(arguments.model, arguments.prompt, slots=arguments.slots, seconds=arguments.seconds))


if __name__ == "__main__":
    main()
