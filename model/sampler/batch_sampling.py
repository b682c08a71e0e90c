"""Guidance, filters and the Gumbel arg-max for many images at once, each with its own settings."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.device import upload
from model.params import SamplingParams
from model.sampling import keep_top_k, keep_top_p


@dataclass(frozen=True)
class Filter:
    """A combination of top_k and top_p, and the images of the batch that use it: `images` int64 [n]."""

    top_k: int
    top_p: float
    images: Tensor


@dataclass(frozen=True)
class BatchSettings:
    """Sampling settings of N images; operations without effect are left out.

    `guidance` and `temperature` are [N, 1] float32, `greedy` is [N, 1] bool. Greedy images have temperature 1 and
    get no noise. `temperature` is None when all are 1, `greedy` is None when no image is greedy.
    """

    guidance: Tensor
    temperature: Tensor | None
    greedy: Tensor | None
    filters: tuple[Filter, ...]

    @classmethod
    def of(cls, params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> "BatchSettings":
        """Build from the settings of each image."""
        images = defaultdict(list)
        for image, one in enumerate(params):
            top_k = one.top_k if one.top_k < vocabulary else 0
            if one.temperature > 0 and (top_k or one.top_p < 1):
                images[top_k, one.top_p].append(image)

        temperatures = [float(one.temperature or 1) for one in params]
        greedy = [one.temperature == 0 for one in params]
        return cls(
            upload([float(one.guidance_scale) for one in params], device)[:, None],
            upload(temperatures, device)[:, None] if set(temperatures) != {1.0} else None,
            upload(greedy, device)[:, None] if any(greedy) else None,
            tuple(Filter(k, p, upload(chosen, device)) for (k, p), chosen in images.items()),
        )


def guide_each(conditional: Tensor, unconditional: Tensor, settings: BatchSettings) -> Tensor:
    """Guided logits of N images, each equal to the result of `model.sampling.guide`.

    A non-finite logit in either input gives a non-finite guided logit.

    Args:
        conditional: logits [N, V], float32.
        unconditional: logits [N, V], float32; for an unguided image, its conditional logits.
        settings: of the N images.

    Returns:
        float32 [N, V].
    """
    return (conditional - unconditional).mul_(settings.guidance).add_(unconditional)


def filter_each(guided: Tensor, settings: BatchSettings) -> Tensor:
    """Filter guided logits [N, V] of N images, each as `model.sampling.filtered`; greedy ones are not filtered."""
    logits = guided if settings.temperature is None else guided / settings.temperature
    for one in settings.filters:
        all_images = len(one.images) == len(logits)
        chosen = logits if all_images else logits[one.images]
        kept = keep_top_p(keep_top_k(chosen, one.top_k), one.top_p)
        logits = kept if all_images else logits.index_copy(0, one.images, kept)
    return logits


def sample_each(logits: Tensor, settings: BatchSettings, noise: Tensor) -> Tensor:
    """Sample one code for each of N images, each equal to the result of `model.sampling.sample`.

    Args:
        logits: filtered [N, V], float32.
        settings: of the N images.
        noise: Gumbel noise [N, V].

    Returns:
        int64 [N].
    """
    noisy = logits + noise
    return (noisy if settings.greedy is None else torch.where(settings.greedy, logits, noisy)).argmax(-1)
