"""Guidance, filters and sampling in PyTorch's operations, on any device."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from model.attention import Rows
from model.device import upload
from model.noise import gumbel
from model.sampler.batch_sampling import BatchSettings, filter_each, guide_each, sample_each
from model.sampler.state import SampledImage, SamplerState, windows_of


class NoiseTable:
    """Gumbel noise of `model.noise.gumbel`, computed for several places of an image at once: [rows, ahead, V].

    Computed one place at a time, it would cost a small model more than the decode step.
    """

    def __init__(self, state: SamplerState) -> None:
        rows, tokens = state.codes.shape
        self._ahead = max(1, min(tokens, 2**16 // state.vocabulary))
        self._table = torch.zeros(rows, self._ahead, state.vocabulary, dtype=torch.float32, device=state.codes.device)
        self._held: dict[int, tuple[int, int]] = {}  # seed and first place of each row's noise

    def at(self, images: Sequence[SampledImage], sampled: Sequence[int], rows: Tensor, places: Tensor) -> Tensor:
        """Noise for the next code of each image: [N, V].

        Args:
            images: the N images.
            sampled: codes of each, on the host.
            rows: int64 [N], their rows.
            places: int64 [N], the same as `sampled`.
        """
        due = defaultdict(list)
        for image, place in zip(images, sampled, strict=True):
            wanted = image.seed, place - place % self._ahead
            if self._held.get(image.rows[0]) != wanted:
                self._held[image.rows[0]] = wanted
                due[wanted[1]].append((image.rows[0], image.seed))
        for start, missing in due.items():
            device = self._table.device
            seeds = upload([seed for _, seed in missing], device).repeat_interleave(self._ahead)
            ahead = torch.arange(start, start + self._ahead, device=device).repeat(len(missing))
            noise = gumbel(seeds, ahead, self._table.shape[-1])
            self._table[upload([row for row, _ in missing], device)] = noise.view(len(missing), self._ahead, -1)
        return self._table[rows, places % self._ahead]


@dataclass(frozen=True)
class _Draws:
    """Draws of a step, [D]: each place of each image's window.

    rows: row of the image in the sampler.
    places: place of each draw in its image; moved on, in place, while windows have one place.
    seeds: of the images.
    conditional, unconditional: rows of the logits; the same row for an unguided image.
    settings: of the draws.
    """

    rows: Tensor
    places: Tensor
    seeds: Tensor
    conditional: Tensor
    unconditional: Tensor
    settings: BatchSettings


@dataclass(frozen=True)
class _Lines:
    """From images whose windows have one place to their rows in the cache, [R].

    images: number of each row's image.
    offsets: from an image's next place to the position of its latest code in the row.
    starts: from an image's next place to its latest code in the table of all codes.
    """

    images: Tensor
    offsets: Tensor
    starts: Tensor


class TorchBatch:
    """Images that are sampled together (`model.sampler.state.SamplerBatch`)."""

    def __init__(
        self, state: SamplerState, images: Sequence[SampledImage], widths: Sequence[int], noise: NoiseTable
    ) -> None:
        self._state, self._images, self._noise = state, tuple(images), noise
        self._device = state.codes.device
        self._sampled = [image.sampled for image in images]
        self._paired = all(len(image.rows) == 2 for image in images)
        self._lines = self._line_up()
        self.widen(widths)

    def widen(self, widths: Sequence[int]) -> None:
        """Set the widths of the next windows (`model.sampler.state.SamplerBatch`)."""
        self._widths = tuple(widths)
        self._begin_step()

    def sample(self, logits: Tensor) -> Sequence[int]:
        """Sample (`model.sampler.state.SamplerBatch`). The device is waited for if a window has several places."""
        state, draws, alone = self._state, self._draws, self._alone
        every_other = self._paired and alone
        conditional = logits[0::2] if every_other else logits[draws.conditional]
        unconditional = logits[1::2] if every_other else logits[draws.unconditional]
        guided = guide_each(conditional, unconditional, draws.settings)
        kept = filter_each(guided, draws.settings)
        codes = sample_each(kept, draws.settings, self._noise_of_draws())
        sums = guided.sum(-1)
        if alone:
            confirmed = [1] * len(self._images)
        else:
            confirmed = self._confirmed(codes.tolist())
            final = [
                place < own for own, window in zip(confirmed, self._windows, strict=True) for place in range(window)
            ]
            sums = sums.where(upload(final, self._device), 0)  # logits behind a wrong guess are not the image's
        state.codes[draws.rows, draws.places] = codes
        if len(state.logprobs):
            chosen = kept.log_softmax(-1).gather(-1, codes[:, None])[:, 0]
            greedy = draws.settings.greedy
            state.logprobs[draws.rows, draws.places] = (
                chosen if greedy is None else chosen.masked_fill(greedy[:, 0], 0.0)
            )
        state.sums.index_add_(0, draws.rows, sums)
        self._sampled = [sampled + own for sampled, own in zip(self._sampled, confirmed, strict=True)]
        if alone and self._next_windows() == self._windows:
            self._move_on()
        else:
            self._begin_step()
        return confirmed

    def _noise_of_draws(self) -> Tensor:
        draws = self._draws
        if self._alone:
            return self._noise.at(self._images, self._sampled, draws.rows, draws.places)
        return gumbel(draws.seeds, draws.places, self._state.vocabulary)

    def _confirmed(self, drawn: list[int]) -> list[int]:
        """Codes that each image's draws confirm: all up to the first that is not the guess that was fed."""
        confirmed = []
        for image, guesses, sampled, end, window in zip(
            self._images, self._guesses, self._sampled, accumulate(self._windows), self._windows, strict=True
        ):
            own = drawn[end - window : end]
            wrong = (place for place, (guess, code) in enumerate(zip(guesses, own, strict=False)) if guess != code)
            confirmed.append(next(wrong, window - 1) + 1)
            row = image.rows[0]
            self._state.guessed[row] = max(int(self._state.guessed[row]), sampled + window)
        return confirmed

    def _next_windows(self) -> tuple[int, ...]:
        return windows_of(self._widths, self._sampled, self._state.tokens)

    def _begin_step(self) -> None:
        """Fill in missing guesses, and make the inputs of the next step."""
        self._windows = self._next_windows()
        self._alone = all(window == 1 for window in self._windows)
        self._guesses = [self._guess(number, window) for number, window in enumerate(self._windows)]
        self._draws = self._lay_out()
        codes, index, positions = [], [], list[int]()
        for image, sampled, guesses in zip(self._images, self._sampled, self._guesses, strict=True):
            latest = int(self._state.codes[image.rows[0], sampled - 1]) if sampled else 0  # else nothing reads it
            for row, length in zip(image.rows, image.prompt_lengths, strict=True):
                codes += [latest, *guesses]
                index += [row] * (1 + len(guesses))
                positions += range(length + sampled - 1, length + sampled + len(guesses))
        self.codes = upload(codes, self._device)
        self.rows = Rows.of(index, positions, self._device)

    def _move_on(self) -> None:
        """Make the inputs of the next step from those of this one, without waiting for the device."""
        places = self._draws.places.add_(1)[self._lines.images]
        torch.add(places, self._lines.offsets, out=self.rows.positions)
        torch.index_select(self._state.codes.flatten(), 0, places + self._lines.starts, out=self.codes)

    def _guess(self, number: int, window: int) -> list[int]:
        """Guesses of an image's window; the code above where nothing was drawn yet."""
        if window == 1:
            return []
        state, row, first = self._state, self._images[number].rows[0], self._sampled[number]
        codes: list[int] = state.codes[row].tolist()
        end = first + window - 1
        for place in range(max(first, int(state.guessed[row])), end):
            codes[place] = codes[place - state.grid] if place >= state.grid else codes[max(0, place - 1)]
        return codes[first:end]

    def _lay_out(self) -> _Draws:
        rows, places, seeds, conditional, unconditional, params = [], [], [], [], [], []
        start = 0
        for image, sampled, window in zip(self._images, self._sampled, self._windows, strict=True):
            others = (len(image.rows) - 1) * window
            for place in range(window):
                rows.append(image.rows[0])
                places.append(sampled + place)
                seeds.append(image.seed)
                conditional.append(start + place)
                unconditional.append(start + others + place)
                params.append(image.params)
            start += window + others
        return _Draws(
            upload(rows, self._device),
            upload(places, self._device),
            upload(seeds, self._device),
            upload(conditional, self._device),
            upload(unconditional, self._device),
            BatchSettings.of(params, self._state.vocabulary, self._device),
        )

    def _line_up(self) -> _Lines:
        images, offsets, starts = [], [], []
        for number, image in enumerate(self._images):
            for length in image.prompt_lengths:
                images.append(number)
                offsets.append(length - 1)
                starts.append(image.rows[0] * self._state.tokens - 1)
        return _Lines(upload(images, self._device), upload(offsets, self._device), upload(starts, self._device))
