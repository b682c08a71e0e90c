"""A network applied to a picture tile by tile, which bounds its memory."""

from collections.abc import Callable

from torch import Tensor

TILE = 192  # pixels; with the overlap on both sides 256, a multiple of every common window of attention
OVERLAP = 32


def run_in_tiles(
    network: Callable[[Tensor], Tensor], picture: Tensor, *, scale: int, tile: int = TILE, overlap: int = OVERLAP
) -> Tensor:
    """Enlarge a picture by a network that sees at most `tile` + 2 · `overlap` pixels a side.

    Each tile is computed with what surrounds it, and cut to itself. If no output pixel depends on input more than
    `overlap` pixels away, the result is that of the whole picture.

    Args:
        network: from [channels, height, width] to `scale` times the height and width; its dtype is the result's.
        picture: [channels, height, width].
        scale: factor of the network.
        tile: side of the tiles in pixels of `picture`.
        overlap: pixels beyond each side of a tile.
    """
    _, height, width = picture.shape
    whole: Tensor | None = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, before = max(0, top - overlap), max(0, left - overlap)
            around = network(picture[:, above : top + tile + overlap, before : left + tile + overlap])
            if whole is None:
                whole = around.new_empty(around.shape[0], height * scale, width * scale)
            y, x = (top - above) * scale, (left - before) * scale
            own = around[:, y : y + tile * scale, x : x + tile * scale]
            target = whole[:, top * scale : (top + tile) * scale, left * scale : (left + tile) * scale]
            target.copy_(own)
    assert whole is not None, "the picture is empty"
    return whole
