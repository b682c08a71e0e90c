"""Pictures without captions, to train the image tokenizer."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pairs.layout import LARGE, Layout, PlacedObject, place_board, places_beside, scatter
from pairs.render import render_layout
from pairs.scene import TONES
from pairs.world import sample_object, sample_sign

_TONE_WEIGHTS = (0.22, 0.38, 0.2, 0.2)  # night is the hardest to reconstruct


@dataclass(frozen=True)
class CrowdedPictures:
    """Endless list of pictures with up to six objects, or a sign and up to two, of any look before any background.

    An image tokenizer learns from them several times faster than from captioned pictures, which are mostly sky and
    rarely show stripes, least of all at night. They include held-out combinations: the image tokenizer is a codec and
    learns no words; the mapping from captions to codes is what is held out.
    """

    seed: int
    size: int

    def image(self, index: int) -> NDArray[np.uint8]:
        """Render the picture of a row: uint8 [size, size, 3]."""
        rng = np.random.default_rng([self.seed, index, 2])
        tone = TONES[rng.choice(len(TONES), p=_TONE_WEIGHTS)]
        board = None
        places = scatter(rng, int(rng.integers(2, 7)))
        if rng.random() < 0.3:
            high = bool(rng.random() < 0.7)
            board = place_board(sample_sign(rng), rng, high=high)
            beside = rng.permutation(places_beside(board)).tolist() if high else []
            places = list({x: (x, y, LARGE) for x, y in beside}.values())  # at most one per side
        objects = []
        for x, y, radius in places:
            look = sample_object(rng)
            # captions never describe small objects as outlined or striped
            objects.append(PlacedObject(look if radius == LARGE else replace(look, fill="solid"), x, y, radius))
        return render_layout(Layout(tone, tuple(objects), board, index), self.size)
