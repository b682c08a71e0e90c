"""Guide, filter and sample many images at once, each by its own settings."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from model.cpu_sampler import CpuDrawer
from model.device import upload
from model.native import compiled_library
from model.noise import gumbel
from model.params import SamplingParams
from model.sampling import keep_top_k, keep_top_p


@dataclass(frozen=True)
class Filter:
    """top_k and top_p shared by some images of a batch; `places` [n] says which."""

    top_k: int
    top_p: float
    places: Tensor


@dataclass(frozen=True)
class BatchSettings:
    """Sampling settings of N images; only what changes something is kept.

    `guidance` and `temperature` are [N, 1] float32, `greedy` [N, 1] bool; greedy images have temperature 1,
    and no noise. `temperature` is None where all are 1, `greedy` where no image is.
    """

    guidance: Tensor
    temperature: Tensor | None
    greedy: Tensor | None
    filters: tuple[Filter, ...]

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> "BatchSettings":
        """From the settings of each image."""
        places = defaultdict(list)
        for place, one in enumerate(params):
            top_k = one.top_k if one.top_k < vocabulary else 0
            if one.temperature > 0 and (top_k or one.top_p < 1):
                places[top_k, one.top_p].append(place)

        temperatures = [float(one.temperature or 1) for one in params]
        greedy = [one.temperature == 0 for one in params]
        return cls(
            upload([float(one.guidance_scale) for one in params], device)[:, None],
            upload(temperatures, device)[:, None] if set(temperatures) != {1.0} else None,
            upload(greedy, device)[:, None] if any(greedy) else None,
            tuple(Filter(k, p, upload(chosen, device)) for (k, p), chosen in places.items()),
        )


def guide_each(conditional: Tensor, unconditional: Tensor, settings: BatchSettings) -> Tensor:
    """Guided logits, the same as `guide` of model.sampling, image by image.

    A logit of either that is not finite makes a guided one that is not.

    Args:
        conditional: logits [N, V], float32.
        unconditional: likewise; for an unguided image its conditional ones again.
        settings: of the N images.

    Returns:
        float32 [N, V].
    """
    return (conditional - unconditional).mul_(settings.guidance).add_(unconditional)


def sample_each(guided: Tensor, settings: BatchSettings, noise: Tensor) -> Tensor:
    """One code for each image, the same as `sample` of model.sampling, image by image.

    Args:
        guided: logits [N, V], float32.
        settings: of the N images.
        noise: Gumbel [N, V].

    Returns:
        int64 [N].
    """
    logits = guided if settings.temperature is None else guided / settings.temperature
    for one in settings.filters:
        whole = len(one.places) == len(logits)
        chosen = logits if whole else logits[one.places]
        kept = keep_top_p(keep_top_k(chosen, one.top_k), one.top_p)
        logits = kept if whole else logits.index_copy(0, one.places, kept)
    noisy = logits + noise
    return (noisy if settings.greedy is None else torch.where(settings.greedy, logits, noisy)).argmax(-1)


@dataclass(frozen=True)
class Draws:
    """Images that draw their codes together, until one joins or leaves.

    slots: int64 [N], where the sampler keeps each.
    drawn: int64 [N], how many codes each has; counted on in place.
    conditional, unconditional: int64 [N], rows of the logits; the same row for an unguided image.
    paired: whether all images are guided, so that these are every other row.
    owners: int64 [rows], whose each row is, as a place among the images.
    fed: int64 [rows], the code that each row's image drew last; overwritten by the next.
    hosts: for the host, [slot, seed, codes so far] of each.
    how: the settings of each for PyTorch's operations, or the C function made for them.
    """

    slots: Tensor
    drawn: Tensor
    conditional: Tensor
    unconditional: Tensor
    paired: bool
    owners: Tensor
    fed: Tensor
    hosts: list[list[int]]
    how: BatchSettings | CpuDrawer


class NoiseTable:
    """Gumbel noise of many images, some positions ahead: [slots, ahead, V].

    It is the noise of `model.noise.gumbel`, made for many positions in one go, because one position
    at a time costs a small model more than its step.
    """

    def __init__(self, *, slots: int, tokens: int, vocabulary: int, device: torch.device) -> None:
        self._ahead = max(1, min(tokens, 2**16 // vocabulary))
        self._table = torch.zeros(slots, self._ahead, vocabulary, dtype=torch.float32, device=device)

    def of(self, draws: Draws) -> Tensor:
        """For the next code of every image: [N, V]."""
        due = defaultdict(list)
        for slot, seed, position in draws.hosts:
            if position % self._ahead == 0:
                due[position].append((slot, seed))
        for start, images in due.items():
            device = self._table.device
            seeds = upload([seed for _, seed in images], device).repeat_interleave(self._ahead)
            positions = torch.arange(start, start + self._ahead, device=device).repeat(len(images))
            noise = gumbel(seeds, positions, self._table.shape[-1])
            self._table[upload([slot for slot, _ in images], device)] = noise.view(len(images), self._ahead, -1)
        return self._table[draws.slots, draws.drawn % self._ahead]


class Sampler:
    """What the images of some slots have drawn, and how they draw on; on a CPU in C, where there is a compiler.

    Codes are those of `sample` of model.sampling, image by image.

    Args:
        slots: places for images.
        tokens: codes of an image.
        vocabulary: V, the number of codes to choose from.
        device: of everything.
        compiled: whether it may be C.
    """

    def __init__(
        self, *, slots: int, tokens: int, vocabulary: int, device: torch.device, compiled: bool = True
    ) -> None:
        self._device, self._vocabulary = device, vocabulary
        self._codes = torch.zeros(slots, tokens, dtype=torch.int64, device=device)
        # of an image's logits: finite while all of them are
        self._sums = torch.zeros(slots, dtype=torch.float32, device=device)
        self._library = compiled_library() if compiled and device.type == "cpu" else None
        self._noise: NoiseTable | None = None
        if self._library is None:
            self._noise = NoiseTable(slots=slots, tokens=tokens, vocabulary=vocabulary, device=device)

    def begin(self, slots: Sequence[int]) -> None:
        """New images in slots."""
        self._sums[upload(slots, self._device)] = 0

    def draws(
        self,
        slots: Sequence[int],
        rows: Sequence[int],
        params: Sequence[SamplingParams],
        seeds: Sequence[int],
        drawn: Sequence[int],
    ) -> Draws:
        """What `draw` needs of N images.

        Args:
            slots: of each.
            rows: how many rows of the logits each has: one, or where guided two, the conditional one first.
            params: of each.
            seeds: of each.
            drawn: how many codes each has.
        """
        ends = list(accumulate(rows))
        starts = [end - own for end, own in zip(ends, rows, strict=True)]
        places, counts, first = (upload(values, self._device) for values in (slots, drawn, starts))
        last = upload([end - 1 for end in ends], self._device)
        owners = upload([image for image, own in enumerate(rows) for _ in range(own)], self._device)
        fed = self._codes[places, counts - 1][owners]
        how: BatchSettings | CpuDrawer
        if self._library is None:
            how = BatchSettings.of(params, self._vocabulary, self._device)
        else:
            how = CpuDrawer(
                self._library,
                params,
                seeds,
                slots=places,
                drawn=counts,
                conditional=first,
                unconditional=last,
                fed=fed,
                codes=self._codes,
                sums=self._sums,
                vocabulary=self._vocabulary,
            )
        paired = all(own == 2 for own in rows)
        hosts = [list(one) for one in zip(slots, seeds, drawn, strict=True)]
        return Draws(places, counts, first, last, paired, owners, fed, hosts, how)

    def draw(self, logits: Tensor, draws: Draws) -> None:
        """One more code for every image.

        Args:
            logits: float32 [rows, V].
            draws: the images.
        """
        if isinstance(draws.how, CpuDrawer):
            draws.how(logits)
            return
        conditional = logits[0::2] if draws.paired else logits[draws.conditional]
        unconditional = logits[1::2] if draws.paired else logits[draws.unconditional]
        guided = guide_each(conditional, unconditional, draws.how)
        assert self._noise is not None
        codes = sample_each(guided, draws.how, self._noise.of(draws))
        self._codes[draws.slots, draws.drawn] = codes
        draws.fed.copy_(codes[draws.owners])
        self._sums.index_add_(0, draws.slots, guided.sum(-1))
        draws.drawn.add_(1)
        for one in draws.hosts:
            one[2] += 1

    def codes(self, slots: Sequence[int]) -> Tensor:
        """All codes of images, int64 [n, tokens]; only what has been drawn means something."""
        return self._codes[upload(slots, self._device)]

    def finite(self, slots: Sequence[int]) -> list[bool]:
        """Whether every logit of an image has been a finite number, of each."""
        return cast(list[bool], self._sums[upload(slots, self._device)].isfinite().tolist())
