"""Pictures without captions, for the image tokenizer."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pairs.layout import LARGE, Layout, Placed, place_board, places_beside, scatter
from pairs.render import render_layout
from pairs.scene import TONES
from pairs.world import sample_look, sample_sign

_TONE_WEIGHTS = (0.22, 0.38, 0.2, 0.2)  # night is the hardest to reconstruct


@dataclass(frozen=True)
class CrowdedPictures:
    """An endless list of pictures with two to six objects of any look before any background.

    Pictures that captions describe are mostly sky and rarely show stripes, even more rarely stripes at night. These
    train an image tokenizer several times faster. Held-out combinations occur in them too: the image tokenizer is a
    codec and learns no words; what is held out is the way from a caption to codes.
    """

    seed: int
    size: int

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture of a row: uint8 [size, size, 3]."""
        rng = np.random.default_rng([self.seed, index, 2])
        tone = TONES[rng.choice(len(TONES), p=_TONE_WEIGHTS)]
        board = None
        places = scatter(rng, int(rng.integers(2, 7)))
        if rng.random() < 0.3:
            high = bool(rng.random() < 0.7)
            board = place_board(sample_sign(rng), rng, high=high)
            beside = rng.permutation(places_beside(board)).tolist() if high else []
            places = list({x: (x, y, LARGE) for x, y in beside}.values())  # one on each side
        objects = []
        for x, y, radius in places:
            look = sample_look(rng)
            # no caption speaks of small objects that are outlined or striped
            objects.append(Placed(look if radius == LARGE else replace(look, fill="solid"), x, y, radius))
        return render_layout(Layout(tone, tuple(objects), board, index), self.size)
