"""Counter-based Gumbel noise: the same on every device and in every batch."""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit words for each counter.

    Args:
        counter: four int64 tensors, broadcastable to one shape [...], values in [0, 2³²).
        key: two int64 tensors, as `counter`.

    Returns:
        int64 [..., 4], values in [0, 2³²).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    zero = torch.zeros_like(c0 + c1 + c2 + c3)  # broadcasts all four to one shape
    return torch.stack([word + zero for word in (c0, c1, c2, c3)], dim=-1)


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 × 32-bit product, computed in halves so that int64 never overflows."""
    low = a * (b & 0xFFFF)
    middle = a * (b >> 16) + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def gumbel(seeds: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise for one code of each of N images.

    The noise of code j at position t comes from word j mod 4 of counter t · ⌈V/4⌉ + j div 4, with the
    image's seed as key. It depends on nothing else.

    Args:
        seeds: int64 [N], 0 … 2⁵³ − 1.
        positions: int64 [N], index of the code in its image.
        vocabulary: V, the number of codes.

    Returns:
        float32 [N, V].
    """
    uniform = _uniform(seeds, positions, vocabulary)
    # clamped: the largest words round to 1, whose noise would be −∞, the same as a code that a filter dropped;
    # log1p keeps the precision of small numbers, which win the arg-max
    exponential = uniform.neg_().log1p_().clamp_(min=-32).neg_()
    return exponential.log_().neg_()


def _uniform(seeds: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Uniform numbers in (0, 1], float32 [N, V]; arguments as in `gumbel`."""
    blocks = -(-vocabulary // 4)
    zero = torch.zeros((), dtype=torch.int64, device=seeds.device)
    counter = positions[:, None] * blocks + torch.arange(blocks, device=seeds.device)[None]
    words = philox4x32((counter, zero, zero, zero), (seeds[:, None] & _MASK, seeds[:, None] >> 32))
    return (words.flatten(1)[:, :vocabulary].float() + 0.5) * 2.0**-32
