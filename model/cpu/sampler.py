"""Guidance, filters and sampling in C, `sampler.c`.

To filter, PyTorch sorts all 16,384 codes; C only counts them (docs/performance.md).
"""

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from model.attention import Rows
from model.cpu.library import addresses, numbers, pointers
from model.sampler.state import MOST_FED, SampledImage, SamplerState
from model.sampling import filtered, guide, sample


class _Batch(ctypes.Structure):
    _fields_ = [
        *pointers("guidance temperature top_k top_p seeds row_counts cache_rows prompt_lengths widths sampled"),
        *pointers("codes guessed sums logprobs fed fed_rows fed_positions windows starts confirmed"),
        *pointers("draw_images draw_places draw_codes draw_sums draw_logprobs ambiguous"),
        *numbers("images vocabulary tokens grid fed_count draw_count"),
    ]


class NativeBatch:
    """Images that are sampled together (`model.sampler.state.SamplerBatch`).

    Args:
        library: the compiled C functions (`model.cpu.library`).
        state: codes of all images; must keep its memory.
        images: the N images.
        widths: of their windows.
    """

    def __init__(
        self, library: ctypes.CDLL, state: SamplerState, images: Sequence[SampledImage], widths: Sequence[int]
    ) -> None:
        self._library, self._state, self._images = library, state, tuple(images)
        count, vocabulary = len(images), state.vocabulary
        params = [image.params for image in images]
        fed = sum(width * len(image.rows) for width, image in zip(widths, images, strict=True))
        most = max(MOST_FED, fed)  # more where images have joined those of a full step
        floats = [
            torch.tensor([float(one.guidance_scale) for one in params], dtype=torch.float32),
            torch.tensor([float(one.temperature) for one in params], dtype=torch.float32),
        ]
        top_p = torch.tensor([float(one.top_p) for one in params], dtype=torch.float64)
        self.codes = torch.zeros(most, dtype=torch.int64)
        self.rows = Rows(torch.zeros(most, dtype=torch.int64), torch.zeros(most, dtype=torch.int64), 0)
        self._seeds = _int64s(image.seed for image in images)
        self._widths, self._windows, self._starts, self._confirmed = (_int64s([0] * count) for _ in range(4))
        self._sampled = _int64s(image.sampled for image in images)
        self._draw_images, self._draw_places, self._draw_codes = (_int64s([0] * most) for _ in range(3))
        self._draw_sums, self._draw_logprobs = (torch.zeros(most, dtype=torch.float32) for _ in range(2))
        self._ambiguous = (ctypes.c_int8 * most)()
        self._threads = torch.get_num_threads()
        self._scratch = torch.empty(self._threads * library.sample_scratch(vocabulary), dtype=torch.uint8)
        self._scratch_address = addresses([self._scratch])[0]
        settings = (
            _int64s(min(one.top_k, vocabulary) for one in params),
            _int64s(len(image.rows) for image in images),
            _int64s(row for image in images for row in _pair(image.rows)),
            _int64s(length for image in images for length in _pair(image.prompt_lengths)),
        )
        top_k, row_counts, cache_rows, prompt_lengths = map(_address, settings)
        self._held = floats, top_p, settings  # keeps the memory alive: C has pointers only
        self._batch = _Batch(
            *addresses(floats),
            top_k,
            *addresses([top_p]),
            _address(self._seeds),
            row_counts,
            cache_rows,
            prompt_lengths,
            _address(self._widths),
            _address(self._sampled),
            *addresses([state.codes, state.guessed, state.sums]),
            addresses([state.logprobs])[0] if state.logprobs.numel() else None,
            *addresses([self.codes, self.rows.index, self.rows.positions]),
            *map(_address, (self._windows, self._starts, self._confirmed)),
            *map(_address, (self._draw_images, self._draw_places, self._draw_codes)),
            *addresses([self._draw_sums, self._draw_logprobs]),
            _address(self._ambiguous),
            count,
            vocabulary,
            state.tokens,
            state.grid,
        )
        self._reference = ctypes.byref(self._batch)
        self._logits: Tensor | None = None
        self._logits_address = ctypes.c_void_p()
        self.widen(widths)

    def widen(self, widths: Sequence[int]) -> None:
        """Set the widths of the next windows (`model.sampler.state.SamplerBatch`)."""
        fed = sum(width * len(image.rows) for width, image in zip(widths, self._images, strict=True))
        assert fed <= len(self.codes), f"{fed} codes in a step, of at most {len(self.codes)}"
        self._widths[:] = list(widths)
        self._library.feed(self._reference)
        self.rows.restart(self._batch.fed_count, windowed=max(widths, default=1) > 1)

    def sample(self, logits: Tensor) -> Sequence[int]:
        """Sample (`model.sampler.state.SamplerBatch`)."""
        if logits is not self._logits:  # the decoder returns the same tensor at every step
            assert logits.dtype == torch.float32
            self._logits, self._logits_address = logits, addresses([logits])[0]
        if self._library.draw(self._reference, self._logits_address, self._scratch_address, self._threads):
            for draw in range(self._batch.draw_count):
                if self._ambiguous[draw]:
                    self._draw_again(draw, logits)
        self._library.confirm(self._reference)
        if self.rows.windowed:
            self.rows.restart(self._batch.fed_count, windowed=True)
        return self._confirmed[:]

    def _draw_again(self, draw: int, logits: Tensor) -> None:
        """Draw with the reference, `model.sampling`: the best codes are too close for C's precision."""
        number, place = self._draw_images[draw], self._draw_places[draw]
        image = self._images[number]
        conditional = self._starts[number] + place
        unconditional = conditional + (len(image.rows) - 1) * self._windows[number]
        guided = guide(logits[conditional], logits[unconditional], image.params.guidance_scale)
        positions = torch.tensor([self._sampled[number] + place])
        code = int(sample(guided[None], image.params, seeds=torch.tensor([image.seed]), positions=positions))
        self._draw_codes[draw] = code
        if self._state.logprobs.numel():
            self._draw_logprobs[draw] = filtered(guided, image.params).log_softmax(-1)[code]


def _int64s(values: Iterable[int]) -> "ctypes.Array[ctypes.c_int64]":
    numbers = list(values)
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _address(array: "ctypes.Array[Any]") -> ctypes.c_void_p:
    return ctypes.cast(array, ctypes.c_void_p)


def _pair(numbers: tuple[int, ...]) -> tuple[int, int]:
    """The numbers of one or two rows as two."""
    return numbers[0], numbers[-1]
