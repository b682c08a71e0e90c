"""The order in which numbered rows are visited, computed instead of stored."""

from math import gcd


def shuffled(position: int, count: int, *, seed: int = 0) -> int:
    """Row that is visited at a position: every row once in each pass over `count` rows.

    An affine permutation, another one in each pass; equal on every machine.
    """
    epoch, offset = divmod(position, count)
    stride = 7919 + 2 * epoch
    while gcd(stride, count) != 1:
        stride += 2
    return (offset * stride + epoch * 104_729 + seed * 15_485_863) % count
