"""Prefill: prompts become keys and values, each text once."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from model.decoder import Decoder
from model.kv_cache import Prefix
from model.prompt import SpecialIds, unconditional_row
from serve.engine.job import Job, JobState
from serve.engine.side_stream import SideStream, Work

UNCONDITIONAL_BYTES = 2**29  # of prefixes, one for each prompt length: of a 7B, 36 with 30 tokens
Prompts = tuple[
    tuple[int, ...], ...
]  # token ids of a job's prompt and, when guided, of the one that it is led away from
AHEAD_TOKENS = 256  # of a call on a GPU, which multiplies about as many by a matrix while it reads the matrix
PREFILL_TOKENS = 1024  # of one call, and of what is read at once: prefixes of a 7B that take half a GiB


@dataclass
class _Reading:
    """Prompts that are being read.

    wanted: jobs, and their prompts.
    work: the prefixes of those that were not known.
    """

    wanted: Mapping[JobState, Prompts]
    work: Work[dict[tuple[int, ...], Prefix]]


class PrefixReader:
    """Reads the prompts of jobs. Prefixes of unconditional rows are kept by length, the latest used ones, up to 512 MiB.

    Args:
        decoder: reads them.
        ids: special tokens, of which unconditional rows are made.
        stream: where they are read.
        ahead: tokens up to which prompts of waiting jobs are read before there are rows for them, but those of one job at
            least; 0: none are.
    """

    def __init__(self, decoder: Decoder, ids: SpecialIds, stream: SideStream, *, ahead: int = 0) -> None:
        self._ahead = ahead
        self._decoder = decoder
        self._ids = ids
        self._stream = stream
        self._unconditional: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._reading: _Reading | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is being read."""
        reading = self._reading
        return reading is None or (not any(state.live for state in reading.wanted) and reading.work.over)

    def clear(self) -> None:
        """Forget what was read with other weights."""
        self._unconditional.clear()
        self._reading = None

    def begin(self, coming: Iterable[JobState], waiting: Sequence[JobState]) -> None:
        """Begin to read prompts, up to 1024 tokens at once, so that few prefixes are held; none while others are being read.

        Args:
            coming: waiting jobs that there are rows for, in order.
            waiting: all that wait, in order.
        """
        if not self.idle:
            return
        wanted = self._first(coming)
        unread = self._unread(wanted)
        if self._ahead and (wanted or (waiting and waiting[0].prefixes is None)):
            unread = self._read_ahead(wanted, unread, waiting)
        if wanted:
            self._reading = _Reading(wanted, self._stream.run(partial(_prefill, self._decoder, unread)))

    def ready(self, state: JobState, *, wait: bool) -> bool:
        """Whether the prefixes of a job can be used: then they are set.

        Args:
            state: the job.
            wait: let the steps wait for its prompts, if these are being read.
        """
        reading = self._reading
        if reading is not None and state in reading.wanted and (wait or reading.work.over):
            self._end(reading)
        return state.prefixes is not None

    def _end(self, reading: _Reading) -> None:
        read = reading.work.result
        reading.work.join(tensor for prefix in read.values() for tensor in (prefix.keys, prefix.values, prefix.logits))
        known = read | {
            row: self._unconditional[row]
            for rows in reading.wanted.values()
            for row in rows
            if row in self._unconditional
        }
        for state, rows in reading.wanted.items():
            if state.live:
                state.prefixes = tuple(known[row] for row in rows)
            if state.job.params.guided and state.job.negative_prompt is None:
                self._keep(rows[1], known[rows[1]])
        self._reading = None

    def _first(self, coming: Iterable[JobState]) -> dict[JobState, Prompts]:
        """The first jobs without prefixes that are read at once, and their prompts."""
        wanted: dict[JobState, Prompts] = {}
        tokens = 0
        for state in coming:
            if state.prefixes is not None:
                continue
            prompts = self._prompts(state.job)
            tokens += sum(map(len, prompts))
            if wanted and tokens > PREFILL_TOKENS:
                break
            wanted[state] = prompts
        return wanted

    def _unread(self, wanted: Mapping[JobState, Prompts]) -> list[tuple[int, ...]]:
        """Prompts that are not known, the shortest first."""
        return sorted({row for rows in wanted.values() for row in rows} - self._unconditional.keys(), key=len)

    def _read_ahead(
        self, wanted: dict[JobState, Prompts], unread: list[tuple[int, ...]], waiting: Iterable[JobState]
    ) -> list[tuple[int, ...]]:
        """Add waiting jobs to those that are wanted, as long as there is room; returns all that is unread."""
        for state in waiting:
            if state.prefixes is not None or state in wanted:
                continue
            more = self._unread({**wanted, state: self._prompts(state.job)})
            if wanted and more and len(more) * len(more[-1]) > self._ahead:
                break
            wanted[state], unread = self._prompts(state.job), more
        return unread

    def _prompts(self, job: Job) -> Prompts:
        """Token ids of the job's prompt and, when guided, of its negative prompt or unconditional row."""
        prompt = tuple(job.prompt)
        if not job.params.guided:
            return (prompt,)
        away = job.negative_prompt or unconditional_row(len(prompt), self._ids)
        return prompt, tuple(away)

    def _keep(self, row: tuple[int, ...], prefix: Prefix) -> None:
        self._unconditional[row] = prefix
        self._unconditional.move_to_end(row)
        while len(self._unconditional) > 1 and self._bytes > UNCONDITIONAL_BYTES:
            self._unconditional.popitem(last=False)

    @property
    def _bytes(self) -> int:
        return sum(prefix.nbytes for prefix in self._unconditional.values())


def _prefill(decoder: Decoder, unread: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], Prefix]:
    """Read prompts, the shortest first, in as few calls as the limit of a call allows."""
    read: dict[tuple[int, ...], Prefix] = {}
    while unread:
        # a call pads its prompts to the longest of them, which is the last
        take = next(n for n in range(len(unread), 0, -1) if n == 1 or n * len(unread[n - 1]) <= PREFILL_TOKENS)
        part, unread = unread[:take], unread[take:]
        read.update(zip(part, decoder.prefill(part), strict=True))
    return read
