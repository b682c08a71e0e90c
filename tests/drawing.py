"""Helpers of the engine's tests: make jobs, run them to the end, and a clock that the test sets."""

from collections.abc import Sequence

from model.generate import generate
from model.janus import Janus
from model.params import SamplingParams
from serve.engine.engine import Engine
from serve.engine.events import Event, Finished
from serve.engine.job import Job, JobState

GREEDY = SamplingParams(guidance_scale=3, temperature=0)
SETTINGS = [
    GREEDY,
    SamplingParams(guidance_scale=1, temperature=0),
    SamplingParams(guidance_scale=5, temperature=1, top_k=40),
    SamplingParams(guidance_scale=2, temperature=1.3, top_k=0, top_p=0.8),
    SamplingParams(guidance_scale=1, temperature=0.7, top_k=100, top_p=0.9),
    SamplingParams(guidance_scale=2.5, temperature=1, top_k=4096),
]


def job(prompt: list[int], params: SamplingParams, *seeds: int, negative: list[int] | None = None) -> Job:
    return Job(prompt, negative, seeds, params)


class Clock:
    """A clock whose time the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(engine: Engine, arrivals: Sequence[tuple[int, Job]]) -> list[list[Event]]:
    """Submit each job at its step, run the engine until it is idle, and return each job's events."""
    heard: dict[JobState, list[Event]] = {}
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    step = 0
    while waiting or not engine.idle:
        assert step < 1000, "something waits for ever"
        while waiting and waiting[0][0] <= step:
            heard[engine.submit(waiting.pop(0)[1])] = []
        for request, event in engine.step():
            heard[request].append(event)
        step += 1
    return list(heard.values())


def codes_of(events: list[Event]) -> list[tuple[int, ...]]:
    return [e.codes for e in sorted((e for e in events if isinstance(e, Finished)), key=lambda e: e.index)]


def reference_codes(janus: Janus, one: Job) -> list[tuple[int, ...]]:
    """Codes of each image of a job by the reference loop."""
    n = len(one.seeds)
    negative = None if one.negative_prompt is None else [one.negative_prompt] * n
    codes = generate(
        janus,
        [one.prompt] * n,
        seeds=one.seeds,
        negative_prompts=negative,
        **one.params.as_dict(),  # type: ignore[arg-type]
    )
    return [tuple(row) for row in codes.tolist()]
