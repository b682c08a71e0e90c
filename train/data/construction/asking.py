"""Ask models about many items at once, and keep each answer as it comes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

from train.data.construction.vision_model import NoAnswer

T = TypeVar("T")
A = TypeVar("A")

_MOST_FAILURES = 20  # items without an answer, one after another, after which an endpoint counts as gone


def ask_all(
    ask: Callable[[T], A], items: Sequence[T], keep: Callable[[T, A], object], *, name: str, concurrency: int
) -> str | None:
    """Ask about every item in threads; stop early if the endpoint is gone.

    Args:
        ask: called in a thread; raises `NoAnswer` where the endpoint failed.
        items: what to ask about.
        keep: called in this thread with each item that was answered, and its answer.
        name: of the items, for the progress bar.
        concurrency: items at the same time.

    Returns:
        The latest failure; None if there was none.
    """
    failures, last = 0, None
    with ThreadPoolExecutor(concurrency) as pool:
        calls = {pool.submit(ask, item): item for item in items}
        for call in tqdm(as_completed(calls), total=len(calls), desc=name, mininterval=1, disable=None):
            try:
                answer = call.result()
            except NoAnswer as error:
                failures, last = failures + 1, str(error)
                if failures == _MOST_FAILURES:
                    pool.shutdown(wait=True, cancel_futures=True)
                    break
                continue
            failures = 0
            keep(calls[call], answer)
    return last
