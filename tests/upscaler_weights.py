"""State dicts of small super-resolution networks, in the layouts that their authors save."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

StateDict = dict[str, Tensor]


def compact(
    *, scale: int = 2, seed: int | None = None, channels: int = 3, features: int = 8, convolutions: int = 3
) -> StateDict:
    """Real-ESRGAN's SRVGGNetCompact with random weights; without a seed, they are 0, and pixels are repeated."""
    widths = [channels, *[features] * (convolutions - 1), channels * scale**2]
    noise = torch.Generator().manual_seed(seed or 0)
    amount = 0.0 if seed is None else 0.3
    state: StateDict = {}
    for number, (before, after) in enumerate(pairwise(widths)):
        state[f"body.{2 * number}.weight"] = amount * torch.randn(after, before, 3, 3, generator=noise)
        state[f"body.{2 * number}.bias"] = amount * torch.randn(after, generator=noise)
        if number < convolutions - 1:
            state[f"body.{2 * number + 1}.weight"] = torch.full((after,), 0.1)  # slopes for negative features
    return state


def run_compact(state: StateDict, picture: Tensor) -> Tensor:
    """Enlarge a whole picture, [3, height, width], by a network of `compact`."""
    x = picture[None]
    last = max(int(name.split(".")[1]) for name in state)
    for number in range(0, last + 1, 2):
        x = F.conv2d(x, state[f"body.{number}.weight"], state[f"body.{number}.bias"], padding=1)
        if number < last:
            x = F.prelu(x, state[f"body.{number + 1}.weight"])
    scale = int((x.shape[1] / picture.shape[0]) ** 0.5)
    return (F.pixel_shuffle(x, scale) + F.interpolate(picture[None], scale_factor=scale))[0]


def esrgan_x2() -> StateDict:
    """RealESRGAN_x2plus with one block, which needs sides that are multiples of 4.

    It enlarges each pixel of an odd row and column to 4 × 4 pixels, and ignores the others.
    """
    state: StateDict = {}

    def add(name: str, after: int, before: int) -> Tensor:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(after, before, 3, 3), torch.zeros(after)
        return state[f"{name}.weight"]

    first = add("conv_first", 3, 12)
    for channel in range(3):
        first[channel, 4 * channel + 3, 1, 1] = 1  # of each 2 × 2 pixels, the last
    for block in (1, 2, 3):
        for number in range(1, 6):
            add(f"body.0.rdb{block}.conv{number}", 32 if number < 5 else 3, 3 + 32 * (number - 1))
    add("conv_body", 3, 3)
    for name in ("conv_up1", "conv_up2", "conv_hr", "conv_last"):
        weight = add(name, 3, 3)
        weight[range(3), range(3), 1, 1] = 1
    return state
