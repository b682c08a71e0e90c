"""Guide, filter and sample many images at once, each by its own settings."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.device import upload
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


class NoiseTable:
    """Gumbel noise of many images, some positions ahead: [slots, ahead, V].

    It is the noise of `model.noise.gumbel`, made for many positions in one go, because one position
    at a time costs a small model more than its step.
    """

    def __init__(self, *, slots: int, tokens: int, vocabulary: int, device: torch.device) -> None:
        self.ahead = max(1, min(tokens, 2**16 // vocabulary))
        self._table = torch.zeros(slots, self.ahead, vocabulary, dtype=torch.float32, device=device)

    def fill(self, slots: Tensor, seeds: Tensor, start: int) -> None:
        """Noise of positions start … start + ahead − 1 for slots [n] with seeds [n]; start is a multiple of `ahead`."""
        positions = torch.arange(start, start + self.ahead, device=seeds.device)
        noise = gumbel(seeds.repeat_interleave(self.ahead), positions.repeat(len(seeds)), self._table.shape[-1])
        self._table[slots] = noise.view(len(seeds), self.ahead, -1)

    def at(self, slots: Tensor, positions: Tensor) -> Tensor:
        """Noise of one position of each slot: slots [N], positions [N] → [N, V]."""
        return self._table[slots, positions % self.ahead]
