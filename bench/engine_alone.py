"""How many images a second an engine draws without a server: a process of its own, asked for one slice of time after another."""

import argparse
import sys
import time

import torch

from model.checkpoint import load
from serve.engine import Engine
from serve.events import Finished
from serve.request import Job, Request


def images_per_second(engine: Engine, prompt: str, *, slots: int, seconds: float) -> float:
    """Of single images by the checkpoint's recipe, each with one preview, while as many wait as there are slots.

    They begin evenly spread over the steps of one, as a server's do whose clients begin one after another,
    and stay so. Counted from when twice as many have come as there are slots.

    Args:
        engine: idle; and is idle again in the end.
        prompt: of all images.
        slots: of the engine.
        seconds: that are counted.
    """
    janus = engine.janus
    ids = janus.encode(prompt)
    middle = frozenset({round(janus.grid / 2)})
    requests: list[Request] = []
    ended = counted = steps = 0
    begun: float | None = None
    while begun is None or time.perf_counter() - begun < seconds:
        clients = 2 * slots if steps >= janus.image_tokens else 1 + steps * slots // janus.image_tokens
        while len(requests) < clients + ended:  # each asks again as soon as it has its picture
            requests.append(engine.submit(Job(ids, None, (len(requests),), janus.recipe, preview_rows=middle)))
        steps += 1
        came = sum(isinstance(event, Finished) for _, event in engine.step())
        ended += came
        if begun is not None:
            counted += came
        elif ended >= 2 * slots:
            begun = time.perf_counter()
    rate = counted / (time.perf_counter() - begun)
    for request in requests:
        engine.cancel(request)
    return rate


def main() -> None:
    """Reads lines of seconds; answers each with a rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine = Engine(load(arguments.model, device="cpu"), images=arguments.slots)
    for line in sys.stdin:
        rate = images_per_second(engine, arguments.prompt, slots=arguments.slots, seconds=float(line))
        print(rate, flush=True)


if __name__ == "__main__":
    main()
