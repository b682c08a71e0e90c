"""Parts that every generator is tested with."""

from collections.abc import Sequence

from bench.pictures.generator import Drawn, Generator
from bench.pictures.picture import Part, Picture

PICTURES = [
    Picture("a.png", "a blue star", (3,)),
    Picture("b.png", "a red circle", (3, 4, 5, 6)),
    Picture("c.png", "a red circle", (4,)),
]
PARTS = [Part(picture, number) for picture in PICTURES for number in range(len(picture.seeds))]


def drawn(generator: Generator, parts: Sequence[Part] = PARTS) -> dict[Part, Drawn]:
    found = {one.part: one for one in generator.draw(parts)}
    assert len(found) == len(parts)
    return found
