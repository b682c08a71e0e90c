"""Prefill: prompts become keys and values, each text once."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from model.decoder import Decoder
from model.kv_cache import Prefix
from model.prompt import SpecialIds, unconditional_row
from serve.engine.job import Job, JobState
from serve.engine.slot import Slot

UNCONDITIONAL_BYTES = 2**29  # of prefixes, one for each prompt length: of a 7B, 36 with 30 tokens
Prompts = tuple[
    tuple[int, ...], ...
]  # token ids of a job's prompt and, when guided, of the one that it is led away from
AHEAD_TOKENS = 256  # of a call on a GPU, which multiplies about as many by a matrix while it reads the matrix
PREFILL_TOKENS = 1024  # of one call, and of new prefixes that are held at once: those of a 7B take half a GiB


class PrefixReader:
    """Reads the prompts of jobs. Prefixes of unconditional rows are kept by length, the latest used ones, up to 512 MiB.

    Args:
        decoder: reads them.
        ids: special tokens, of which unconditional rows are made.
        ahead: a call that has fewer tokens to read takes along prompts of waiting jobs.
    """

    def __init__(self, decoder: Decoder, ids: SpecialIds, *, ahead: int = 0) -> None:
        self._ahead = ahead
        self._decoder = decoder
        self._ids = ids
        self._unconditional: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def clear(self) -> None:
        """Forget what was read with other weights."""
        self._unconditional.clear()

    def parts(self, slots: Sequence[Slot]) -> Iterator[list[Slot]]:
        """Slots in parts to be filled one after the other, so that few prefixes are held at once."""
        part: list[Slot] = []
        tokens, states = 0, set[JobState]()
        for slot in slots:
            known = slot.state.prefixes is not None or slot.state in states
            new = 0 if known else sum(map(len, self._prompts(slot.state.job)))
            if part and tokens + new > PREFILL_TOKENS:
                yield part
                part, tokens, states = [], 0, set()
            part.append(slot)
            tokens += new
            states.add(slot.state)
        if part:
            yield part

    def read(self, states: Collection[JobState], waiting: Iterable[JobState] = ()) -> None:
        """Set the prefixes of jobs; a text that several of them share is read once.

        Args:
            states: the jobs.
            waiting: those that come next, whose prefixes may be set, too.
        """
        wanted = {state: self._prompts(state.job) for state in states}
        unread = self._unread(wanted)
        if unread:
            unread = self._read_ahead(wanted, unread, waiting)
        known = {
            row: self._unconditional[row] for rows in wanted.values() for row in rows if row in self._unconditional
        }
        while unread:
            # a call pads its prompts to the longest of them, which is the last
            take = next(n for n in range(len(unread), 0, -1) if n == 1 or n * len(unread[n - 1]) <= PREFILL_TOKENS)
            part, unread = unread[:take], unread[take:]
            known.update(zip(part, self._decoder.prefill(part), strict=True))
        for state, rows in wanted.items():
            state.prefixes = tuple(known[row] for row in rows)
            if state.job.params.guided and state.job.negative_prompt is None:
                self._keep(rows[1], known[rows[1]])

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
            if len(more) * len(more[-1]) > self._ahead:
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
