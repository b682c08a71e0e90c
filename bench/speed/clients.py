"""Clients for load tests: closed-loop clients that saturate a server, and random arrivals."""

import asyncio
import random
import time
from dataclasses import dataclass

import httpx

PROMPT = "three red circles and a blue star"
TIMEOUT_SECONDS = 180.0  # timeout of any answer in seconds


@dataclass(frozen=True)
class Answer:
    """Result of a request: status (0 if the stream broke), and seconds to its preview and its end."""

    status: int
    preview: float | None
    latency: float


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=httpx.Limits(max_connections=None))


async def saturate(url: str, slots: int, seconds: float) -> float:
    """Images per second with twice as many clients as slots, each asking again as soon as it is answered.

    Images that start in the same step also end together, as do their successors, which costs less than images that
    are spread out. So the first image of each slot starts after that of the slot before.

    Raises:
        ConnectionError: a request was refused or lost.
        TimeoutError: the model is too slow for this many slots.
    """
    done: list[float] = []
    stop = time.perf_counter() + seconds + TIMEOUT_SECONDS
    accepted = [asyncio.Event() for _ in range(slots)]

    async def ask_again(client: httpx.AsyncClient, number: int) -> None:
        if number > 0:
            await accepted[min(number, slots) - 1].wait()
        seed = number
        accepted_event = accepted[number] if number < slots else None
        while time.perf_counter() < stop:
            answer = await _ask(client, url, seed, accepted_event)
            if answer.status != 200:
                raise ConnectionError(f"a saturating client was answered with status {answer.status}")
            done.append(time.perf_counter())
            seed += 2 * slots
            accepted_event = None

    async with _client() as client:
        asking = [asyncio.create_task(ask_again(client, number)) for number in range(2 * slots)]
        while len(done) < 2 * slots:
            await asyncio.sleep(0.001)
            for task in asking:
                if task.done():
                    task.result()
            if all(task.done() for task in asking):
                raise TimeoutError(f"{len(done)} images came in time, too few to measure: give fewer --slots")
        begun = time.perf_counter()
        stop = begun + seconds
        await asyncio.gather(*asking)
    return sum(begun < moment <= stop for moment in done) / seconds


async def latency(url: str, seed: int) -> float:
    """Seconds of one image with one preview, asked for alone.

    Raises:
        ConnectionError: the request was refused or lost.
    """
    async with _client() as client:
        answer = await _ask(client, url, seed)
    if answer.status != 200:
        raise ConnectionError(f"a single request was answered with status {answer.status}")
    return answer.latency


async def arrive(url: str, *, rate: float, seconds: float) -> list[Answer]:
    """Send Poisson arrivals for `seconds` seconds at `rate` per second, then wait for all answers."""
    started = time.perf_counter()
    async with _client() as client:
        asking = []
        moment, seed, source = started, 0, random.Random(0)
        while True:
            moment += source.expovariate(rate)
            if moment > started + seconds:
                break
            await asyncio.sleep(max(0.0, moment - time.perf_counter()))
            asking.append(asyncio.create_task(_ask(client, url, seed)))
            seed += 1
        return list(await asyncio.gather(*asking))


async def _ask(client: httpx.AsyncClient, url: str, seed: int, accepted_event: asyncio.Event | None = None) -> Answer:
    """Request one image with one preview; `accepted_event` is set when the server has accepted it."""
    started = time.perf_counter()
    body = {
        "prompt": PROMPT,
        "seed": seed,
        "stream": True,
        "partial_images": 1,
        "queue_events": accepted_event is not None,
    }
    preview, completed = None, False
    try:
        async with client.stream("POST", f"{url}/v1/images/generations", json=body) as answer:
            async for line in answer.aiter_lines():
                if line == "event: image_generation.partial_image":
                    preview = time.perf_counter() - started
                if accepted_event and line == "event: image_generation.queued":
                    accepted_event.set()
                completed |= line == "event: image_generation.completed"
    except httpx.TransportError:
        return Answer(0, preview, time.perf_counter() - started)
    status = answer.status_code if completed or answer.status_code != 200 else 0
    return Answer(status, preview, time.perf_counter() - started)
